"""From scored boxes of all levels to a fixed number of detections.

Coordinates: boxes are (x1, y1, x2, y2) in pixels of the padded input; sizes are (height, width) of the image inside it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dyhead_jax.boxes import geometry
from dyhead_jax.boxes.nms import nms
from dyhead_jax.types import Detections


class Candidates(NamedTuple):
    """Pairs of box and class that may become detections; scores are 0 where there is none."""

    boxes: jax.Array  # (k, 4)
    scores: jax.Array  # (k,)
    labels: jax.Array  # (k,)


def select(boxes: jax.Array, scores: jax.Array, rank: jax.Array, keep: int) -> Candidates:
    """The `keep` best (anchor, class) pairs of one level of one image.

    boxes: (n, 4); scores, rank: (n, q), the final score and what to order by; pairs with rank 0 are no candidates.
    The best pairs lie on the best anchors, so anchors are cut to `keep` first: a small second sort in place of one over
    n * q.
    """
    keep_anchors = min(keep, rank.shape[0])
    _, anchor = jax.lax.top_k(jnp.max(rank, axis=1), keep_anchors)
    anchor = jnp.sort(anchor)  # ties between pairs then fall as in one sort over all
    few = rank[anchor]
    value, pair = jax.lax.top_k(few.reshape(-1), min(keep, few.size))
    row, label = pair // rank.shape[1], pair % rank.shape[1]
    score = jnp.where(value > 0, scores[anchor][row, label], 0.0)
    return Candidates(boxes[anchor[row]], score, label.astype(jnp.int32))


def select_levels(
    boxes: Sequence[jax.Array], scores: Sequence[jax.Array], rank: Sequence[jax.Array], keep: int
) -> Candidates:
    """`select` for each level of a batch, joined. boxes: (b, n_l, 4); scores, rank: (b, n_l, q). Leading axis b."""
    each = jax.vmap(lambda b, s, r: select(b, s, r, keep))
    levels = [each(b, s, r) for b, s, r in zip(boxes, scores, rank, strict=True)]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *levels)


def suppress(
    candidates: Candidates, size: jax.Array, threshold: float, keep: int, clip_boxes: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Class-wise NMS over the candidates of all levels of one image, boxes clipped to `size` (2,).

    clip_boxes: "before" NMS (mmdetection) or "after" it (detectron2); boxes without area after clipping are dropped.
    Returns boxes (keep, 4), scores (keep,), labels (keep,), empty slots with score 0 and label -1, best first.
    """
    boxes, scores, labels = candidates
    if clip_boxes == "before":
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
    candidates: Candidates, sizes: jax.Array, threshold: float, keep: int, clip_boxes: str = "before"
) -> Detections:
    """`suppress` for a batch: candidates with a leading axis b, sizes (b, 2)."""
    keep_each = lambda c, s: suppress(c, s, threshold, keep, clip_boxes)  # noqa: E731
    boxes, scores, labels = jax.vmap(keep_each)(candidates, sizes)
    return Detections(boxes=boxes, scores=scores, labels=labels)
