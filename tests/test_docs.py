"""Every path that the README, the docs, docstrings and comments name exists, and every link leads to a file."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [p for d in ("dyhead_jax", "configs", "benchmarks") for p in sorted((ROOT / d).rglob("*.py"))]
PATH = re.compile(r"(?<![\w/.-])(?:dyhead_jax|tests|configs|benchmarks|docs)/[\w/.-]*\w(?:/(?![\w*{<]))?")


LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def missing(text: str) -> list[str]:
    found = {match[0].rstrip("./") for match in PATH.finditer(text)}
    return sorted(name for name in found if "FILE" not in name and not list(ROOT.glob(f"{name}*")))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_of_a_page_exist(page):
    assert missing(page.read_text()) == []


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "examples/fork/README.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_of_a_page_lead_to_files(page):
    assert [link for link in LINK.findall(page.read_text()) if not (page.parent / link).is_file()] == []


def test_paths_in_the_code_exist():
    assert {str(path.relative_to(ROOT)): gone for path in SOURCES if (gone := missing(path.read_text()))} == {}


def test_the_tests_that_hold_the_promises_are_there():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "promises.md").read_text())
    assert len(named) > 20
    assert [(file, test) for file, test in named if f"def {test}(" not in (ROOT / file).read_text()] == []
