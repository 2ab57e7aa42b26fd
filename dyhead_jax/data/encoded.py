"""Where encoded images come from."""

import sys
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from dyhead_jax.data import images
from dyhead_jax.data.annotations import collected
from dyhead_jax.data.images import Header
from dyhead_jax.data.source import DataError


class EncodedImages(Protocol):
    """The encoded images of a split, by row. Picklable."""

    def read(self, index: int) -> bytes:
        """The encoded image of row `index`. Raises DataError when it cannot be read."""
        ...

    def name(self, index: int) -> str:
        """What an error message calls that image."""
        ...


class FolderImages:
    """Image files in a folder. file_names: n, relative to it."""

    def __init__(self, folder: Path, file_names: list[str]):
        self._folder = folder
        self._file_names = file_names

    def read(self, index: int) -> bytes:
        try:
            return images.read_file(self._folder / self._file_names[index])
        except OSError as error:
            raise DataError(f"{self.name(index)} cannot be read: {error.strerror}") from error

    def name(self, index: int) -> str:
        return str(self._folder / self._file_names[index])

    def headers(self, named_in: Path, errors: list[str] | None = None) -> list[Header | None]:
        """The header of each, with a progress bar if that takes long.

        errors: takes one line for each file without one, for which the list then has None. Without it, raises DataError
        as `header_of` does.
        """
        rows, quiet = range(len(self._file_names)), not sys.stderr.isatty()
        found: list[Header | None] = [None] * len(rows)
        for row in tqdm(rows, "sizes", unit="image", delay=2, disable=quiet):
            with collected(errors):
                found[row] = header_of(self._folder / self._file_names[row], named_in)
        return found

    def stamps(self) -> list[tuple[int, int, int]]:
        """Of each file its size in bytes and the times of the last change of its content and of its inode in
        nanoseconds, without reading it. Tools that copy can set the first time back, but not the second.

        Raises DataError for a file that is missing.
        """
        return [self._stamp(row) for row in range(len(self._file_names))]

    def _stamp(self, index: int) -> tuple[int, int, int]:
        try:
            status = (self._folder / self._file_names[index]).stat()
        except OSError as error:
            raise DataError(f"{self.name(index)} cannot be read: {error.strerror}") from error
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def header_of(path: Path, named_in: Path) -> Header:
    """The header of an image file. Raises DataError, which says that `named_in` names it."""
    try:
        with images.open_file(path) as file:
            return images.header(file, str(path))
    except OSError as error:
        raise DataError(f"{path}, named in {named_in}, cannot be read: {error.strerror}") from error
