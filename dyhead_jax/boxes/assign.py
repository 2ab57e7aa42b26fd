"""Which ground-truth box each anchor, point or proposal has to predict. One image a call; shapes are static.

Coordinates: pixels of the padded input. Each function returns (n,) int32: the index of a box or a `MatchStatus`.
Boxes whose `mask` is False do not exist; callers take crowd boxes out of the mask.
"""

from collections.abc import Sequence
from enum import IntEnum

import jax
import jax.numpy as jnp

from dyhead_jax.boxes import geometry


class MatchStatus(IntEnum):
    """Of an anchor, point or proposal without a box."""

    NEGATIVE = -1  # background
    IGNORED = -2  # does not train


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
    centre lies inside the box by more than 0.01 pixel, are positive. An anchor that is positive for several boxes takes
    the one of highest IoU, on ties the earlier one.
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
    match = jnp.where(best >= 0, jnp.argmax(wanted, axis=0).astype(jnp.int32), MatchStatus.NEGATIVE)
    return match, jnp.maximum(best, 0.0)


def max_iou(
    priors: jax.Array,
    boxes: jax.Array,
    mask: jax.Array,
    valid: jax.Array | None = None,
    *,
    positive: float = 0.5,
    negative: float = 0.4,
    low_quality: bool = True,
    min_positive: float = 0.0,
    ignored_boxes: jax.Array | None = None,
    ignored_mask: jax.Array | None = None,
    ignore_iof: float = -1.0,
) -> jax.Array:
    """The box of highest IoU, if that IoU is high enough.

    priors: (n, 4) anchors or proposals; boxes: (m, 4); mask: (m,); valid: (n,) bool, False for priors that do not take
    part (they are IGNORED). A prior whose best IoU is at least `positive` takes that box (the earlier one on ties);
    below `negative` it is NEGATIVE, between the two IGNORED. low_quality: a box whose best IoU over all priors is at
    least `min_positive` also takes every prior that reaches that IoU; of two such boxes the later one wins.
    ignored_boxes: (j, 4), ignored_mask: (j,): with ignore_iof > 0, a prior is IGNORED if more than that share of it
    lies in one of them, in images that have boxes.
    Returns (n,) int32. Source: mmdetection `MaxIoUAssigner`.
    """
    overlap = geometry.pairwise_iou(boxes, priors)  # (m, n)
    out = jnp.zeros(priors.shape[0], bool) if valid is None else ~valid
    if ignored_boxes is not None and ignored_mask is not None and ignore_iof > 0:
        inside = geometry.pairwise_iof(priors, ignored_boxes) > ignore_iof  # (n, j)
        out = out | (jnp.any(inside & ignored_mask[None, :], axis=1) & jnp.any(mask))
    # computed once: `overlap == most` below has to compare the numbers from which the maximum was taken
    overlap = jax.lax.optimization_barrier(jnp.where(mask[:, None] & ~out[None, :], overlap, -1.0))
    best = jnp.maximum(jnp.max(overlap, axis=0), 0.0)
    match = jnp.where(best < negative, MatchStatus.NEGATIVE, MatchStatus.IGNORED)
    match = jnp.where((best >= positive) & jnp.any(mask), jnp.argmax(overlap, axis=0), match)
    if low_quality:
        most = jnp.max(overlap, axis=1, keepdims=True)  # (m, 1)
        taken = (overlap == most) & (most >= min_positive) & mask[:, None] & ~out[None, :]
        last = jnp.max(jnp.where(taken, jnp.arange(boxes.shape[0])[:, None], -1), axis=0)
        match = jnp.where(last >= 0, last, match)
    return jnp.where(out, MatchStatus.IGNORED, match).astype(jnp.int32)


def fcos(
    points: jax.Array, boxes: jax.Array, mask: jax.Array, ranges: jax.Array, radius: jax.Array | None = None
) -> jax.Array:
    """The smallest box around a point among those of its level's range of sizes (Tian et al. 2019).

    points: (n, 2) as (x, y); boxes: (m, 4); mask: (m,); ranges: (n, 2), limits of the largest of a point's four
    distances to the sides, in pixels, both included. radius: (n,), in pixels: the point must lie in the part of the box
    that is within `radius` of its centre (centre sampling); None: anywhere in the box. Strictly inside either way; of
    boxes of equal area the earlier one. Returns (n,) int32. Source: mmdetection `FCOSHead.get_targets`.
    """
    points, boxes = points[:, None, :], boxes[None, :, :]
    sides = geometry.encode_distances(points, boxes)  # (n, m, 4)
    inside = jnp.min(sides, axis=-1) > 0
    if radius is not None:
        center, half = geometry.center(boxes), radius[:, None, None]
        core = jnp.concatenate([center - half, center + half], axis=-1)
        inside = inside & (jnp.min(geometry.encode_distances(points, core), axis=-1) > 0)
    reach = jnp.max(sides, axis=-1)
    fits = inside & (reach >= ranges[:, :1]) & (reach <= ranges[:, 1:]) & mask[None, :]
    area = jnp.where(fits, geometry.area(boxes), jnp.inf)
    match = jnp.where(jnp.any(fits, axis=1), jnp.argmin(area, axis=1), MatchStatus.NEGATIVE)
    return match.astype(jnp.int32)


def points(
    centers: jax.Array,
    strides: jax.Array,
    boxes: jax.Array,
    mask: jax.Array,
    valid: jax.Array,
    scale: float = 4.0,
    number: int = 1,
) -> jax.Array:
    """The points nearest to a box's centre on the level of the box's size (Yang et al. 2019).

    centers: (n, 2) as (x, y); strides: (n,) of each point's level; boxes: (m, 4); mask: (m,); valid: (n,) bool, False
    for points that do not take part (they are IGNORED). A box belongs to the coarsest level whose stride is at most
    sqrt(area) / scale, or else to the finest; its `number` nearest points there, by distance in box sides, are
    positive. A point that is positive for several boxes takes the nearest, on ties the earlier one.
    Returns (n,) int32. Source: mmdetection `PointAssigner`.
    """
    size = jnp.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6)
    # a comparison in place of the reference's logarithms: exact where a box is a power of two
    covers = jnp.prod(size, axis=-1)[:, None] >= (scale * strides)[None, :] ** 2  # (m, n)
    finest = jnp.min(jnp.where(valid, strides, jnp.inf))
    level = jnp.max(jnp.where(covers & valid[None, :], strides[None, :], finest), axis=1)  # (m,)
    gap = (centers[None, :, :] - geometry.center(boxes)[:, None, :]) / size[:, None, :]
    here = (level[:, None] == strides[None, :]) & valid[None, :] & mask[:, None]
    distance = jnp.where(here, jnp.sqrt(jnp.sum(gap**2, axis=-1)), jnp.inf)
    near, index = jax.lax.top_k(-distance, min(number, distance.shape[1]))
    rows = jnp.broadcast_to(jnp.arange(boxes.shape[0])[:, None], index.shape)
    wanted = jnp.full(distance.shape, jnp.inf, distance.dtype).at[rows, index].set(-near)
    match = jnp.where(jnp.min(wanted, axis=0) < jnp.inf, jnp.argmin(wanted, axis=0), MatchStatus.NEGATIVE)
    return jnp.where(valid, match, MatchStatus.IGNORED).astype(jnp.int32)
