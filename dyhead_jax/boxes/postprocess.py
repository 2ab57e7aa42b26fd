"""From scored boxes of all levels to a fixed number of detections.

Coordinates: boxes are (x1, y1, x2, y2) in pixels of the padded input; sizes are (height, width) of the image inside it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dyhead_jax.boxes import geometry
from dyhead_jax.boxes.nms import nms
from dyhead_jax.choices import Choice
from dyhead_jax.types import Detections


class ClipBoxes(Choice):
    """When boxes are clipped to their image."""

    BEFORE = "before"  # NMS, mmdetection
    AFTER = "after"  # NMS, detectron2


class LevelScores(NamedTuple):
    """Every anchor or point of one level, with a box and scores. A pair (anchor, class) of rank 0 is no candidate."""

    boxes: jax.Array  # (b, n_l, 4)
    scores: jax.Array  # (b, n_l, q), the final scores
    rank: jax.Array  # (b, n_l, q), by which candidates are chosen


class Candidates(NamedTuple):
    """Pairs of box and class that may become detections; scores are 0 where there is none."""

    boxes: jax.Array  # (k, 4)
    scores: jax.Array  # (k,)
    labels: jax.Array  # (k,)


def select(boxes: jax.Array, scores: jax.Array, rank: jax.Array, keep: int) -> Candidates:
    """The `keep` best (anchor, class) pairs of one level of one image.

    boxes: (n, 4); scores, rank: (n, q), as in `LevelScores`. The best pairs lie on the best anchors, so the anchors are
    cut to `keep` first: that takes a small second sort instead of one over n * q.
    """
    keep_anchors = min(keep, rank.shape[0])
    _, anchor = jax.lax.top_k(jnp.max(rank, axis=1), keep_anchors)
    anchor = jnp.sort(anchor)  # so that equal pairs come in the same order as in one sort over all
    best_anchors = rank[anchor]
    value, pair = jax.lax.top_k(best_anchors.reshape(-1), min(keep, best_anchors.size))
    row, label = pair // rank.shape[1], pair % rank.shape[1]
    score = jnp.where(value > 0, scores[anchor][row, label], 0.0)
    return Candidates(boxes[anchor[row]], score, label.astype(jnp.int32))


def select_levels(levels: Sequence[LevelScores], keep: int) -> Candidates:
    """`select` for each level of a batch, joined; leading axis b."""
    select_images = jax.vmap(lambda boxes, scores, rank: select(boxes, scores, rank, keep))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *[select_images(*level) for level in levels])


def suppress(
    candidates: Candidates, size: jax.Array, threshold: float, keep: int, clip_boxes: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Class-wise NMS over the candidates of all levels of one image, boxes clipped to `size` (2,).

    clip_boxes: a `ClipBoxes`; boxes without area after clipping are dropped. Raises ValueError for another one.
    Returns boxes (keep, 4), scores (keep,), labels (keep,), empty slots with score 0 and label -1, best first.
    """
    boxes, scores, labels = candidates
    if ClipBoxes.parse("clip_boxes", clip_boxes) == ClipBoxes.BEFORE:
        boxes = geometry.clip(boxes, size[None])
        scores = jnp.where(_has_area(boxes), scores, 0.0)
    index, real = nms(boxes, scores, labels, threshold, keep)
    boxes = geometry.clip(boxes[index], size[None])
    real = real & _has_area(boxes)
    # boxes dropped after NMS leave holes: close them, best first
    order = jnp.argsort(~real, stable=True)
    boxes, scores, labels, real = boxes[order], scores[index][order], labels[index][order], real[order]
    return jnp.where(real[:, None], boxes, 0.0), jnp.where(real, scores, 0.0), jnp.where(real, labels, -1)


def _has_area(boxes: jax.Array) -> jax.Array:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def detections(
    candidates: Candidates, sizes: jax.Array, threshold: float, keep: int, clip_boxes: str = ClipBoxes.BEFORE
) -> Detections:
    """`suppress` for a batch: candidates with a leading axis b, sizes (b, 2)."""

    def suppress_image(candidates: Candidates, size: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return suppress(candidates, size, threshold, keep, clip_boxes)

    boxes, scores, labels = jax.vmap(suppress_image)(candidates, sizes)
    return Detections(boxes=boxes, scores=scores, labels=labels)


def mark_broken(found: Detections, predictions: Iterable[jax.Array]) -> Detections:
    """`found`, but with NaN for the scores and 0 for the labels of an image that has a NaN among its predictions.

    Without it such an image looks like one without objects. predictions: (b, ...) each, what the network predicts.
    """
    broken = jnp.zeros(found.scores.shape[0], bool)
    for x in predictions:
        broken = broken | jnp.any(jnp.isnan(x), axis=tuple(range(1, x.ndim)))
    broken = broken[:, None]
    labels = jnp.where(broken, 0, found.labels)
    return Detections(boxes=found.boxes, scores=jnp.where(broken, jnp.nan, found.scores), labels=labels)
