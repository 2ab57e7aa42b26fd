"""COCO instances JSON, with every fault named, and what other tools add to the format.

Format: https://cocodataset.org/#format-data. Boxes in the file are (x, y, width, height) in pixels; which ones is the
matter of `frames`. Beside COCO's own keys are read: `ignore` (mmdetection, Label Studio) as crowd;
`attributes.rotation` (CVAT: clockwise degrees about the centre of the box) as the box around the turned one; polygons
of `segmentation` where there is no box. All of that, and keys that are not read although they hold something, is
counted in the notes.
"""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from dyhead_jax.data import frames, index
from dyhead_jax.data.annotations import Annotation, ImageRecord, Records
from dyhead_jax.data.images import Header
from dyhead_jax.data.index import Index, make_index
from dyhead_jax.data.json_file import is_number, read_json, short
from dyhead_jax.data.source import NO_IMAGE, DataError

_READ = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore")
_OF_OTHER_TASKS = ("segmentation", "keypoints", "num_keypoints", "caption", "label")  # label: of `shapes`
_KNOWN = {*_READ, *_OF_OTHER_TASKS, "attributes"}
_PARTLY = ("not_exhaustive_category_ids", "neg_category_ids")  # LVIS: not every class was looked for in every image


def read(path: Path) -> dict[str, Any]:
    """The JSON object of a COCO file. Raises DataError when it is missing, no JSON, or lacks one of the three lists."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(
            f"{path} holds a {type(content).__name__}; a COCO file is an object with images, annotations, ..."
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise DataError(f"{path} has no list under the key {key!r}; it is not a COCO instances file")
    return content


def records(path: Path, errors: list[str] | None = None) -> Records:
    """Reads and checks a COCO file. `iscrowd` and `area` are filled in where it lacks them.

    errors: takes one line for each faulty annotation, which is then left out. Raises DataError, which names the file,
    the record and the key, for other faults, and with None for those too.
    """
    content = read(path)
    categories = _categories(path, content["categories"])
    images = _images(path, content["images"])
    image_ids = {image.id for image in images}
    boxes, counts = [], Counter()
    for i, record in enumerate(content["annotations"]):
        try:
            annotation = _annotation(path, i, record, counts)
            if annotation.image_id not in image_ids:
                raise DataError(f"{path}: annotations[{i}].image_id {annotation.image_id} is not among the images")
            if annotation.category_id not in categories:
                raise DataError(
                    f"{path}: annotations[{i}].category_id {annotation.category_id} is not among the categories"
                )
        except DataError as error:
            if errors is None:
                raise
            errors.append(str(error))
        else:
            boxes.append(annotation)
    for key in _PARTLY:
        counts[key] = sum(bool(image.get(key)) for image in content["images"])
    return Records(path, categories, images, boxes, notes=[*_notes(counts), *_same_names(categories)])


def load(path: Path, *, limit: int = 0, header_of: Callable[[str], Header] | None = None, box_frame: str = "") -> Index:
    """The index of a COCO file.

    limit: take only the first so many images; 0 takes all. header_of: gives the header of the image of a file name, by
    which `frames.find` says what the boxes refer to, together with `box_frame`; without it width and height must be in
    the file, and are believed. Raises DataError, which names the file, the record and the key.
    """
    found = records(path)
    images = found.images[: limit or None]
    if header_of is None:
        return make_index(found, images, frames.declared(found, images))
    headers = [header_of(image.file_name) for image in images]
    return make_index(found, images, frames.find(found, images, headers, box_frame), judged=not box_frame)


def ground_truth(index_of: Index) -> dict[str, Any]:
    """The COCO object that evaluation takes, from the file that an index was made of. See `index.ground_truth`."""
    return index.ground_truth(index_of, records(index_of.path))


def truth(path: Path) -> dict[str, Any]:
    """The COCO object of a whole file as it stands, for scoring, which does not need the sizes of images."""
    found = records(path)
    images = []
    for image in found.images:
        size = {} if image.declared is None else {"height": image.declared[0], "width": image.declared[1]}
        images.append({"id": image.id, "file_name": image.file_name, **size})
    return index.coco_object(found, images, {image.id: (1.0, 1.0) for image in found.images})


def _annotation(path: Path, i: int, record: Any, counts: Counter[str]) -> Annotation:
    where = f"{path}: annotations[{i}]"
    identity = _integer(path, "annotations", i, record, "id")
    image_id = _integer(path, "annotations", i, record, "image_id")
    category_id = _integer(path, "annotations", i, record, "category_id")
    bbox = record.get("bbox")
    if not bbox and (points := _polygon_points(record.get("segmentation"))):
        counts["polygons"] += 1
        x, y = min(points[::2]), min(points[1::2])
        bbox = [x, y, max(points[::2]) - x, max(points[1::2]) - y]
    if "bbox" not in record and bbox is None:
        raise DataError(f"{where} has no key 'bbox'")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(v) for v in bbox):
        raise DataError(f"{where}.bbox is {short(bbox)}; it must be four finite numbers x, y, width, height")
    x, y, width, height = (float(v) for v in bbox)
    area = record.get("area", width * height)
    if not is_number(area, 1e18):
        raise DataError(f"{where}.area is {short(area)}; it must be a finite number")
    crowd, ignore = record.get("iscrowd", 0), record.get("ignore", 0)
    for key, value in (("iscrowd", crowd), ("ignore", ignore)):
        if value not in (0, 1):
            raise DataError(f"{where}.{key} is {short(value)}; it must be 0 or 1")
    if ignore and not crowd:
        counts["ignore"] += 1
    attributes = record.get("attributes")
    if attributes and isinstance(attributes, dict):
        rotation = attributes.get("rotation") or 0
        if not is_number(rotation):
            raise DataError(f"{where}.attributes.rotation is {short(rotation)}; it must be degrees")
        if rotation % 180:
            counts["rotation"] += 1
            x, y, width, height = around(x, y, width, height, rotation)
        for key in [key for key, value in attributes.items() if value and key != "rotation"]:
            counts[f"key attributes.{key}"] += 1
    for key in record.keys() - _KNOWN:
        if record[key]:
            counts[f"key {key}"] += 1
    return Annotation(identity, image_id, category_id, (x, y, width, height), float(area), bool(crowd) or bool(ignore))


def around(x: float, y: float, width: float, height: float, angle: float) -> tuple[float, float, float, float]:
    """The box x, y, width, height around one that is turned about its centre. angle: in degrees."""
    angle = math.radians(angle)
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    own_width, own_height = width * cos + height * sin, width * sin + height * cos
    return x + (width - own_width) / 2, y + (height - own_height) / 2, own_width, own_height


def _polygon_points(segmentation: Any) -> list[float]:
    """The x and y of all points of polygons in turns; [] for anything else, run lengths among it."""
    if not isinstance(segmentation, list) or not segmentation:
        return []
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    if not all(isinstance(own, list) and len(own) >= 6 and len(own) % 2 == 0 for own in polygons):
        return []
    points = [value for own in polygons for value in own]
    return points if all(is_number(value) for value in points) else []


def _notes(counts: Counter[str]) -> list[str]:
    text = {
        "ignore": "boxes marked `ignore` do not train, and count neither way in evaluation (as crowd)",
        "rotation": "turned boxes (attributes.rotation) became the boxes around them",
        "polygons": "boxes are those of their polygons: the file has none for them",
        "not_exhaustive_category_ids": "images are not annotated with all objects of some classes"
        " (not_exhaustive_category_ids), and train as if they were",
        "neg_category_ids": "images name the classes that were looked for in vain (neg_category_ids), which is not"
        " used: all classes count as looked for",
    }
    notes = [f"{counts[kind]} {words}" for kind, words in text.items() if counts[kind]]
    unread = sorted((-count, key.removeprefix("key ")) for key, count in counts.items() if key.startswith("key "))
    keys = [f"{key} ({-count})" for count, key in unread]
    if keys:
        more = f" and {len(keys) - 8} others" if len(keys) > 8 else ""
        listed = ", ".join(keys[:8]) + more
        notes.append(f"keys of annotations that are not read (and how many say something): {listed}")
    if counts["key score"]:
        notes.append(f"{counts['key score']} annotations have a score, as detections do; they are taken as true boxes")
    return notes


def _same_names(categories: dict[int, str]) -> list[str]:
    names = Counter(categories.values())
    return [f"{count} classes have the same name {name!r}" for name, count in names.items() if count > 1]


def _categories(path: Path, records: list[Any]) -> dict[int, str]:
    names: dict[int, str] = {}
    for i, record in enumerate(records):
        category = _integer(path, "categories", i, record, "id")
        if category in names:
            raise DataError(f"{path}: categories[{i}].id {category} is there twice")
        if not isinstance(record.get("name"), str):
            raise DataError(f"{path}: categories[{i}].name is {short(record.get('name'))}; it must be a string")
        names[category] = record["name"]
    if not names:
        raise DataError(f"{path}: categories is empty; a detector needs at least one class")
    return dict(sorted(names.items()))


def _images(path: Path, records: list[Any]) -> list[ImageRecord]:
    images, seen = [], {}
    for i, record in enumerate(records):
        identity = _integer(path, "images", i, record, "id")
        if identity in seen:
            raise DataError(f"{path}: images[{i}].id {identity} is the id of images[{seen[identity]}] too")
        if identity == NO_IMAGE:
            raise DataError(f"{path}: images[{i}].id {identity} stands for no image here; give it another id")
        seen[identity] = i
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{path}: images[{i}].file_name is {short(name)}; it must be a file name")
        if not _inside(name):
            raise DataError(
                f"{path}: images[{i}].file_name {name!r} leads out of the image folder; it must be relative"
            )
        height, width = _side(record.get("height")), _side(record.get("width"))
        images.append(ImageRecord(identity, name, (height, width) if height and width else None))
    return images


def _side(value: Any) -> int | None:
    """A side in whole pixels, which some tools write as 640.0; None for anything else."""
    return int(value) if is_number(value) and value > 0 and value == int(value) else None


def _inside(name: str) -> bool:
    # Both kinds of paths: a file made on another system must not climb out either.
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    rooted = windows.drive or windows.root or posix.is_absolute()
    return not rooted and ".." not in windows.parts and ".." not in posix.parts and "\0" not in name


def _integer(path: Path, kind: str, i: int, record: Any, key: str) -> int:
    if not isinstance(record, dict):
        raise DataError(f"{path}: {kind}[{i}] is {short(record)}; it must be an object")
    if key not in record:
        raise DataError(f"{path}: {kind}[{i}] has no key {key!r}")
    value = record[key]
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise DataError(f"{path}: {kind}[{i}].{key} is {short(value)}; it must be a 64-bit integer")
    return value
