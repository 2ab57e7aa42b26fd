"""COCO 2017 as it is published: train2017.zip, val2017.zip and annotations_trainval2017.zip, or what is in them.

A part may be a folder and another a zip. Nothing is extracted but the two instances JSON.
"""

import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from dyhead_jax.data.encoded import EncodedImages, FolderImages
from dyhead_jax.data.source import DataError

SPLITS = {"train": "train2017", "validation": "val2017"}  # tfds' names of the splits, and COCO's
MAX_BYTES = 2**28  # of an image file in a zip; a larger one is no photograph


class ZipImages:
    """`EncodedImages` out of a zip file. names: of its members, (n). Raises DataError for one that is missing."""

    def __init__(self, path: Path, names: list[str]):
        self._path = path
        self._names = names
        self._zip = open_zip(path)
        present = set(self._zip.namelist())
        for name in names:
            if name not in present:
                raise DataError(f"{path} has no {name}, which the annotations name")

    def read(self, index: int) -> bytes:
        name = self._names[index]
        if self._zip.getinfo(name).file_size > MAX_BYTES:
            raise DataError(f"{self.name(index)} has more than {MAX_BYTES} bytes")
        try:
            return self._zip.read(name)
        except _BROKEN as error:
            raise DataError(f"{self.name(index)} is broken: {error}") from error

    def name(self, index: int) -> str:
        return f"{self._path}: {self._names[index]}"


@dataclass(frozen=True, slots=True)
class Release:
    """The folder that has the zips or what is in them."""

    folder: Path

    def copy_annotations(self, split: str, target: Path) -> None:
        """Writes the split's instances JSON, byte for byte, to the file `target`. Raises DataError."""
        name = f"annotations/instances_{SPLITS[split]}.json"
        unpacked, zipped = self.folder / name, self.folder / "annotations_trainval2017.zip"
        if unpacked.is_file():
            shutil.copyfile(unpacked, target)
            return
        if not zipped.is_file():
            raise DataError(f"{self.folder} has neither {name} nor {zipped.name}")
        with open_zip(zipped) as archive:
            try:
                with archive.open(name) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, 2**20)
            except KeyError as error:
                raise DataError(f"{zipped} has no {name}") from error
            except _BROKEN as error:
                raise DataError(f"{zipped}: {name} is broken: {error}") from error

    def images(self, split: str, file_names: list[str]) -> EncodedImages:
        """The split's encoded images, by row of `file_names`. Raises DataError."""
        name = SPLITS[split]
        unpacked, zipped = self.folder / name, self.folder / f"{name}.zip"
        if unpacked.is_dir():
            return FolderImages(unpacked, file_names)
        if not zipped.is_file():
            raise DataError(f"{self.folder} has neither {name}/ nor {zipped.name}")
        return ZipImages(zipped, [f"{name}/{file_name}" for file_name in file_names])


def open_zip(path: Path) -> zipfile.ZipFile:
    """Raises DataError when the file is missing or no zip, as after a download that was cut off."""
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is not a whole zip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


_BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error)
