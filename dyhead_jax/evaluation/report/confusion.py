"""Which class is taken for which: every detection above a score in one cell, every true box in one."""

from dataclasses import dataclass

import numpy as np

from dyhead_jax.evaluation.report.columns import Columns
from dyhead_jax.evaluation.report.overlaps import Pairs, match

IOU = 0.5


@dataclass(frozen=True, slots=True)
class Confusion:
    """Detections with a score of `score` or more beside the true boxes they lie on, whatever the two classes.

    counts: (c + 2, c + 1) int64. Row i, column j: boxes of class i detected as class j. Column c: true boxes without a
    detection (missed). Row c: detections without a true box (false). Row c + 1: detections on crowd regions, which
    count as neither; the last cell of both these rows is 0.
    By image, (n,) int64 each: right, wrong_class, false, missed.
    shown: (d,) bool, the detections above the score; truth: (d,) the true box of each, -1 for none;
    missed_truth: (t,) bool; on_crowd: (d,) bool.
    """

    score: float
    counts: np.ndarray
    right: np.ndarray
    wrong_class: np.ndarray
    false: np.ndarray
    missed: np.ndarray
    shown: np.ndarray
    truth: np.ndarray
    missed_truth: np.ndarray
    on_crowd: np.ndarray


def confusion(table: Columns, pairs: Pairs, score: float) -> Confusion:
    """Matches as `match` does with any_class: the detection with the highest score chooses first."""
    classes, images = len(table.category_ids), len(table.image_ids)
    shown = table.score >= score
    # A detection of lower score never takes a true box from one of higher score, so that all may be matched.
    matches = match(table, pairs, IOU, any_class=True)
    hit = shown & (matches.truth >= 0)
    on_crowd = shown & matches.ignored
    false = shown & ~hit & ~on_crowd
    missed = ~table.ignored
    missed[matches.truth[hit]] = False

    counts = np.zeros((classes + 2, classes + 1), np.int64)
    true_class = table.truth_class[matches.truth[hit]]
    np.add.at(counts, (true_class, table.label[hit]), 1)
    counts[:classes, classes] = np.bincount(table.truth_class[missed], minlength=classes)
    counts[classes, :classes] = np.bincount(table.label[false], minlength=classes)
    counts[classes + 1, :classes] = np.bincount(table.label[on_crowd], minlength=classes)

    def by_image(image: np.ndarray) -> np.ndarray:
        return np.bincount(image, minlength=images)

    same = true_class == table.label[hit]
    return Confusion(
        score=score,
        counts=counts,
        right=by_image(table.image[hit][same]),
        wrong_class=by_image(table.image[hit][~same]),
        false=by_image(table.image[false]),
        missed=by_image(table.truth_image[missed]),
        shown=shown,
        truth=np.where(hit, matches.truth, -1),
        missed_truth=missed,
        on_crowd=on_crowd,
    )
