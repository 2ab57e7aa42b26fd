"""BorderAlign (Qiu et al. 2020): for each side of a box, the channel-wise maximum over points along it.

Coordinates: boxes are (x1, y1, x2, y2) in cells of the map, whole numbers at cell (not pixel) centres: a point (x, y)
reads cells floor and floor + 1 without any half-cell shift.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

SIDES = ("top", "left", "bottom", "right")


def border_align(feature: jax.Array, boxes: jax.Array, pool_size: int = 10) -> jax.Array:
    """feature: (b, h, w, 4 * c), channels of the top, left, bottom and right side after one another; boxes: (b, n, 4).

    Each side is read at pool_size + 1 evenly spaced points, both ends included: top and left from (x1, y1), bottom and
    right from (x2, y2), walking along the side; the first of equal maxima counts. Points are cut to the map.
    Returns (b, n, 4, c) in the dtype of the feature. The gradient goes to the four cells around the maximum, and none
    to the boxes. Raises ValueError for shapes that do not fit. Source: the official kernel `border_align`.
    """
    if feature.ndim != 4 or feature.shape[3] % 4:
        raise ValueError(f"border_align: feature has shape {feature.shape}, expected (b, h, w, 4 * c)")
    if boxes.ndim != 3 or boxes.shape[0] != feature.shape[0] or boxes.shape[2] != 4:
        raise ValueError(f"border_align: boxes have shape {boxes.shape}, expected ({feature.shape[0]}, n, 4)")
    if pool_size < 1:
        raise ValueError(f"border_align: pool_size is {pool_size}; it must be at least 1")
    batch, height, width, channels = feature.shape
    table = feature.reshape(batch, height * width, 4, channels // 4).transpose(0, 2, 1, 3)
    boxes = jax.lax.stop_gradient(boxes.astype(jnp.promote_types(boxes.dtype, jnp.float32)))
    out: Any = _align((height, width), pool_size, table, boxes)
    return out.transpose(0, 2, 1, 3).astype(feature.dtype)


def _corners(size: tuple[int, int], pool_size: int, boxes: jax.Array, point: jax.Array):
    """Rows of the map (b, 4, n) and weights of the four cells around point number `point` of every side."""
    x1, y1, x2, y2 = jnp.moveaxis(boxes, -1, 0)
    dx, dy = (x2 - x1) / pool_size, (y2 - y1) / pool_size
    p = point.astype(boxes.dtype)
    x = jnp.stack([x1 + p * dx, x1, x2 - p * dx, x2], axis=1)
    y = jnp.stack([y1, y1 + p * dy, y2, y2 - p * dy], axis=1)
    (top, bottom, fy), (left, right, fx) = _cells(y, size[0]), _cells(x, size[1])
    return [
        (top * size[1] + left, (1 - fy) * (1 - fx)),
        (top * size[1] + right, (1 - fy) * fx),
        (bottom * size[1] + left, fy * (1 - fx)),
        (bottom * size[1] + right, fy * fx),
    ]


def _cells(v: jax.Array, length: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    v = jnp.clip(v, 0.0, length - 1)
    low = v.astype(jnp.int32)
    return low, jnp.minimum(low + 1, length - 1), v - low.astype(v.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _align(size: tuple[int, int], pool_size: int, table: jax.Array, boxes: jax.Array) -> jax.Array:
    """table: (b, 4, h * w, c); boxes: (b, n, 4). Returns (b, 4, n, c), float32 or wider."""
    return _maximum(size, pool_size, table, boxes)[0]


def _maximum(size, pool_size, table, boxes) -> tuple[jax.Array, jax.Array]:
    """The maxima and the number of the point that each was first met at."""

    def sample(point: jax.Array) -> Any:
        return sum(w[..., None] * _gather(table, rows) for rows, w in _corners(size, pool_size, boxes, point))

    def walk(point: jax.Array, carry):
        most, first = carry
        value = sample(point)
        return jnp.maximum(most, value), jnp.where(value > most, point.astype(first.dtype), first)

    # the first point starts the loop: its values vary over devices as a loop carry must inside shard_map
    most = sample(jnp.int32(0))
    return jax.lax.fori_loop(1, pool_size + 1, walk, (most, (most * 0).astype(jnp.int32)))


def _align_fwd(size, pool_size, table, boxes) -> tuple[jax.Array, Any]:
    most, first = _maximum(size, pool_size, table, boxes)
    return most, (table, boxes, first)


def _align_bwd(size, pool_size, residuals, g) -> tuple[jax.Array, None]:
    table, boxes, first = residuals

    def add(point, total):
        here = jnp.where(first == point, g, 0.0)
        for rows, weight in _corners(size, pool_size, boxes, point):
            total = _scatter_add(total, rows, weight[..., None].astype(g.dtype) * here)
        return total

    total = jax.lax.fori_loop(0, pool_size + 1, add, jnp.zeros_like(table, dtype=g.dtype))
    return total.astype(table.dtype), None


_align.defvjp(_align_fwd, _align_bwd)


def _gather(table: jax.Array, rows: jax.Array) -> jax.Array:
    """(b, 4, rows, c) and (b, 4, n) to (b, 4, n, c); vmap keeps the first two batching dimensions of the gather."""
    return jax.vmap(jax.vmap(lambda t, i: t.at[i].get(mode="promise_in_bounds")))(table, rows)


def _scatter_add(table: jax.Array, rows: jax.Array, values: jax.Array) -> jax.Array:
    return jax.vmap(jax.vmap(lambda t, i, v: t.at[i].add(v, mode="promise_in_bounds")))(table, rows, values)
