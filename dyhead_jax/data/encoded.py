"""Where encoded images come from."""

from pathlib import Path
from typing import Protocol

from dyhead_jax.data.source import DataError


class EncodedImages(Protocol):
    """Where a split's image files come from. Picklable."""

    def read(self, index: int) -> bytes:
        """The encoded image of row `index`."""
        ...

    def name(self, index: int) -> str:
        """What an error message calls that image."""
        ...


class FolderImages:
    """Image files in a folder. file_names: relative to it."""

    def __init__(self, folder: Path, file_names: list[str]):
        self._folder = folder
        self._file_names = file_names

    def read(self, index: int) -> bytes:
        try:
            return (self._folder / self._file_names[index]).read_bytes()
        except OSError as error:
            raise DataError(f"{self.name(index)} cannot be read: {error.strerror}") from error

    def name(self, index: int) -> str:
        return str(self._folder / self._file_names[index])
