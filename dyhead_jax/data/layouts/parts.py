"""The parts of a data set: which folder, file or image is for training and which for validation."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

import numpy as np

from dyhead_jax import command
from dyhead_jax.data.annotations import ImageRecord, Records
from dyhead_jax.data.source import DataError

T = TypeVar("T")
_WORD = "(?:(?P<train>train(?:ing)?)|(?P<val>val(?:id(?:ation)?)?)|(?P<test>test(?:ing)?))"
_FOLDER = f"{_WORD}[-_ ]?[0-9]*"
_IMAGE_FOLDERS = ("images", "jpegimages")


@dataclass(slots=True)
class Found:
    """A part as it was read: the images that were asked for, in the order of the part, their folder, and the records
    that describe them, among others."""

    records: Records
    images: Sequence[ImageRecord]
    folder: Path


class Part(Protocol):
    """The training or the validation part. Picklable."""

    def read(self, limit: int, errors: list[str] | None = None) -> Found:
        """Reads the annotations of the first `limit` images, 0 for all.

        errors: takes one line for each faulty record, which is then left out; without it a DataError is raised.
        """
        ...


@dataclass(slots=True)
class Layout:
    """What was found. kind: in words; where: the files that told; parts: "train" and, unless none is wanted, "val";
    notes: one line for each thing that is not used."""

    kind: str
    where: str
    parts: Mapping[str, Part]
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Tree:
    """All files under a folder. names: relative, with "/", sorted; hidden files and folders are not among them."""

    root: Path
    names: list[str]

    def with_suffix(self, *suffixes: str) -> list[str]:
        """The names that end in one of the suffixes (".xml"), in upper or lower case."""
        return [name for name in self.names if name.lower().endswith(suffixes)]


def walk(root: Path) -> Tree:
    """The files under `root`, through links too, each folder once.

    Raises DataError when there is no such folder, and for one below it that cannot be read.
    """

    def unreadable(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error

    if not root.is_dir():
        raise DataError(f"the data folder {root} does not exist")
    names, seen = [], set()
    for folder, folders, files in os.walk(root, onerror=unreadable, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()  # a link back would have no end
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = Path(folder).relative_to(root)
        names += [(base / name).as_posix() for name in files if not name.startswith(".")]
    return Tree(root, sorted(names))


def of_file(name: str) -> str | None:
    """ "train", "val" or "test" if a file's name says so as a word: instances_train2017.json."""
    match = re.search(f"(?<![a-z]){_WORD}(?![a-z])", PurePosixPath(name).stem.lower())
    return match.lastgroup if match else None


def of_folders(name: str) -> str | None:
    """ "train", "val" or "test" by the first folder of a path that is called so: images/train2017/1.jpg."""
    for folder in PurePosixPath(name).parts[:-1]:
        if match := re.fullmatch(_FOLDER, folder.lower()):
            return match.lastgroup
    return None


def unread(kind: str, names: Collection[str]) -> list[str]:
    """A note on the files of a kind that no part is made of."""
    first = ", ".join(map(command.one_line, sorted(names)[:8]))
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return [f"{kind} files that are not read: {first}{more}"] if names else []


def choose(found: Mapping[str, T]) -> tuple[dict[str, T], list[str]]:
    """Of what there is for "train", "val" and "test", what to train on and to validate with, and notes.

    Without "val", "test" is used to validate. A single one, whatever its name, is "train" alone, to be divided.
    """
    if len(found) == 1:
        return {"train": next(iter(found.values()))}, []
    if "train" not in found:
        raise DataError(f"there are parts named {', '.join(found)} but none named train")
    if "val" not in found:
        return {"train": found["train"], "val": found["test"]}, ["there is no validation part; the test part is used"]
    notes = ["the test part is not used"] if "test" in found else []
    return {name: found[name] for name in ("train", "val")}, notes


def by_folders(names: Sequence[str], root: Path) -> dict[str, list[str]]:
    """File names by the part that their folders name; all in "train" when none does. Raises DataError for a mixture."""
    found: dict[str | None, list[str]] = {}
    for name in names:
        found.setdefault(of_folders(name), []).append(name)
    if None in found and len(found) > 1:
        named = next(own[0] for part, own in found.items() if part)
        raise DataError(
            f"{root}: {named} lies in a folder named for training or validation, but {found[None][0]} does not; move"
            " all into such folders, or none"
        )
    return {part or "train": own for part, own in found.items()}


def divide(found: Mapping[str, Sequence[str]], fraction: float) -> tuple[dict[str, list[str]], list[str]]:
    """File names of "train" and "val", and notes. Those of "train" are divided (see `held_out`) if there is no "val"
    and the fraction is above 0; images that are in both are counted."""
    if "val" in found:
        both = len(set(found["train"]).intersection(found["val"]))
        notes = [f"{both} images are both to train on and to validate with"] if both else []
        return {name: list(own) for name, own in found.items()}, notes
    (names,) = found.values()
    if not fraction:
        return {"train": list(names)}, []
    chosen = held_out(names, fraction)
    own = {"train": ~chosen, "val": chosen}
    return {part: [name for name, own in zip(names, rows, strict=True) if own] for part, rows in own.items()}, []


def below(root: Path, base: str, name: str) -> str | None:
    """The path `name` of the folder `base`, each absolute or relative to what is before, as one relative to `root`;
    None when it is not in `root`."""
    path = os.path.normpath(root.absolute() / base / name.replace("\\", "/"))
    for top in (os.path.normpath(root.absolute()), os.path.realpath(root)):
        if Path(path).is_relative_to(top):
            return Path(path).relative_to(top).as_posix()
    return None


def held_out(names: Sequence[str], fraction: float) -> np.ndarray:
    """(n,) bool, True for the images to validate with, about `fraction` of them and at least one of several.

    Each image is chosen by a hash of its own name below the folder of images or of a part, so that a copy of the folder
    is divided in the same way, and pictures that are added change nothing for the others. Versions of one picture that
    Roboflow made (a_jpg.rf.<hash>.jpg) stay together.
    """
    places = np.array([_place(name) for name in names])
    chosen = places < fraction
    if len(set(places)) > 1 and fraction > 0:  # of few images a fraction may choose none, or all
        chosen |= (places == places.min()) & ~chosen.any()
        chosen &= (places != places.max()) | ~chosen.all()
    return chosen


def _place(name: str) -> float:
    parts = PurePosixPath(name).parts
    known = [part.lower() in _IMAGE_FOLDERS or re.fullmatch(_FOLDER, part.lower()) is not None for part in parts[:-1]]
    start = max((i + 1 for i in range(len(known)) if known[i]), default=0)
    key = unicodedata.normalize("NFC", "/".join(parts[start:]))  # macOS writes names decomposed
    key = re.sub(r"\.rf\.[0-9A-Za-z]+(?=\.[^.]+$)", "", key)
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
