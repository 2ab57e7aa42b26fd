"""COCO instances JSON to arrays, with every fault named and every repair counted.

Format: https://cocodataset.org/#format-data. Boxes in the file are (x, y, width, height) in pixels of the stored image.
Labels are contiguous from 0 in the order of the category ids, which stay as they are in `category_ids` and in
`ground_truth`.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from dyhead_jax.data.source import NO_IMAGE, DataError


@dataclass(slots=True)
class Index:
    """The annotations of one split as arrays, small enough to send to worker processes.

    file_names: n; image_ids: (n,) int64; sizes: (n, 2) int64 height, width; starts: (n + 1,) int64, where an image's
    boxes begin in boxes (k, 4) float32 x1 y1 x2 y2 clipped to the image, labels (k,) int32 and crowd (k,) bool.
    notes: one line for each kind of thing left out or repaired. path: the JSON.
    """

    path: Path
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    file_names: list[str]
    image_ids: np.ndarray
    sizes: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    notes: list[str] = field(default_factory=list)

    def box_counts(self) -> np.ndarray:
        """(n,) int64, boxes of each image that are not crowd."""
        trained = np.concatenate([[0], np.cumsum(~self.crowd)])
        return trained[self.starts[1:]] - trained[self.starts[:-1]]


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


def load(path: Path, *, limit: int = 0, size_of: Callable[[str], tuple[int, int]] | None = None) -> Index:
    """Reads and checks a COCO file.

    limit: take only the first so many images; 0 takes all. size_of: gives the true (height, width) of a file name, by
    which declared sizes are corrected; without it width and height must be in the file.
    Raises DataError, which names the file, the record and the key.
    """
    content = read(path)
    names, categories = _categories(path, content["categories"])
    labels = {category: label for label, category in enumerate(categories)}
    file_names, image_ids, sizes, notes = _images(path, content["images"], limit, size_of)
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    for record in content["images"][len(file_names) :]:  # beyond the limit: known, but without a row
        row_of.setdefault(_integer(path, "images", -1, record, "id"), -1)

    counts = {"no area": 0, "outside": 0, "clipped": 0, "repeated": 0}
    rows: list[list[tuple[list[float], int, bool]]] = [[] for _ in file_names]
    seen: set[int] = set()
    for i, record in enumerate(content["annotations"]):
        annotation = _annotation(path, i, record)
        if annotation.image_id not in row_of:
            raise DataError(f"{path}: annotations[{i}].image_id {annotation.image_id} is not among the images")
        if annotation.category_id not in labels:
            raise DataError(
                f"{path}: annotations[{i}].category_id {annotation.category_id} is not among the categories"
            )
        row = row_of[annotation.image_id]
        if row < 0:
            continue
        counts["repeated"] += annotation.id in seen or annotation.id == 0
        seen.add(annotation.id)
        x, y, width, height = annotation.bbox
        if width <= 0 or height <= 0:
            counts["no area"] += 1
            continue
        image_height, image_width = sizes[row]
        box = [max(x, 0.0), max(y, 0.0), min(x + width, float(image_width)), min(y + height, float(image_height))]
        if box[2] <= box[0] or box[3] <= box[1]:
            counts["outside"] += 1
            continue
        counts["clipped"] += min(x, y) < -1 or x + width > image_width + 1 or y + height > image_height + 1
        rows[row].append((box, labels[annotation.category_id], annotation.crowd))
    notes += _describe(counts)
    flat = [entry for row in rows for entry in row]
    index = Index(
        path=path,
        class_names=names,
        category_ids=categories,
        file_names=file_names,
        image_ids=np.array(image_ids, np.int64).reshape(-1),
        sizes=np.array(sizes, np.int64).reshape(-1, 2),
        starts=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        boxes=np.array([entry[0] for entry in flat], np.float32).reshape(-1, 4),
        labels=np.array([entry[1] for entry in flat], np.int32),
        crowd=np.array([entry[2] for entry in flat], bool),
        notes=notes,
    )
    if empty := int((index.box_counts() == 0).sum()):
        index.notes.append(f"{empty} of {len(file_names)} images have no box to train on")
    return index


def ground_truth(index: Index) -> dict[str, Any]:
    """The COCO object that evaluation takes: the file's own boxes and areas of the index's images, unclipped.

    `iscrowd` and `area` are filled in where the file lacks them. Annotation ids that are 0 or repeated are replaced:
    pycocotools takes a match with annotation 0 for none and keeps only one of equal ids. Raises DataError.
    """
    content = read(index.path)
    kept = set(index.image_ids.tolist())
    images = [
        {"id": int(image_id), "file_name": name, "height": int(height), "width": int(width)}
        for image_id, name, (height, width) in zip(index.image_ids, index.file_names, index.sizes, strict=True)
    ]
    records = [_annotation(index.path, i, record) for i, record in enumerate(content["annotations"])]
    free = max((record.id for record in records), default=0) + 1
    seen = {0}
    annotations = []
    for record in records:
        if record.image_id not in kept:
            continue
        identity = record.id
        if identity in seen:
            identity, free = free, free + 1
        seen.add(identity)
        annotations.append(
            {
                "id": identity,
                "image_id": record.image_id,
                "category_id": record.category_id,
                "bbox": list(record.bbox),
                "area": record.area,
                "iscrowd": int(record.crowd),
            }
        )
    pairs = zip(index.category_ids, index.class_names, strict=True)
    categories = [{"id": category, "name": name} for category, name in pairs]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


@dataclass(slots=True)
class _Annotation:
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    crowd: bool


def _annotation(path: Path, i: int, record: Any) -> _Annotation:
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
    return _Annotation(identity, image_id, category_id, (x, y, width, height), float(area), bool(crowd))


def _categories(path: Path, records: list[Any]) -> tuple[tuple[str, ...], tuple[int, ...]]:
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
    ids = tuple(sorted(names))
    return tuple(names[category] for category in ids), ids


def _images(
    path: Path, records: list[Any], limit: int, size_of: Callable[[str], tuple[int, int]] | None
) -> tuple[list[str], list[int], list[tuple[int, int]], list[str]]:
    file_names, sizes, seen, corrected = [], [], {}, 0
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
        if limit and i >= limit:
            continue
        declared = record.get("height"), record.get("width")
        if size_of is not None:
            size = size_of(name)
            corrected += declared != (None, None) and declared != size
        elif all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in declared):
            size = declared
        else:
            raise DataError(f"{path}: images[{i}] needs a positive integer height and width")
        file_names.append(name)
        sizes.append(size)
    if not file_names:
        raise DataError(f"{path}: images is empty")
    notes = [f"{corrected} images declare a size that is not the file's; the file's was used"] if corrected else []
    return file_names, list(seen)[: len(file_names)], sizes, notes


def _describe(counts: dict[str, int]) -> list[str]:
    text = {
        "no area": "boxes without width or height left out of training",
        "outside": "boxes wholly outside their image left out of training",
        "clipped": "boxes that reach more than a pixel beyond their image clipped for training",
        "repeated": "annotation ids that are 0 or repeated renumbered for evaluation",
    }
    return [f"{count} {text[kind]}" for kind, count in counts.items() if count]


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
