"""Annotations of any kind of file to arrays, with every repair counted, and to the ground truth of evaluation.

A reader (`coco_json`, `layouts.yolo`, `layouts.voc`) turns its files into `Records` and names every fault by file and
record; what follows is the same for all of them. Boxes of records are (x, y, width, height) in pixels of the stored
image, those of an `Index` (x1, y1, x2, y2), both continuous.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dyhead_jax.data.source import DataError

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(slots=True)
class ImageRecord:
    """An image. file_name: relative to the image folder; declared: the (height, width) that the file gives, unchecked,
    (None, None) where it gives none."""

    id: int
    file_name: str
    declared: tuple[Any, Any] = (None, None)


@dataclass(slots=True)
class Annotation:
    """A box as its file has it: bbox is x, y, width, height; area and crowd as in COCO."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    crowd: bool


@dataclass(slots=True)
class Records:
    """What annotation files say, checked for faults but not repaired.

    path: what an error calls them; categories: names by id, in the order of the ids; every annotation's image_id and
    category_id is among images and categories; notes: one line for each kind of thing that the reader left out.
    """

    path: Path
    categories: dict[int, str]
    images: list[ImageRecord]
    annotations: list[Annotation]
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Index:
    """The annotations of one split as arrays, small enough to send to worker processes.

    file_names: n; image_ids: (n,) int64; sizes: (n, 2) int64 height, width; starts: (n + 1,) int64, where an image's
    boxes begin in boxes (k, 4) float32 x1 y1 x2 y2 clipped to the image, labels (k,) int32 and crowd (k,) bool. Labels
    are contiguous from 0 in the order of the category ids. notes: one line for each kind of thing left out or repaired.
    path: the annotation file.
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


def make_index(records: Records, images: Sequence[ImageRecord], sizes: Sequence[Size]) -> Index:
    """The index of some images of `records`.

    sizes: the true (height, width) of each, by which declared sizes are corrected. Boxes without area or wholly outside
    their image are left out, others are clipped to it; all is counted in the notes. Raises DataError for no image.
    """
    if not images:
        raise DataError(f"{records.path}: images is empty")
    labels = {category: label for label, category in enumerate(records.categories)}
    row_of = {image.id: row for row, image in enumerate(images)}
    counts = {"no area": 0, "outside": 0, "clipped": 0, "repeated": 0}
    rows: list[list[tuple[list[float], int, bool]]] = [[] for _ in images]
    seen: set[int] = set()
    for annotation in records.annotations:
        row = row_of.get(annotation.image_id)
        if row is None:
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
    pairs = zip(images, sizes, strict=True)
    corrected = sum(image.declared not in ((None, None), tuple(size)) for image, size in pairs)
    flat = [entry for row in rows for entry in row]
    index = Index(
        path=records.path,
        class_names=tuple(records.categories.values()),
        category_ids=tuple(records.categories),
        file_names=[image.file_name for image in images],
        image_ids=np.array([image.id for image in images], np.int64).reshape(-1),
        sizes=np.array(sizes, np.int64).reshape(-1, 2),
        starts=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        boxes=np.array([entry[0] for entry in flat], np.float32).reshape(-1, 4),
        labels=np.array([entry[1] for entry in flat], np.int32),
        crowd=np.array([entry[2] for entry in flat], bool),
        notes=[*records.notes, *_describe(corrected, counts)],
    )
    if empty := int((index.box_counts() == 0).sum()):
        index.notes.append(f"{empty} of {len(images)} images have no box to train on")
    return index


def ground_truth(index: Index, records: Records) -> dict[str, Any]:
    """The COCO object that evaluation takes: the file's own boxes and areas of the index's images, unclipped.

    Annotation ids that are 0 or repeated are replaced: pycocotools takes a match with annotation 0 for none and keeps
    only one of equal ids.
    """
    kept = set(index.image_ids.tolist())
    images = [
        {"id": int(image_id), "file_name": name, "height": int(height), "width": int(width)}
        for image_id, name, (height, width) in zip(index.image_ids, index.file_names, index.sizes, strict=True)
    ]
    free = max((record.id for record in records.annotations), default=0) + 1
    seen = {0}
    annotations = []
    for record in records.annotations:
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


def _describe(corrected: int, counts: dict[str, int]) -> list[str]:
    text = {
        "no area": "boxes without width or height left out of training",
        "outside": "boxes wholly outside their image left out of training",
        "clipped": "boxes that reach more than a pixel beyond their image clipped for training",
        "repeated": "annotation ids that are 0 or repeated renumbered for evaluation",
    }
    notes = [f"{corrected} images declare a size that is not the file's; the file's was used"] if corrected else []
    return notes + [f"{count} {text[kind]}" for kind, count in counts.items() if count]
