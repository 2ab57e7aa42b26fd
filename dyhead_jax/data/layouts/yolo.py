"""YOLO labels: a text file for each image with a line `class cx cy w h` for each box, as fractions of the image.

Format: https://docs.ultralytics.com/datasets/detect. A line of a class and a polygon (segmentation labels) gives the
box around the polygon. Category ids are the class numbers of the label files, from 0. A class number counts through the
names of data.yaml, classes.txt or obj.names.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dyhead_jax.data import images
from dyhead_jax.data.annotations import Annotation, ImageRecord, Records, collected
from dyhead_jax.data.layouts import parts
from dyhead_jax.data.layouts.parts import Found, Tree
from dyhead_jax.data.source import DataError

KIND = "YOLO labels"
NAME_FILES = ("classes.txt", "obj.names", "names.txt", "classes.names")
_LABELS = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}


@dataclass(frozen=True, slots=True)
class YoloPart:
    """A part with YOLO labels.

    path: what an error calls it; folder: where the images are; names: relative to it; labels: the file of each, None
    where it has none; classes: names by class number; keypoints: lines go on after the box (pose labels).
    """

    path: Path
    folder: Path
    names: tuple[str, ...]
    labels: tuple[Path | None, ...]
    classes: dict[int, str]
    keypoints: bool = False

    def read(self, limit: int, errors: list[str] | None = None) -> Found:
        """See `parts.Part.read`."""
        names = self.names[: limit or None]
        annotations, polygons, unlabelled = [], 0, 0
        for row, label in enumerate(self.labels[: len(names)]):
            unlabelled += label is None
            boxes = []
            with collected(errors):
                boxes = read_labels(label, self.classes, self.keypoints) if label else []
            for category, box, polygon in boxes:
                annotations.append(Annotation(len(annotations) + 1, row + 1, category, box, None, False))
                polygons += polygon
        if unlabelled == len(names) and names:
            raise DataError(f"{self.path}: not one of {len(names)} images has a label file, such as {self._wanted()}")
        notes = [f"{unlabelled} images have no label file: taken as images without boxes"] if unlabelled else []
        notes += [f"{polygons} polygons became their boxes"] if polygons else []
        images = [ImageRecord(row + 1, name) for row, name in enumerate(names)]
        return Found(Records(self.path, self.classes, images, annotations, True, notes), images, self.folder)

    def _wanted(self) -> str:
        return str(self.folder / label_names(self.names[0])[0])


def read_labels(
    path: Path, classes: dict[int, str], keypoints: bool = False
) -> list[tuple[int, tuple[float, float, float, float], bool]]:
    """The boxes of a label file: (class number, (x, y, w, h) as fractions of the image, whether from a polygon).

    keypoints: only the first five values of a line are read. Raises DataError, which names file and line, for a line
    that is neither a box nor a polygon, a number that is not finite or not a fraction, and an unknown class.
    """
    boxes = []
    for number, line in enumerate(read_lines(path), 1):
        words = line.split()[:5] if keypoints else line.split()
        if not words:
            continue
        where = f"{path}, line {number}"
        try:
            values = [float(word) for word in words]
        except ValueError:
            raise DataError(f"{where}: {line[:60]!r} is not all numbers; a line is: class cx cy w h") from None
        polygon = len(values) >= 7 and len(values) % 2 == 1
        if len(values) != 5 and not polygon:
            raise DataError(f"{where} has {len(values)} values; a box is: class cx cy w h, a polygon: class x1 y1 ...")
        category, numbers = values[0], values[1:]
        if category not in classes:  # also for a fraction or a NaN
            raise DataError(f"{where}: there is no class {words[0]}, but {len(classes)}, {_range(classes)}")
        if not all(math.isfinite(value) and -0.5 <= value <= 1.5 for value in numbers):
            raise DataError(f"{where}: {line[:60]!r} is not in fractions of the image, from 0 to 1")
        if polygon:
            x, y = min(numbers[::2]), min(numbers[1::2])
            box = x, y, max(numbers[::2]) - x, max(numbers[1::2]) - y
        else:
            cx, cy, w, h = numbers
            box = cx - w / 2, cy - h / 2, w, h
        boxes.append((int(category), box, polygon))
    return boxes


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, with any line ends, with or without a byte order mark. Raises DataError."""
    try:
        # str.splitlines would divide names at other characters too
        return re.split("\r\n|\r|\n", images.read_file(path).decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def label_names(name: str) -> tuple[str, ...]:
    """Where the labels of an image may be: labels/... for images/..., then beside it."""
    path = PurePosixPath(name)
    beside = path.with_suffix(".txt").as_posix()
    folders = [i for i, part in enumerate(path.parts[:-1]) if part in _LABELS]
    if not folders:
        return (beside,)
    swapped = list(PurePosixPath(beside).parts)
    swapped[folders[-1]] = _LABELS[swapped[folders[-1]]]
    return "/".join(swapped), beside


def part(path: Path, tree: Tree, names: Sequence[str], classes: dict[int, str], keypoints: bool = False) -> YoloPart:
    """The part of these images of a tree, each with its label file. path: what an error calls it."""
    there = set(tree.names)
    found = [next((label for label in label_names(name) if label in there), None) for name in names]
    labels = tuple(tree.root / label if label else None for label in found)
    return YoloPart(path, tree.root, tuple(names), labels, classes, keypoints)


def unmatched(tree: Tree, made: Mapping[str, YoloPart]) -> list[str]:
    """A note on the text files beside the label files of some parts that belong to none of their images."""
    used = {label for own in made.values() for label in own.labels if label}
    folders = {label.parent for label in used}
    others = [tree.root / name for name in tree.with_suffix(".txt") if tree.root / name not in used]
    count = sum(
        path.parent in folders and path.name.lower() not in NAME_FILES and _looks_like_labels(path) for path in others
    )
    return [f"{count} label files have no image and are not used"] if count else []


def labelled(tree: Tree) -> list[str]:
    """The images of a tree that have a label file."""
    there = set(tree.with_suffix(".txt"))
    return [name for name in tree.with_suffix(*images.SUFFIXES) if there.intersection(label_names(name))]


def class_names(tree: Tree, given: Sequence[str]) -> tuple[dict[int, str], str]:
    """Names by class number, those given or those of a file of NAME_FILES, and where they were found.

    Raises DataError when there are none, or several files that differ.
    """
    if given:
        return dict(enumerate(given)), "config.data.source.class_names"
    files = [name for name in tree.names if PurePosixPath(name).name.lower() in NAME_FILES]
    found = {name: [line.strip() for line in read_lines(tree.root / name) if line.strip()] for name in files}
    found = {name: names for name, names in found.items() if names}
    if not found:
        raise DataError(
            f"{tree.root} has YOLO labels, but no data.yaml, {', '.join(NAME_FILES[:2])} that names the classes; add"
            " classes.txt with a name on each line, or set config.data.source.class_names"
        )
    first, *others = found
    for other in others:
        if found[other] != found[first]:
            raise DataError(f"{tree.root}: {first} and {other} name different classes; remove the wrong one")
    return dict(enumerate(found[first])), first


def listed(tree: Tree, file: str, bases: Sequence[str] = ("",)) -> list[str]:
    """The images that a list (train.txt) names, one a line, relative to the list, to one of the folders `bases`, or
    absolute, and in the tree in any case. Raises DataError, which names file and line, for another."""
    there, found = set(tree.names), []
    for number, line in enumerate(read_lines(tree.root / file), 1):
        if not (line := line.strip()):
            continue
        shortened = line.removeprefix("data/")  # CVAT writes paths of a folder above
        options = [(base, text) for text in (line, shortened) for base in (str(PurePosixPath(file).parent), *bases)]
        names = [parts.below(tree.root, base, text) for base, text in options]
        name = next((name for name in names if name in there), None)
        if name is None:
            raise DataError(
                f"{tree.root / file}, line {number}: {line!r} is not an image in {tree.root}; write paths relative to"
                " the list, or set config.data.root to a folder that holds the list and the images"
            )
        found.append(name)
    return found


def _looks_like_labels(path: Path) -> bool:
    """Whether the first line begins with a number, as it does not in a list or a read-me."""
    with images.open_file(path) as file:
        return re.match(rb"(\xef\xbb\xbf)?\d+[ \t]", file.readline(200)) is not None


def _range(classes: dict[int, str]) -> str:
    return f"numbered {min(classes)} to {max(classes)}"
