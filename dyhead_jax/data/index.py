"""Annotations of any kind of file to arrays, with every repair counted, and to the ground truth of evaluation.

Boxes of records are (x, y, width, height) in what `frames` says, those of an `Index` (x1, y1, x2, y2) in pixels of the
picture as it is given to the network: stored, or turned upright. Both are continuous.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dyhead_jax.data import box_format, frames
from dyhead_jax.data.annotations import ImageRecord, Records
from dyhead_jax.data.frames import Frames
from dyhead_jax.data.source import DataError

KINDS = {
    "no area": "boxes without width or height left out of training",
    "outside": "boxes wholly outside their image left out of training",
    "clipped": "boxes that reach more than a pixel beyond their image clipped for training",
    "tiny": "boxes have a side under one pixel: where data.min_box_side is 1 they train only in an enlarged picture",
}


@dataclass(slots=True)
class Index:
    """The annotations of one split as arrays, small enough to send to worker processes.

    file_names: n; image_ids: (n,) int64; sizes: (n, 2) int64 height, width; upright: (n,) bool, pictures that are
    turned by their EXIF orientation; factors: (n, 2) float64 x, y, from the file's numbers to pixels; starts: (n + 1,)
    int64, where an image's boxes begin in boxes (k, 4) float32 x1 y1 x2 y2 clipped to the image, labels (k,) int32 and
    crowd (k,) bool. Labels are contiguous from 0 in the order of the category ids. notes: one line for each kind of
    thing left out or repaired. path: the annotation file.
    """

    path: Path
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    file_names: list[str]
    image_ids: np.ndarray
    sizes: np.ndarray
    upright: np.ndarray
    factors: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    notes: list[str] = field(default_factory=list)

    def box_counts(self) -> np.ndarray:
        """(n,) int64, boxes of each image that are not crowd."""
        trained = np.concatenate([[0], np.cumsum(~self.crowd)])
        return trained[self.starts[1:]] - trained[self.starts[:-1]]


@dataclass(slots=True, frozen=True)
class Doubt:
    """A box that is not taken as it stands. row: of the image; kind: one of KINDS; label: of its class; box: x1, y1,
    x2, y2 in pixels, unclipped."""

    row: int
    kind: str
    label: int
    box: tuple[float, float, float, float]


def make_index(
    records: Records,
    images: Sequence[ImageRecord],
    frame: Frames,
    doubts: list[Doubt] | None = None,
    *,
    judged: bool = True,
) -> Index:
    """The index of some images of `records`.

    frame: of `images`. Boxes without area or wholly outside their image are left out, others are clipped to it; all is
    counted in the notes, and put into `doubts` where that is given. judged: boxes that are not x, y, width, height in
    pixels at all are an error (see `box_format`). Raises DataError for that, and for no image.
    """
    if not images:
        raise DataError(f"{records.path}: images is empty")
    labels = {category: label for label, category in enumerate(records.categories)}
    row_of = {image.id: row for row, image in enumerate(images)}
    own = [(row_of[a.image_id], a) for a in records.annotations if a.image_id in row_of]
    if judged and not records.fractions and own:
        sizes = (frame.sizes / frame.factors[:, ::-1])[[row for row, _ in own]]
        wrong = box_format.mistake(np.array([annotation.bbox for _, annotation in own]), sizes)
        if wrong:
            raise DataError(f"{records.path}: {wrong} ({frames.OPTION}=stored takes them as they are)")
    counts: Counter[str] = Counter()
    rows: list[list[tuple[list[float], int, bool]]] = [[] for _ in images]
    factors, sides = frame.factors.tolist(), frame.sizes.tolist()
    seen: set[int] = set()
    repeated = 0
    for row, annotation in own:
        repeated += annotation.id in seen or annotation.id == 0
        seen.add(annotation.id)
        x, y, width, height = scale(annotation.bbox, factors[row])
        image_height, image_width = sides[row]
        box = [max(x, 0.0), max(y, 0.0), min(x + width, float(image_width)), min(y + height, float(image_height))]
        kind = ""
        if width <= 0 or height <= 0:
            kind = "no area"
        elif box[2] <= box[0] or box[3] <= box[1]:
            kind = "outside"
        elif min(x, y) < -1 or x + width > image_width + 1 or y + height > image_height + 1:
            kind = "clipped"
        elif min(box[2] - box[0], box[3] - box[1]) < 1 and not annotation.crowd:
            kind = "tiny"
        label = labels[annotation.category_id]
        if kind:
            counts[kind] += 1
            if doubts is not None:
                doubts.append(Doubt(row, kind, label, (x, y, x + width, y + height)))
        if kind not in ("no area", "outside"):
            rows[row].append((box, label, annotation.crowd))
    notes = [*records.notes, *frame.notes, *(f"{counts[kind]} {text}" for kind, text in KINDS.items() if counts[kind])]
    if repeated:
        notes.append(f"{repeated} annotation ids that are 0 or repeated renumbered for evaluation")
    flat = [entry for row in rows for entry in row]
    index = Index(
        path=records.path,
        class_names=tuple(records.categories.values()),
        category_ids=tuple(records.categories),
        file_names=[image.file_name for image in images],
        image_ids=np.array([image.id for image in images], np.int64).reshape(-1),
        sizes=frame.sizes,
        upright=frame.upright,
        factors=frame.factors,
        starts=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        boxes=np.array([entry[0] for entry in flat], np.float32).reshape(-1, 4),
        labels=np.array([entry[1] for entry in flat], np.int32),
        crowd=np.array([entry[2] for entry in flat], bool),
        notes=notes,
    )
    if empty := int((index.box_counts() == 0).sum()):
        index.notes.append(f"{empty} of {len(images)} images have no box to train on")
    return index


def scale(bbox: tuple[float, float, float, float], factors: Sequence[float]) -> tuple[float, float, float, float]:
    """A box x, y, width, height by factors x, y."""
    by_x, by_y = factors
    return bbox[0] * by_x, bbox[1] * by_y, bbox[2] * by_x, bbox[3] * by_y


def ground_truth(index: Index, records: Records) -> dict[str, Any]:
    """The COCO object that evaluation takes: the file's own boxes and areas of the index's images, unclipped, in pixels
    of the pictures as the index has them; otherwise as `coco_object`."""
    images = [
        {"id": int(image_id), "file_name": name, "height": int(height), "width": int(width)}
        for image_id, name, (height, width) in zip(index.image_ids, index.file_names, index.sizes, strict=True)
    ]
    factors = dict(zip(index.image_ids.tolist(), index.factors.tolist(), strict=True))
    return coco_object(records, images, factors)


def coco_object(records: Records, images: list[dict[str, Any]], factors: dict[int, Sequence[float]]) -> dict[str, Any]:
    """A COCO object of `records`. images: its images; factors: x, y, by which the boxes of each image id are
    multiplied.

    Annotation ids that are 0 or repeated are replaced: pycocotools takes a match with annotation 0 for none and keeps
    only one of equal ids.
    """
    free = max((record.id for record in records.annotations), default=0) + 1
    seen = {0}
    annotations = []
    for record in records.annotations:
        if record.image_id not in factors:
            continue
        identity = record.id
        if identity in seen:
            identity, free = free, free + 1
        seen.add(identity)
        by_x, by_y = factors[record.image_id]
        bbox = list(scale(record.bbox, (by_x, by_y)))
        annotations.append(
            {
                "id": identity,
                "image_id": record.image_id,
                "category_id": record.category_id,
                "bbox": bbox,
                "area": bbox[2] * bbox[3] if record.area is None else record.area * by_x * by_y,
                "iscrowd": int(record.crowd),
            }
        )
    categories = [{"id": category, "name": name} for category, name in records.categories.items()]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
