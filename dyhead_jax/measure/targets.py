"""Refuses, before the work, files and folders that could not be written after it."""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from dyhead_jax.command import UsageError, one_line

FILES = ("json", "plot", "out", "write", "keep")  # options that name a file to write
PICTURES = (".png", ".svg", ".pdf")


def check(options: argparse.Namespace) -> None:
    """Raises UsageError for a file of an option in FILES, or a folder of --trace, that cannot be written.

    Makes the folder of --trace; nothing else is left behind.
    """
    given = {name: getattr(options, name, None) for name in (*FILES, "trace")}
    paths = {f"--{name}={path}": path for name, path in given.items() if path is not None}
    if given["plot"] is not None and given["plot"].suffix.lower() not in PICTURES:
        raise UsageError(f"--plot={given['plot']}: the name must end with {', '.join(PICTURES)}")
    places = [path.resolve() for path in paths.values()]
    for option, path in paths.items():
        if places.count(path.resolve()) > 1:
            raise UsageError(f"{option}: another option names the same place")
        _attempt(option, path, _try_folder if path is given["trace"] else _try_file)


def _attempt(option: str, path: Path, attempt: Callable[[Path], None]) -> None:
    try:
        attempt(path)
    except OSError as error:
        raise UsageError(f"{option} cannot be written: {error.strerror or one_line(error)}") from error


def _try_file(path: Path) -> None:
    """A new file is written beside `path` and then takes its place (`files.atomic`), so the folder counts."""
    if path.is_dir():
        raise IsADirectoryError(None, "it is a folder")
    if not path.parent.is_dir():
        raise NotADirectoryError(None, f"there is no folder {path.parent}")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".tmp")
    os.close(handle)
    os.unlink(name)


def _try_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass
