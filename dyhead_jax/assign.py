"""Which ground-truth box an anchor answers for. One image a call (vmap for a batch); shapes are static.

Coordinates: pixels of the padded input. Every function returns (n,) int32: the index of the box, or NEGATIVE, or IGNORED.
Boxes whose `mask` is False do not exist; callers take crowd boxes out of the mask.
"""

from collections.abc import Sequence
from enum import IntEnum

import jax
import jax.numpy as jnp

from dyhead_jax import boxes as geometry


class Anchor(IntEnum):
    NEGATIVE = -1
    IGNORED = -2


def atss(
    anchors: jax.Array,
    counts: Sequence[int],
    boxes: jax.Array,
    mask: jax.Array,
    valid: jax.Array,
    topk: int = 9,
) -> tuple[jax.Array, jax.Array]:
    """Adaptive training sample selection (Zhang et al. 2020, algorithm 1).

    anchors: (n, 4), one a cell, fine to coarse; counts: anchors of each level; boxes: (m, 4); mask: (m,); valid: (n,)
    bool, False for anchors that do not take part. Candidates of a box are the min(topk, count) anchors of each level
    whose centres are nearest; those with IoU of at least mean + unbiased standard deviation over the candidates, whose
    centre lies inside the box by more than 0.01 pixel, are positive; an anchor wanted by several takes the highest IoU,
    on ties the earlier box.
    Returns the matches (n,) and the IoU with the matched box (n,), 0 where none.
    """
    overlap = geometry.pairwise_iou(boxes, anchors)  # (m, n)
    centers = geometry.center(anchors)
    gap = geometry.center(boxes)[:, None, :] - centers[None, :, :]
    distance = jnp.where(valid[None, :], jnp.sqrt(jnp.sum(gap**2, axis=-1)), jnp.inf)

    chosen, start = [], 0
    for count in counts:
        near, index = jax.lax.top_k(-distance[:, start : start + count], min(topk, count))
        chosen.append((index + start, near > -jnp.inf))
        start += count
    index = jnp.concatenate([i for i, _ in chosen], axis=1)  # (m, candidates)
    exists = jnp.concatenate([e for _, e in chosen], axis=1)

    candidate = jnp.take_along_axis(overlap, index, axis=1)
    number = jnp.sum(exists, axis=1, keepdims=True).astype(candidate.dtype)
    mean = jnp.sum(jnp.where(exists, candidate, 0.0), axis=1, keepdims=True) / jnp.maximum(number, 1.0)
    square = jnp.sum(jnp.where(exists, (candidate - mean) ** 2, 0.0), axis=1, keepdims=True)
    threshold = mean + jnp.sqrt(square / jnp.maximum(number - 1, 1.0))

    sides = geometry.encode_distances(centers[index], boxes[:, None, :])
    positive = exists & (candidate >= threshold) & (jnp.min(sides, axis=-1) > 0.01) & mask[:, None]
    rows = jnp.broadcast_to(jnp.arange(boxes.shape[0])[:, None], index.shape)
    wanted = jnp.full(overlap.shape, -1.0, overlap.dtype).at[rows, index].max(jnp.where(positive, candidate, -1.0))
    best = jnp.max(wanted, axis=0)
    match = jnp.where(best >= 0, jnp.argmax(wanted, axis=0).astype(jnp.int32), Anchor.NEGATIVE)
    return match, jnp.maximum(best, 0.0)
