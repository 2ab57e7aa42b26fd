"""COCO 2017 as it is published, packed for training.

The release is train2017.zip, val2017.zip and annotations_trainval2017.zip, or the folders that are in them; one part
may be a zip and another a folder. Images are read out of the zips; only the two instances JSON are extracted:

    <out>/annotations/instances_train2017.json   the original, which evaluation reads
    <out>/coco-train.array_record-...            see `shards`
"""

import fcntl
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dyhead_jax.data import coco_json
from dyhead_jax.data.encoded import EncodedImages, FolderImages
from dyhead_jax.data.packing.records import SplitRecords
from dyhead_jax.data.packing.shards import IMAGES_PER_SHARD, pack
from dyhead_jax.data.source import DataError
from dyhead_jax.files import atomic

SPLITS = {"train": "train2017", "validation": "val2017"}  # tfds' names of the splits, and COCO's
MAX_BYTES = 2**28  # of an image file in a zip; a larger one is no photograph


@dataclass(frozen=True, slots=True)
class Count:
    """What a prepared split holds. resumed: how many of its images an earlier start had packed."""

    images: int
    boxes: int
    resumed: int


def prepare_coco(source: Path, out: Path, *, images_per_shard: int = IMAGES_PER_SHARD) -> dict[str, Count]:
    """Packs COCO 2017 from the folder `source` (see `Release`) into the folder `out`; returns the counts by split.

    Goes on where an interrupted call stopped; a finished `out` is only counted. Raises DataError when files are
    missing or broken, when `out` was begun from other annotations, or when another process is preparing it.
    """
    if not source.is_dir():
        raise DataError(f"{source} is not a folder")
    annotations = out / "annotations"
    try:
        annotations.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}") from error
    with _locked(out):
        release = Release(source)
        indexes, records = {}, {}
        for split, name in SPLITS.items():
            path = annotations / f"instances_{name}.json"
            _copy_annotations(release, split, path)
            indexes[split] = coco_json.load(path)
        class_names = indexes["train"].class_names
        if indexes["validation"].class_names != class_names:
            raise DataError(f"{annotations}: the two files have different categories")
        for split, index in indexes.items():
            records[split] = SplitRecords(index, release.images(split, index.file_names))
        resumed = pack(
            out,
            "coco",
            records,
            class_names,
            version="1.1.0",
            images_per_shard=images_per_shard,
            description="COCO 2017 detection; object areas and boxes also as in the JSON, sizes beside the images.",
            homepage="https://cocodataset.org",
        )
    return {split: Count(len(own), own.box_count, resumed[split]) for split, own in records.items()}


def _copy_annotations(release: "Release", split: str, path: Path) -> None:
    """Copies the JSON to `path`; a file that is there from an earlier start must be the same."""
    with atomic(path) as temporary:
        release.copy_annotations(split, temporary)
        if path.exists() and path.read_bytes() != temporary.read_bytes():
            raise DataError(f"{path} differs from the source's; {path.parent.parent} was begun from other annotations")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Lets one process at a time prepare `out`. The lock ends with the process, however that ends."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{out}: another process is preparing this folder") from error
        yield


class ZipImages:
    """The `EncodedImages` of a zip file. names: n members of it. Raises DataError for one that is missing."""

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
    """The release in a folder: the zips, or what is in them."""

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
    """Opens a zip. Raises DataError when it is missing or no zip, as after a download that was cut off."""
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is not a whole zip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


_BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error)
