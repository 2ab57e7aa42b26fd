"""Kinds of errors and what each costs, as in TIDE.

Bolya, Foley, Hays, Hoffman: TIDE: A General Toolbox for Identifying Object Detection Errors, ECCV 2020, with its
thresholds: a hit has an IoU of 0.5, background one of 0.1 at most. As in its package tidecv, the 100 best detections of
an image count, and detections on crowd regions have kinds too, though they do not count as false. Two differences:
classes without true boxes are left out of the mean, as in COCO, and equal scores keep their order when an error is
repaired.
"""

from dataclasses import dataclass

import numpy as np

from dyhead_jax.evaluation.report.columns import Columns
from dyhead_jax.evaluation.report.curves import interpolated
from dyhead_jax.evaluation.report.overlaps import LEAST, Pairs, greedy

KINDS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
HIT = 0.5
BACKGROUND = LEAST
PER_IMAGE = 100
_RECALLS = np.arange(101) / 100  # as in tidecv


@dataclass(frozen=True, slots=True)
class ErrorKinds:
    """counts: errors of each of KINDS; gains: how much AP50 grows when errors of that kind alone are repaired, and
    under FalsePos, FalseNeg when all false, all missed boxes are; 0 to 1. ap50: AP50 of the detections that count here.
    kind: (d,) index into KINDS of each detection, -1 for a hit and beyond the 100 best of an image; missed: (t,) bool,
    the true boxes under Miss.
    """

    counts: dict[str, int]
    gains: dict[str, float]
    ap50: float
    kind: np.ndarray
    missed: np.ndarray


def error_kinds(table: Columns, pairs: Pairs) -> ErrorKinds:
    """All kinds. Every detection that is not a hit has one kind, every true box without a hit is missed or is the
    target of a detection of kind Cls or Loc."""
    count = len(table.score)
    listed = table.rank < PER_IMAGE
    pairs = pairs.where(listed[pairs.detection])
    crowds = pairs.where(table.crowd[pairs.truth] & pairs.same_class & (pairs.iou > HIT))
    pairs = pairs.where(~table.crowd[pairs.truth])
    near = pairs.where(pairs.same_class & (pairs.iou >= HIT))
    order = np.lexsort((near.truth, -near.iou, near.detection))
    hit = greedy(near.detection[order], near.truth[order], count, np.zeros(len(order), bool))
    used = np.zeros(len(table.crowd), bool)
    used[hit[hit >= 0]] = True
    on_crowd = np.zeros(count, bool)
    on_crowd[crowds.detection] = True
    on_crowd &= hit < 0

    same, same_truth = _best(pairs.where(pairs.same_class), count)
    other, other_truth = _best(pairs.where(~pairs.same_class), count)
    kind = np.select(
        [
            (hit >= 0) | ~listed,
            (same >= BACKGROUND) & (same <= HIT),
            other >= HIT,
            same >= HIT,
            np.maximum(same, other) <= BACKGROUND,
        ],
        [-1, KINDS.index("Loc"), KINDS.index("Cls"), KINDS.index("Dupe"), KINDS.index("Bkg")],
        KINDS.index("Both"),
    )
    target = np.where(kind == KINDS.index("Loc"), same_truth, np.where(kind == KINDS.index("Cls"), other_truth, -1))
    # Of several detections that would hit one true box after repair, only the best is repaired; the others go.
    aimed = np.flatnonzero(target >= 0)
    aimed = aimed[~used[target[aimed]]]
    targets, first = np.unique(target[aimed], return_index=True)
    repaired = np.zeros(count, bool)
    repaired[aimed[first]] = True
    missed = ~used & ~table.crowd
    missed[targets] = False

    truths = np.bincount(table.truth_class[~table.crowd], minlength=len(table.category_ids))
    present = truths > 0
    counted = listed & ~on_crowd
    right = hit >= 0

    def mean(kept: np.ndarray, right: np.ndarray, label: np.ndarray, truths: np.ndarray) -> float:
        return _mean_ap(table.score[kept], right[kept], label[kept], truths, present)

    base = mean(counted, right, table.label, truths)
    gains = {}
    for number, name in enumerate(KINDS):
        if name == "Miss":
            fewer = truths - np.bincount(table.truth_class[missed], minlength=len(truths))
            gains[name] = mean(counted, right, table.label, fewer) - base
            continue
        fixed = repaired & (kind == number)
        label = np.where(fixed, np.append(table.truth_class, 0)[target], table.label)
        gains[name] = mean((counted & (kind != number)) | fixed, right | fixed, label, truths) - base
    gains = {name: max(gain, 0.0) for name, gain in gains.items()}
    gains["FalsePos"] = mean(counted & right, right, table.label, truths) - base
    found = np.bincount(table.truth_class[used], minlength=len(truths))
    gains["FalseNeg"] = mean(counted, right, table.label, found) - base
    counts = {name: int((kind == number).sum()) for number, name in enumerate(KINDS)}
    return ErrorKinds({**counts, "Miss": int(missed.sum())}, gains, base, kind, missed)


def _best(pairs: Pairs, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count,) each detection's highest IoU, 0 without a pair, and (count,) its true box, the first of equal ones."""
    order = np.lexsort((pairs.truth, -pairs.iou, pairs.detection))
    detection, first = np.unique(pairs.detection[order], return_index=True)
    iou, truth = np.zeros(count), np.full(count, -1, np.int64)
    iou[detection] = pairs.iou[order][first]
    truth[detection] = pairs.truth[order][first]
    return iou, truth


def _mean_ap(score: np.ndarray, right: np.ndarray, label: np.ndarray, truths: np.ndarray, present: np.ndarray) -> float:
    """The mean AP of the classes that are present; one with neither true boxes nor detections left is left out."""
    order = np.lexsort((-score, label))
    right, label = right[order], label[order]
    ends = np.searchsorted(label, np.arange(len(truths) + 1))
    values = []
    for i in np.flatnonzero(present):
        own = right[ends[i] : ends[i + 1]]
        if truths[i] > 0:
            values.append(float(interpolated(own, truths[i], _RECALLS).mean()))
        elif len(own):
            values.append(0.0)
    return sum(values) / len(values) if values else 0.0
