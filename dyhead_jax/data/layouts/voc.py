"""Pascal VOC: an XML for each image with its boxes; lists in ImageSets/Main say which images make up which part.

Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc. Corners in the files are pixels counted from 1, the last
one included: x1 = xmin - 1, y1 = ymin - 1, x2 = xmax, y2 = ymax in continuous coordinates. Boxes marked `difficult`
become crowd: they do not train, as in mmdetection, and a detection of one is neither right nor wrong, as in VOC's own
evaluation; so do those marked `ignore`. CVAT's attribute `rotation` (clockwise degrees) makes a box the one around it.
Category ids count from 1 through the names of all parts, sorted. Boxes of an object's parts are not read.
"""

import math
import xml.parsers.expat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from dyhead_jax.data import coco_json, images
from dyhead_jax.data.annotations import Annotation, ImageRecord, Records, collected
from dyhead_jax.data.json_file import is_number
from dyhead_jax.data.layouts import parts, yolo
from dyhead_jax.data.layouts.parts import Found, Layout, Tree
from dyhead_jax.data.source import DataError

KIND = "Pascal VOC"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


_NOTES = {
    "difficult": "difficult boxes do not train, and count neither way in evaluation (as crowd)",
    "ignore": "boxes marked <ignore> do not train, and count neither way in evaluation (as crowd)",
    "turned": "turned boxes (the attribute rotation) became the boxes around them",
    "parts": "parts of objects are not used",
}


@dataclass(slots=True, frozen=True)
class VocBox:
    """name: of the class; box: x, y, width, height in continuous pixels; reason: why it is crowd, a key of _NOTES, or
    ""; turned: whether it is the box around a turned one."""

    name: str
    box: tuple[float, float, float, float]
    reason: str
    turned: bool


@dataclass(slots=True, frozen=True)
class VocFile:
    """What an XML says. file_name, "" for none; declared: (height, width), None for none; parts: how many parts its
    objects have."""

    file_name: str
    declared: tuple[int, int] | None
    boxes: tuple[VocBox, ...]
    parts: int


@dataclass(frozen=True, slots=True)
class VocPart:
    """A part with an XML for each image. path: what an error calls it; folder: where the images are; names: relative to
    it; files: the XML of each; classes: names by category id."""

    path: Path
    folder: Path
    names: tuple[str, ...]
    files: tuple[Path, ...]
    classes: dict[int, str]

    def read(self, limit: int, errors: list[str] | None = None) -> Found:
        """See `parts.Part.read`."""
        names = self.names[: limit or None]
        ids = {name: category for category, name in self.classes.items()}
        images, annotations, counts = [], [], Counter()
        for row, (name, path) in enumerate(zip(names, self.files, strict=False)):
            content = None
            with collected(errors):
                content = read(path)
            images.append(ImageRecord(row + 1, name, content.declared if content else None))
            for entry in content.boxes if content else ():
                if entry.name not in ids:
                    message = f"{path} has changed: there was no class {entry.name!r} when the data set was opened"
                    raise DataError(message)
                number = len(annotations) + 1
                annotations.append(Annotation(number, row + 1, ids[entry.name], entry.box, None, bool(entry.reason)))
                counts[entry.reason] += 1
                counts["turned"] += entry.turned
            counts["parts"] += content.parts if content else 0
        notes = [f"{counts[kind]} {text}" for kind, text in _NOTES.items() if counts[kind]]
        return Found(Records(self.path, self.classes, images, annotations, notes=notes), images, self.folder)


def read(path: Path) -> VocFile:
    """Reads an XML. Raises DataError, which names the file and the object at fault."""
    root = _tree(path)
    if root.tag != "annotation":
        raise DataError(f"{path}: its root is <{root.tag}>; in Pascal VOC it is <annotation>")
    boxes = []
    elements = root.findall("object")
    if (count := sum(1 for _ in root.iter("object"))) > len(elements):
        raise DataError(f"{path}: {count - len(elements)} <object> are not directly below <annotation>")
    for number, element in enumerate(elements, 1):
        where = f"{path}: object {number}"
        name = (element.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{where} has no <name>")
        corners = element.find("bndbox")
        if corners is None:
            raise DataError(f"{where} ({name}) has no <bndbox>")
        x1, y1, x2, y2 = (_number(where, corners, key) for key in _CORNERS)
        box = x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1
        angle = _rotation(where, element)
        reason = next((key for key in ("difficult", "ignore") if _is_true(where, element, key)), "")
        boxes.append(VocBox(name, coco_json.around(*box, angle) if angle % 180 else box, reason, angle % 180 != 0))
    height, width = (_whole(root.findtext(f"size/{key}")) for key in ("height", "width"))
    # LabelImg writes 0 x 0 for an image that it could not read.
    declared = (height, width) if height and width else None
    count = sum(len(element.findall("part")) for element in elements)
    return VocFile((root.findtext("filename") or "").strip(), declared, tuple(boxes), count)


def candidates(tree: Tree) -> list[str]:
    """The XML files of a tree, those under a folder Annotations if there is one."""
    names = tree.with_suffix(".xml")
    below = [name for name in names if "annotations" in (part.lower() for part in PurePosixPath(name).parts[:-1])]
    return below or [name for name in names if _is_voc(tree, name)]


def layout(tree: Tree, files: Sequence[str], val_fraction: float, image_tree: Tree | None = None) -> Layout:
    """The layout of these XML files.

    image_tree: where the images are, if not in the same tree. Raises DataError.
    """
    pictures = image_tree or tree
    stems: dict[str, list[str]] = {}
    for name in pictures.with_suffix(*images.SUFFIXES):
        stems.setdefault(PurePosixPath(name).stem, []).append(name)
    lists = _lists(tree, files)
    found = lists or parts.by_folders(files, tree.root)
    chosen, notes = parts.choose(found)
    contents = {file: read(tree.root / file) for own in chosen.values() for file in own}
    image_of = {file: _image(tree, pictures, stems, file, content.file_name) for file, content in contents.items()}
    divided, more = parts.divide({name: [image_of[file] for file in own] for name, own in chosen.items()}, val_fraction)
    file_of = {image: tree.root / file for file, image in image_of.items()}
    labels = sorted({box.name for content in contents.values() for box in content.boxes})
    if not labels:
        raise DataError(f"{tree.root}: none of {len(contents)} XML files has an object")
    classes = dict(enumerate(labels, 1))
    made = {
        name: VocPart(tree.root, pictures.root, tuple(own), tuple(file_of[image] for image in own), classes)
        for name, own in divided.items()
    }
    without = len(pictures.with_suffix(*images.SUFFIXES)) - len(files)
    if without > 0 and not lists:
        more.append(f"{without} images have no XML and are not used")
    more += parts.unread("XML", set(tree.with_suffix(".xml")).difference(files))
    if unlisted := len(set(files).difference(*lists.values())) if lists else 0:
        more.append(f"{unlisted} XML files are in no list and are not used")
    where = f"{PurePosixPath(files[0]).parent}/*.xml".removeprefix("./")
    return Layout(KIND, f"{where}, ImageSets" if lists else where, made, notes + more)


def _lists(tree: Tree, files: Sequence[str]) -> dict[str, list[str]]:
    """The XML files of each part by the lists: train and val, or trainval and test; {} without lists."""
    there = {PurePosixPath(name).with_suffix("").as_posix(): name for name in files}
    named: dict[str, list[str]] = {}
    for name in tree.names:
        path = PurePosixPath(name)
        if path.parts[-3:-1] != ("ImageSets", "Main") or path.stem not in ("train", "val", "trainval", "test"):
            continue
        base = PurePosixPath(*path.parts[:-3])
        for number, line in enumerate(yolo.read_lines(tree.root / name), 1):
            if not (line := line.strip()):
                continue
            stems = [line, line.rsplit(None, 1)[0]]  # some lists have a flag after the name
            options = [(base / folder / stem).as_posix() for stem in stems for folder in ("Annotations", "annotations")]
            file = next((there[option] for option in options if option in there), None)
            if file is None:
                raise DataError(f"{tree.root / name}, line {number}: {line!r} has no XML in {base / 'Annotations'}")
            named.setdefault(path.stem, []).append(file)
    if "train" in named and "val" in named:
        named.pop("trainval", None)
    elif "trainval" in named:
        named = {"train": named["trainval"], **({"test": named["test"]} if "test" in named else {})}
    return named


def _image(tree: Tree, pictures: Tree, stems: dict[str, list[str]], file: str, file_name: str) -> str:
    """The image of an XML: of the same name but for the ending, or as its <filename> says."""
    path = PurePosixPath(file)
    found = stems.get(path.stem) or stems.get(PurePosixPath(file_name).stem) or stems.get(file_name)
    if not found:
        raise DataError(f"{tree.root / file}: there is no image {path.stem}.jpg (or .png, ...) in {pictures.root}")
    if len(found) == 1:
        return found[0]
    swapped = [("JPEGImages" if part == "Annotations" else part) for part in path.parent.parts]
    for folder in (path.parent.as_posix(), "/".join(swapped)):
        near = [name for name in found if PurePosixPath(name).parent.as_posix() == folder]
        if len(near) == 1:
            return near[0]
    raise DataError(f"{tree.root / file}: it may belong to {' or '.join(found[:3])}; give the images different names")


def _is_voc(tree: Tree, name: str) -> bool:
    return b"<annotation" in images.read_file(tree.root / name)[:2000]


def _tree(path: Path) -> ElementTree.Element:
    """The elements of an XML without a document type, which could define entities that grow or name other files."""
    builder = ElementTree.TreeBuilder()
    parser = xml.parsers.expat.ParserCreate()
    parser.buffer_text = True

    def refuse(*_: Any) -> None:
        raise DataError(
            f"{path} declares a document type (<!DOCTYPE); Pascal VOC needs none, and it is not safe to read"
        )

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(images.read_file(path), True)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except DataError:
        raise
    except (xml.parsers.expat.ExpatError, ValueError, LookupError) as error:  # the last two of encodings
        raise DataError(f"{path} is not XML: {error}") from error
    return builder.close()


def _number(where: str, corners: ElementTree.Element, key: str) -> float:
    text = (corners.findtext(key) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not is_number(value):
        raise DataError(f"{where}: <{key}> is {text[:60]!r}; it must be a finite number")
    return value


def _is_true(where: str, element: ElementTree.Element, key: str) -> bool:
    text = (element.findtext(key) or "").strip().lower()
    if text not in ("", "0", "1", "false", "true", "no", "yes", "unspecified"):
        raise DataError(f"{where}: <{key}> is {text[:60]!r}; it must be 0 or 1")
    return text in ("1", "true", "yes")


def _rotation(where: str, element: ElementTree.Element) -> float:
    """Degrees, from CVAT's <attributes><attribute><name>rotation</name><value>30.0</value>...; 0 without it."""
    for attribute in element.findall("attributes/attribute"):
        if (attribute.findtext("name") or "").strip() == "rotation":
            return _number(where, attribute, "value")
    return 0.0


def _whole(text: str | None) -> int | None:
    try:
        return int(float(text or ""))
    except (ValueError, OverflowError):
        return None
