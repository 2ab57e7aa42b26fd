"""Box geometry. Coordinates: boxes are (x1, y1, x2, y2), continuous pixels of the padded input, width = x2 - x1.

All functions are pure, float32 (or wider) in and out, and broadcast over leading axes.
"""

import math

import jax
import jax.numpy as jnp

from dyhead_jax.choices import Choice

MAX_LOG_RATIO = math.log(1000 / 16)  # largest |dw|, |dh| that decoding admits, as in all public lineages
EPS = 1e-6


class GIoUEps(Choice):
    """How `giou` keeps its divisions finite."""

    FLOOR = "floor"  # max(x, 1e-6), mmdetection
    ADDED = "added"  # x + 1e-7, official DynamicHead


class DeltaClamp(Choice):
    """Which sides of the decoded log sizes `decode_deltas` clamps to log(1000/16)."""

    BOTH = "both"  # mmdetection
    UPPER = "upper"  # detectron2


def area(boxes: jax.Array) -> jax.Array:
    """(..., 4) to (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def center(boxes: jax.Array) -> jax.Array:
    """(..., 4) to (..., 2) as (x, y)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def overlap_and_union(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Areas (...) of the intersection and the union of boxes (..., 4) that broadcast."""
    size = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    size = jnp.maximum(size, 0.0)
    overlap = size[..., 0] * size[..., 1]
    return overlap, area(a) + area(b) - overlap


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Overlap / max(union, 1e-6) of boxes (..., 4) that broadcast."""
    overlap, union = overlap_and_union(a, b)
    return overlap / jnp.maximum(union, EPS)


def pairwise_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """a: (n, 4), b: (m, 4). Returns (n, m)."""
    return iou(a[:, None, :], b[None, :, :])


def pairwise_iof(a: jax.Array, b: jax.Array) -> jax.Array:
    """Overlap over the area of the foreground a. a: (n, 4), b: (m, 4). Returns (n, m)."""
    a, b = a[:, None, :], b[None, :, :]
    overlap, _ = overlap_and_union(a, b)
    return overlap / jnp.maximum(jnp.broadcast_to(area(a), overlap.shape), EPS)


def giou(a: jax.Array, b: jax.Array, eps: str = GIoUEps.FLOOR) -> jax.Array:
    """Generalised IoU (Rezatofighi et al. 2019) of boxes (..., 4) that broadcast, in [-1, 1].

    eps: a `GIoUEps`. Raises ValueError for another one.
    """
    overlap, union = overlap_and_union(a, b)
    hull = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
    hull = jnp.maximum(hull, 0.0)
    hull = hull[..., 0] * hull[..., 1]
    if GIoUEps.parse("giou eps", eps) == GIoUEps.ADDED:
        return overlap / (union + 1e-7) - (hull - union) / (hull + 1e-7)
    union, hull = jnp.maximum(union, EPS), jnp.maximum(hull, EPS)
    return overlap / union - (hull - union) / hull


def clip(boxes: jax.Array, sizes: jax.Array) -> jax.Array:
    """Moves the corners of boxes (..., 4) inside images of sizes (..., 2) (height, width); leading axes broadcast."""
    limit = jnp.stack([sizes[..., 1], sizes[..., 0]] * 2, axis=-1).astype(boxes.dtype)
    return jnp.minimum(jnp.maximum(boxes, 0.0), limit)


def encode_deltas(priors: jax.Array, boxes: jax.Array, std: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)) -> jax.Array:
    """The deltas (dx, dy, dw, dh) / std that lead from priors to boxes, all (..., 4).

    Source: Girshick et al. 2014 (R-CNN), appendix C.
    """
    size, target = priors[..., 2:] - priors[..., :2], boxes[..., 2:] - boxes[..., :2]
    shift = (center(boxes) - center(priors)) / size
    deltas = jnp.concatenate([shift, jnp.log(target / size)], axis=-1)
    return deltas / _like(std, deltas)


def decode_deltas(
    priors: jax.Array, deltas: jax.Array, std: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0), clamp: str = DeltaClamp.BOTH
) -> jax.Array:
    """Boxes (..., 4): priors (..., 4) moved and scaled by deltas * std, the inverse of `encode_deltas`.

    clamp: a `DeltaClamp`, for dw and dh. Raises ValueError for another one.
    """
    deltas = deltas * _like(std, deltas)
    log_size = jnp.minimum(deltas[..., 2:], MAX_LOG_RATIO)
    if DeltaClamp.parse("delta clamp", clamp) == DeltaClamp.BOTH:
        log_size = jnp.maximum(log_size, -MAX_LOG_RATIO)
    size = priors[..., 2:] - priors[..., :2]
    middle = center(priors) + size * deltas[..., :2]
    half = size * jnp.exp(log_size) / 2
    return jnp.concatenate([middle - half, middle + half], axis=-1)


def encode_distances(points: jax.Array, boxes: jax.Array) -> jax.Array:
    """(left, top, right, bottom) from points (..., 2) to the sides of boxes (..., 4), in pixels."""
    return jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)


def decode_distances(points: jax.Array, distances: jax.Array) -> jax.Array:
    """The inverse of `encode_distances`."""
    return jnp.concatenate([points - distances[..., :2], points + distances[..., 2:]], axis=-1)


def centerness(points: jax.Array, boxes: jax.Array) -> jax.Array:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of points inside boxes; 0 outside. Tian et al. 2019."""
    left, top, right, bottom = jnp.moveaxis(encode_distances(points, boxes), -1, 0)
    inside = jnp.minimum(jnp.minimum(left, right), jnp.minimum(top, bottom)) > 0
    horizontal = jnp.minimum(left, right) / jnp.where(inside, jnp.maximum(left, right), 1.0)
    vertical = jnp.minimum(top, bottom) / jnp.where(inside, jnp.maximum(top, bottom), 1.0)
    # the root's argument is replaced before the root: its gradient at 0 is infinite
    return jnp.where(inside, jnp.sqrt(jnp.where(inside, horizontal * vertical, 1.0)), 0.0)


def _like(values: tuple[float, ...], array: jax.Array) -> jax.Array:
    return jnp.asarray(values, array.dtype).reshape((1,) * (array.ndim - 1) + (4,))
