"""A folder for the modules that a page shows."""

import sys

import pytest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder in which a page's own modules are found, and from which they are forgotten."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]
