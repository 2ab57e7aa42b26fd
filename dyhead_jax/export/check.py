"""How far an exported model is from the model itself, on real pictures.

Coordinates: boxes are (x1, y1, x2, y2) in pixels of the picture.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from dyhead_jax.config import DataConfig
from dyhead_jax.inference.batches import Boxes, Detect, detect_pictures
from dyhead_jax.types import Detections

PIXELS, SCORE = 0.01, 1e-5  # the largest differences that are no difference


@dataclass(frozen=True)
class Difference:
    """pixels, scores: the largest over all boxes of all pictures. boxes: how many were compared. alone: boxes that only
    one of the two has; the score of such a box above the lowest one of its picture counts as a difference of scores,
    because only a box at the cut may come or go by rounding."""

    pixels: float
    scores: float
    boxes: int
    alone: int

    @property
    def small(self) -> bool:
        return self.pixels <= PIXELS and self.scores <= SCORE


def compare(expected: Sequence[Boxes], given: Sequence[Boxes]) -> Difference:
    """The differences between two lists of boxes of the same pictures.

    Each box is compared with the nearest of its class that is not taken, best first: boxes of nearly equal scores may
    change places.
    """
    pixels = scores = 0.0
    count = alone = 0
    for one, other in zip(expected, given, strict=True):
        free = np.ones(len(other.boxes), bool)
        lone: list[float] = []
        for box, score, label in zip(one.boxes, one.scores, one.labels, strict=True):
            rivals = np.flatnonzero(free & (other.labels == label))
            distance = np.abs(other.boxes[rivals] - box).max(axis=1, initial=0)
            gap = np.abs(other.scores[rivals] - score)
            near = np.flatnonzero((distance < 1) & (gap < 0.01))
            if not len(near):
                lone.append(float(score))
                continue
            best = near[np.argmin(distance[near] / PIXELS + gap[near] / SCORE)]
            free[rivals[best]] = False
            pixels, scores = max(pixels, float(distance[best])), max(scores, float(gap[best]))
            count += 1
        lone += other.scores[free].tolist()
        if lone:
            scores = max(scores, max(lone) - float(min([*one.scores, *other.scores])))
        alone += len(lone)
    return Difference(pixels, scores, count, alone)


class Timed:
    """A detector that counts the milliseconds of a picture, without the first call for a canvas, which compiles."""

    def __init__(self, detect: Detect):
        self._detect = detect
        self._seen: set[tuple[int, ...]] = set()
        self._seconds, self._pictures = 0.0, 0

    def __call__(self, images: np.ndarray, sizes: np.ndarray) -> Detections:
        if images.shape not in self._seen:
            self._seen.add(images.shape)
            jax.block_until_ready(self._detect(images, sizes))
        start = time.perf_counter()
        found = jax.block_until_ready(self._detect(images, sizes))
        self._seconds += time.perf_counter() - start
        self._pictures += len(images)
        return found

    @property
    def milliseconds(self) -> float:
        """Of a picture, from pixels on the canvas to boxes there."""
        return 1000 * self._seconds / max(1, self._pictures)


def check(
    model: Detect, exported: Detect, pictures: Sequence[np.ndarray], data: DataConfig, num_classes: int
) -> tuple[Difference, float, float]:
    """The difference on pictures (h, w, 3) uint8 RGB, one at a time, and the milliseconds of model and export."""
    timed = Timed(model), Timed(exported)
    expected, given = (detect_pictures(detect, pictures, data, num_classes, 1) for detect in timed)
    return compare(expected, given), timed[0].milliseconds, timed[1].milliseconds
