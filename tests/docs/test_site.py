"""The site builds without a warning, has every page in its navigation, and a page for each room of the package."""

import importlib.util
import os
import subprocess
import sys

import pytest
import yaml

from tests.docs import pages
from tests.test_rooms import FILES, room


def listed(entry):
    """The pages below an entry of the navigation."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in entry for page in listed(part)] if isinstance(entry, list) else listed([*entry.values()])


def test_every_page_is_in_the_navigation():
    nav = yaml.safe_load((pages.ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(listed(nav)) == [page.name for page in pages.PAGES]


@pytest.mark.long
@pytest.mark.skipif(
    not (importlib.util.find_spec("mkdocs") and importlib.util.find_spec("mkdocstrings")),
    reason="the extra `docs` (MkDocs) is not installed",
)
def test_it_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # the theme's word on its successor
    options = {"cwd": pages.ROOT, "env": environment, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run(command, check=False, **options)
    assert done.returncode == 0, done.stderr  # strict: no warning either
    rooms = {room(module) for module, path in FILES.items() if path.parent != pages.ROOT / "dyhead_jax"}
    for name in rooms:
        text = (tmp_path / "site" / "api" / f"{name}.html").read_text()
        assert f'id="dyhead_jax.{name}' in text, name
    assert "https://fonts" not in (tmp_path / "site" / "index.html").read_text()
