"""Ground truth and detections as columns of arrays, in the order in which pycocotools goes through them.

Coordinates: a box is (x, y, width, height) in pixels of the original image, float64, as in COCO files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PER_CLASS = 100  # COCO counts so many detections of an image and class, the best ones
_LARGEST_AREA = 1e10  # pixels; COCO's bound of "all sizes"


@dataclass(frozen=True, slots=True)
class Columns:
    """Images, true boxes and detections. Images are numbered by sorted id, classes by sorted category id.

    image_ids, file_names: (n,); category_ids, class_names: (c,).
    truth_box (t, 4), truth_class (t,), truth_image (t,), truth_area (t,), crowd (t,) bool: the annotations, image by
    image; an image's own are truth_starts[image] : truth_starts[image + 1].
    ignored (t,) bool: crowd, or of an area that COCO does not count.
    box (d, 4), label (d,), score (d,), image (d,): the detections, image by image, best first, equal scores in the
    order of the file; rank (d,): the place within the image, from 0. Of an image and class only the best PER_CLASS are
    here, as in COCO; `beyond` counts the others.
    """

    image_ids: np.ndarray
    file_names: list[str]
    category_ids: np.ndarray
    class_names: list[str]
    truth_box: np.ndarray
    truth_class: np.ndarray
    truth_image: np.ndarray
    truth_area: np.ndarray
    truth_starts: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    box: np.ndarray
    label: np.ndarray
    score: np.ndarray
    image: np.ndarray
    rank: np.ndarray
    beyond: int

    def truths_by_class(self) -> np.ndarray:
        """(c,) true boxes of each class that count: neither crowd nor of an area out of range."""
        return np.bincount(self.truth_class[~self.ignored], minlength=len(self.category_ids))


def columns(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Columns:
    """ground_truth: a COCO object as `source.Split.coco` returns it; results: COCO results that
    `average_precision.coco_metrics` accepts."""
    images = sorted(ground_truth["images"], key=lambda image: image["id"])
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    image_ids = np.array([image["id"] for image in images], np.int64)
    category_ids = np.array([category["id"] for category in categories], np.int64)

    annotations = ground_truth["annotations"]
    truth_image = np.searchsorted(image_ids, _column(annotations, "image_id", np.int64))
    order = np.argsort(truth_image, kind="stable")
    truth_image = truth_image[order]
    area = _column(annotations, "area", np.float64)[order]
    crowd = _column(annotations, "iscrowd", np.int64)[order] == 1

    image = np.searchsorted(image_ids, _column(results, "image_id", np.int64))
    label = np.searchsorted(category_ids, _column(results, "category_id", np.int64))
    score = _column(results, "score", np.float64)
    best_first = np.lexsort((-score, image))
    kept = best_first[np.sort(_first(PER_CLASS, image[best_first], label[best_first]))]
    return Columns(
        image_ids=image_ids,
        file_names=[str(record.get("file_name", record["id"])) for record in images],
        category_ids=category_ids,
        class_names=[str(category["name"]) for category in categories],
        truth_box=_boxes(annotations)[order],
        truth_class=np.searchsorted(category_ids, _column(annotations, "category_id", np.int64))[order],
        truth_image=truth_image,
        truth_area=area,
        truth_starts=np.searchsorted(truth_image, np.arange(len(images) + 1)),
        crowd=crowd,
        ignored=crowd | (area < 0) | (area > _LARGEST_AREA),
        box=_boxes(results)[kept],
        label=label[kept],
        score=score[kept],
        image=image[kept],
        rank=_places(image[kept]),
        beyond=len(results) - len(kept),
    )


def too_large(table: Columns) -> np.ndarray:
    """(d,) detections of an area that COCO does not count where they hit nothing."""
    return table.box[:, 2] * table.box[:, 3] > _LARGEST_AREA


def _column(records: Sequence[Mapping[str, Any]], key: str, dtype: type) -> np.ndarray:
    return np.array([record[key] for record in records], dtype)


def _boxes(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)


def _first(count: int, image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The rows that are among the first `count` of their image and class."""
    order = np.lexsort((label, image))
    group = image[order] * (label.max(initial=0) + 1) + label[order]
    return order[_places(group) < count]


def _places(group: np.ndarray) -> np.ndarray:
    """(n,) the place of each row among the rows of its group, from 0; rows of a group lie together."""
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    return np.arange(len(group)) - np.repeat(starts, np.diff(starts, append=len(group)))
