"""Precision against recall as pycocotools computes it; precision, recall and F1 against a threshold on the score."""

from dataclasses import dataclass

import numpy as np

from dyhead_jax.evaluation.report.columns import Columns
from dyhead_jax.evaluation.report.overlaps import Matches

RECALLS = np.linspace(0.0, 1.0, 101)  # COCO's; some differ from i / 100 in the last bit


def interpolated(right: np.ndarray, truths: int, recalls: np.ndarray) -> np.ndarray:
    """The highest precision at each recall or beyond it, 0 where it is not reached.

    right: (d,) bool, whether a detection is a hit, best first; truths: the number of true boxes, more than 0;
    recalls: (r,) ascending. Returns (r,) float64; its mean is the average precision.
    """
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / truths, recalls, side="left")
    return np.concatenate([precision, [0.0]])[np.minimum(places, len(right))]


def precision_by_class(table: Columns, matches: Matches) -> np.ndarray:
    """(c, 101) precision at RECALLS for each class; NaN for a class without true boxes."""
    truths = table.truths_by_class()
    result = np.full((len(truths), len(RECALLS)), np.nan)
    counted = np.flatnonzero(~matches.ignored)
    # Equal scores stay in the order of the table, as in pycocotools.
    order = counted[np.lexsort((-table.score[counted], table.label[counted]))]
    ends = np.searchsorted(table.label[order], np.arange(len(truths) + 1))
    right = matches.truth[order] >= 0
    for label in np.flatnonzero(truths):
        result[label] = interpolated(right[ends[label] : ends[label + 1]], truths[label], RECALLS)
    return result


@dataclass(frozen=True, slots=True)
class ScoreCurves:
    """What happens when detections below a score are dropped. All (s,) float64, over all classes together.

    score: the thresholds; precision: hits among the detections that are left, NaN where none is; recall: hits among the
    true boxes, NaN without any; f1: 2 hits / (detections + true boxes). best: the place of the highest f1 (of several
    the middle one), None when nothing is ever hit.
    """

    score: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    best: int | None


def thresholds(table: Columns) -> np.ndarray:
    """(101,) scores from 0 to 1 in hundredths; from the lowest to the highest where scores lie outside 0 to 1."""
    low, high = table.score.min(initial=0.0), table.score.max(initial=1.0)
    if low >= 0 and high <= 1:
        return np.arange(101) / 100
    return np.linspace(low, high, 101)


def score_curves(table: Columns, matches: Matches) -> ScoreCurves:
    """The curves of matches made with all detections: a match does not depend on detections of lower score."""
    score = thresholds(table)
    counted = ~matches.ignored
    found = _at_least(table.score[counted], score)
    hits = _at_least(table.score[counted & (matches.truth >= 0)], score)
    truths = int((~table.ignored).sum())
    f1 = 2 * hits / np.maximum(found + truths, 1)
    top = np.flatnonzero(f1 == f1.max())
    return ScoreCurves(
        score=score,
        precision=np.where(found > 0, hits / np.maximum(found, 1), np.nan),
        recall=hits / truths if truths else np.full(len(score), np.nan),
        f1=f1,
        best=int(top[len(top) // 2]) if f1.max() > 0 else None,
    )


def _at_least(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """(b,) how many values are at or above each bound."""
    return len(values) - np.searchsorted(np.sort(values), bounds, side="left")
