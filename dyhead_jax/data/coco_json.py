"""COCO instances JSON, with every fault named.

Format: https://cocodataset.org/#format-data. Boxes in the file are (x, y, width, height) in pixels of the stored image.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from dyhead_jax.data import annotations
from dyhead_jax.data.annotations import Annotation, ImageRecord, Index, Records, Size, make_index
from dyhead_jax.data.source import NO_IMAGE, DataError


def read(path: Path) -> dict[str, Any]:
    """The JSON object of a COCO file. Raises DataError when it is missing, no JSON, or lacks one of the three lists."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path} holds a {type(content).__name__}; a COCO file is an object with images, annotations, ..."
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise DataError(f"{path} has no list under the key {key!r}; it is not a COCO instances file")
    return content


def records(path: Path) -> Records:
    """Reads and checks a COCO file. `iscrowd` and `area` are filled in where it lacks them.

    Raises DataError, which names the file, the record and the key.
    """
    content = read(path)
    categories = _categories(path, content["categories"])
    images = _images(path, content["images"])
    image_ids = {image.id for image in images}
    boxes = []
    for i, record in enumerate(content["annotations"]):
        annotation = _annotation(path, i, record)
        if annotation.image_id not in image_ids:
            raise DataError(f"{path}: annotations[{i}].image_id {annotation.image_id} is not among the images")
        if annotation.category_id not in categories:
            raise DataError(
                f"{path}: annotations[{i}].category_id {annotation.category_id} is not among the categories"
            )
        boxes.append(annotation)
    return Records(path, categories, images, boxes)


def load(path: Path, *, limit: int = 0, size_of: Callable[[str], Size] | None = None) -> Index:
    """The index of a COCO file.

    limit: take only the first so many images; 0 takes all. size_of: gives the true (height, width) of a file name, by
    which declared sizes are corrected; without it width and height must be in the file.
    Raises DataError, which names the file, the record and the key.
    """
    found = records(path)
    images = found.images[: limit or None]
    if size_of is not None:
        return make_index(found, images, [size_of(image.file_name) for image in images])
    for i, image in enumerate(images):
        if not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in image.declared):
            raise DataError(f"{path}: images[{i}] needs a positive integer height and width")
    return make_index(found, images, [image.declared for image in images])


def ground_truth(index: Index) -> dict[str, Any]:
    """The COCO object that evaluation takes, from the file that `index` was made of. See `annotations.ground_truth`."""
    return annotations.ground_truth(index, records(index.path))


def _annotation(path: Path, i: int, record: Any) -> Annotation:
    identity = _integer(path, "annotations", i, record, "id")
    image_id = _integer(path, "annotations", i, record, "image_id")
    category_id = _integer(path, "annotations", i, record, "category_id")
    if "bbox" not in record:
        raise DataError(f"{path}: annotations[{i}] has no key 'bbox'")
    bbox = record["bbox"]
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_finite(v) for v in bbox):
        raise DataError(
            f"{path}: annotations[{i}].bbox is {_short(bbox)}; it must be four finite numbers x, y, width, height"
        )
    x, y, width, height = (float(v) for v in bbox)
    area = record.get("area", width * height)
    if not _finite(area):
        raise DataError(f"{path}: annotations[{i}].area is {_short(area)}; it must be a finite number")
    crowd = record.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise DataError(f"{path}: annotations[{i}].iscrowd is {_short(crowd)}; it must be 0 or 1")
    return Annotation(identity, image_id, category_id, (x, y, width, height), float(area), bool(crowd))


def _categories(path: Path, records: list[Any]) -> dict[int, str]:
    names: dict[int, str] = {}
    for i, record in enumerate(records):
        category = _integer(path, "categories", i, record, "id")
        if category in names:
            raise DataError(f"{path}: categories[{i}].id {category} is there twice")
        if not isinstance(record.get("name"), str):
            raise DataError(f"{path}: categories[{i}].name is {_short(record.get('name'))}; it must be a string")
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
            raise DataError(f"{path}: images[{i}].file_name is {_short(name)}; it must be a file name")
        if not _inside(name):
            raise DataError(
                f"{path}: images[{i}].file_name {name!r} leads out of the image folder; it must be relative"
            )
        images.append(ImageRecord(identity, name, (record.get("height"), record.get("width"))))
    return images


def _inside(name: str) -> bool:
    # Both kinds of paths: a file made on another system must not climb out either.
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    rooted = windows.drive or windows.root or posix.is_absolute()
    return not rooted and ".." not in windows.parts and ".." not in posix.parts and "\0" not in name


def _integer(path: Path, kind: str, i: int, record: Any, key: str) -> int:
    if not isinstance(record, dict):
        raise DataError(f"{path}: {kind}[{i}] is {_short(record)}; it must be an object")
    if key not in record:
        raise DataError(f"{path}: {kind}[{i}] has no key {key!r}")
    value = record[key]
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise DataError(f"{path}: {kind}[{i}].{key} is {_short(value)}; it must be a 64-bit integer")
    return value


def _finite(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
