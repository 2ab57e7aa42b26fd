"""`make install` tells at once when Python is too old or absent."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def install(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return subprocess.run(["make", "install", f"PYTHON={python}"], cwd=folder, capture_output=True, text=True)


def test_an_old_python_is_named(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.18 && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = install(tmp_path, str(old))
    assert done.returncode != 0
    assert f"error: Python 3.11 or newer is needed; '{old}' is Python 3.9.18." in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_absent_python_is_named(tmp_path):
    done = install(tmp_path, "no-such-python")
    assert done.returncode != 0
    assert "error: Python 3.11 or newer is needed; 'no-such-python' is" in done.stderr
