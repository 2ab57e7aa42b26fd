"""Which detections overlap which true boxes, and who is matched with whom.

IoU is computed as in pycocotools; for a crowd region it is the fraction of the detection that lies inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dyhead_jax.evaluation.report.columns import Columns, too_large

LEAST = 0.1  # pairs below this IoU are not kept: nothing here asks for them
_CHUNK = 2_000_000  # pairs computed at once


@dataclass(frozen=True, slots=True)
class Pairs:
    """Detections and true boxes of one image with an IoU of LEAST or more, sorted by detection, then true box.

    detection, truth: (p,) rows of `Columns`; iou: (p,) float64; same_class: (p,) bool.
    """

    detection: np.ndarray
    truth: np.ndarray
    iou: np.ndarray
    same_class: np.ndarray

    def where(self, mask: np.ndarray) -> "Pairs":
        """The pairs of a mask (p,)."""
        return Pairs(self.detection[mask], self.truth[mask], self.iou[mask], self.same_class[mask])


def overlaps(table: Columns) -> Pairs:
    """All pairs of a table."""
    counts = np.diff(table.truth_starts)[table.image]
    ends = np.cumsum(counts)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    first = 0
    while first < len(counts):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        own = counts[first:last]
        detection = np.repeat(np.arange(first, last), own)
        inside = np.arange(len(detection)) - np.repeat(np.cumsum(own) - own, own)
        truth = table.truth_starts[table.image[detection]] + inside
        iou = _iou(table.box[detection], table.truth_box[truth], table.crowd[truth])
        kept = iou >= LEAST
        parts.append((detection[kept], truth[kept], iou[kept]))
        first = last
    empty = np.zeros(0, np.int64)
    detection, truth, iou = (np.concatenate(column) for column in zip(*parts, (empty, empty, np.zeros(0)), strict=True))
    return Pairs(detection, truth, iou, table.label[detection] == table.truth_class[truth])


def _iou(box: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    low = np.maximum(box[:, :2], truth[:, :2])
    side = np.minimum(box[:, :2] + box[:, 2:], truth[:, :2] + truth[:, 2:]) - low
    common = np.where((side > 0).all(1), side[:, 0] * side[:, 1], 0.0)
    own, other = box[:, 2] * box[:, 3], truth[:, 2] * truth[:, 3]
    union = np.where(crowd, own, own + other - common)
    return np.divide(common, union, out=np.zeros_like(common), where=common > 0)


@dataclass(frozen=True, slots=True)
class Matches:
    """truth: (d,) the true box that a detection hits, -1 for none; ignored: (d,) bool, detections that count neither as
    right nor as false, because they lie on a crowd region."""

    truth: np.ndarray
    ignored: np.ndarray


def match(table: Columns, pairs: Pairs, iou: float, *, any_class: bool = False) -> Matches:
    """Each detection, best first, takes the free true box of its image and class with the highest IoU.

    iou: the least that counts. The result is that of pycocotools' COCOeval for all sizes. any_class: the true box may
    be of another class; crowd regions still only excuse detections of their own.
    """
    allowed = pairs.same_class | (~table.ignored[pairs.truth] if any_class else False)
    near = pairs.where((pairs.iou >= iou) & allowed)
    # Of equal IoUs pycocotools takes the last true box; those that are ignored come after all others.
    order = np.lexsort((-near.truth, -near.iou, table.ignored[near.truth], near.detection))
    detection, truth = near.detection[order], near.truth[order]
    chosen = greedy(detection, truth, len(table.score), reusable=table.crowd[truth])
    on_ignored = (chosen >= 0) & np.concatenate([table.ignored, [False]])[chosen]
    ignored = on_ignored | ((chosen < 0) & too_large(table))
    return Matches(np.where(on_ignored, -1, chosen), ignored)


def greedy(detection: np.ndarray, truth: np.ndarray, count: int, reusable: Sequence[bool] | np.ndarray) -> np.ndarray:
    """(count,) for each detection the first true box of its pairs that is free, -1 for none.

    detection, truth: (p,) pairs in the order in which they are tried; reusable: (p,) true boxes that stay free.
    """
    chosen = np.full(count, -1, np.int64)
    taken: set[int] = set()
    matched = -1
    for d, t, again in zip(detection.tolist(), truth.tolist(), np.asarray(reusable).tolist(), strict=True):
        if d == matched or t in taken:
            continue
        chosen[d] = t
        matched = d
        if not again:
            taken.add(t)
    return chosen
