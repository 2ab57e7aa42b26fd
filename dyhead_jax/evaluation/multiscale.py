"""Multi-scale testing with mirror images: the passes over the images, and how their boxes are merged.

Coordinates: boxes are (x1, y1, x2, y2). A pass sees resized images; boxes are merged in pixels of the original images.
Sources: the released ATSS code (`TEST.BBOX_AUG`); box voting as in Gidaris & Komodakis 2015.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.boxes import geometry
from dyhead_jax.boxes.nms import nms
from dyhead_jax.config import DataConfig, EvaluationConfig
from dyhead_jax.config.training_choices import Merge

CHUNK = 64  # images merged per call


@dataclass(frozen=True)
class Pass:
    """One pass over all images. data: with the short side, long side and canvases of this scale. flip: mirrored images.
    sizes: keep only boxes whose sqrt(area), in pixels of this scale, lies strictly between these two."""

    data: DataConfig
    flip: bool = False
    sizes: tuple[float, float] | None = None


def passes(data: DataConfig, evaluation: EvaluationConfig) -> list[Pass]:
    """The passes of a test, scale by scale; by default a single plain one."""
    result = []
    for i, short in enumerate(evaluation.short_sides or (max(data.short_side),)):
        long = evaluation.long_sides[i] if evaluation.long_sides else data.long_side
        scaled = replace(data, short_side=(short,), long_side=long, canvases=scaled_canvases(data, short, long))
        sizes = evaluation.size_ranges[i] if evaluation.size_ranges else None
        result += [Pass(scaled, flip, sizes) for flip in ((False, True) if evaluation.flip else (False,))]
    return result


def scaled_canvases(data: DataConfig, short: int, long: int) -> tuple[tuple[int, int], ...]:
    """The canvases of `data` rescaled to another short and long side. Their sides stay multiples of the greatest common
    divisor of the old ones, at most 128."""
    if (short, long) == (max(data.short_side), data.long_side):
        return data.canvases
    factor = short / max(data.short_side)
    unit = math.gcd(128, *(side for canvas in data.canvases for side in canvas))
    up = lambda side: math.ceil(min(side * factor, long) / unit) * unit  # noqa: E731
    return tuple((up(height), up(width)) for height, width in data.canvases)


def mirror(boxes: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Maps boxes (n, d, 4) of horizontally flipped images of the given widths (n,) back to the original images."""
    width = np.asarray(widths, boxes.dtype).reshape(-1, 1)
    return np.stack([width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]], axis=-1)


def outside(boxes: np.ndarray, sizes: tuple[float, float]) -> np.ndarray:
    """Whether the sqrt(area) of each box (..., 4) is not strictly between the two sizes."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    area = np.maximum(width, 0) * np.maximum(height, 0)
    return (area <= sizes[0] ** 2) | (area >= sizes[1] ** 2)


def merge(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, evaluation: EvaluationConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merges the boxes of all passes into one set per image, best first.

    boxes: (n, k, 4) in pixels of the original images; scores: (n, k), 0 where empty; labels: (n, k). Returns the same
    with k = max_detections; empty slots have score 0 and label -1.
    """
    merge_chunk = partial(
        _merge,
        threshold=evaluation.merge_threshold,
        keep=evaluation.max_detections,
        vote=evaluation.merge == Merge.VOTE,
    )
    parts = []
    for start in range(0, len(boxes), CHUNK):
        chunk = [x[start : start + CHUNK] for x in (boxes, scores, labels)]
        count = len(chunk[0])
        filled = [np.pad(x, ((0, CHUNK - count), *((0, 0),) * (x.ndim - 1))) for x in chunk]  # one shape, compiled once
        parts.append([np.asarray(x)[:count] for x in merge_chunk(*filled)])
    boxes, scores, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return boxes, scores, labels


@partial(jax.jit, static_argnames=("threshold", "keep", "vote"))
def _merge(boxes: jax.Array, scores: jax.Array, labels: jax.Array, *, threshold: float, keep: int, vote: bool):
    merge_image = _vote if vote else _suppress
    boxes, scores, labels = jax.vmap(lambda b, s, q: merge_image(b, s, q, threshold, keep))(boxes, scores, labels)
    real = scores > 0
    return jnp.where(real[..., None], boxes, 0.0), scores, jnp.where(real, labels, -1)


def _suppress(boxes, scores, labels, threshold: float, keep: int):
    index, real = nms(boxes, scores, labels, threshold, keep)
    return boxes[index], jnp.where(real, scores[index], 0.0), labels[index]


def _vote(boxes, scores, labels, threshold: float, keep: int):
    """NMS in which a kept box becomes the score-weighted mean of itself and the boxes that it suppresses."""

    def pick(scores, _):
        best = jnp.argmax(scores)
        overlaps = (geometry.iou(boxes, boxes[best][None]) > threshold) & (labels == labels[best]) & (scores > 0)
        overlaps = overlaps.at[best].set(True)
        weight = jnp.where(overlaps, scores, 0.0)
        box = jnp.sum(weight[:, None] * boxes, axis=0) / jnp.maximum(jnp.sum(weight), jnp.finfo(scores.dtype).tiny)
        return jnp.where(overlaps, 0.0, scores), (box, scores[best], labels[best])

    return jax.lax.scan(pick, scores, length=keep)[1]
