"""BorderAlign (Qiu et al. 2020): for each side of a box, the channel-wise maximum over points along it.

Coordinates: boxes are (x1, y1, x2, y2) in cells of the map, with whole numbers at the centres of cells: a point (x, y)
is interpolated between the cells floor and floor + 1, without a half-cell shift.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def border_align(feature: jax.Array, boxes: jax.Array, pool_size: int = 10) -> jax.Array:
    """feature: (b, h, w, 4 * c), the channels of the top, left, bottom and right side in this order; boxes: (b, n, 4).

    Each side is read at pool_size + 1 evenly spaced points, both ends included: top and left starting at (x1, y1),
    bottom and right at (x2, y2). Among equal maxima the first one counts. Points are clipped to the map.
    Returns (b, n, 4, c) in the dtype of the feature. The gradient goes to the four cells around the maximum; boxes get
    none. Raises ValueError for shapes that do not fit. Source: the official kernel `border_align`.
    """
    return border_align_levels([feature], [boxes], pool_size)[0]


def border_align_levels(
    features: Sequence[jax.Array], boxes: Sequence[jax.Array], pool_size: int = 10
) -> list[jax.Array]:
    """`border_align` of every level of a pyramid in one loop over the points: fewer gathers, and faster to compile."""
    channels = features[0].shape[-1]
    for level, (feature, box) in enumerate(zip(features, boxes, strict=True)):
        if feature.ndim != 4 or channels % 4 or feature.shape[3] != channels:
            raise ValueError(f"border_align: feature {level} has shape {feature.shape}, expected (b, h, w, 4 * c)")
        if box.ndim != 3 or box.shape[0] != feature.shape[0] or box.shape[2] != 4:
            raise ValueError(f"border_align: boxes {level} have shape {box.shape}, expected ({feature.shape[0]}, n, 4)")
    if pool_size < 1:
        raise ValueError(f"border_align: pool_size is {pool_size}; it must be at least 1")
    batch, counts = features[0].shape[0], [box.shape[1] for box in boxes]
    layout = tuple((*feature.shape[1:3], count) for feature, count in zip(features, counts, strict=True))
    rows = jnp.concatenate([feature.reshape(batch, -1, 4, channels // 4) for feature in features], axis=1)
    flat = jax.lax.stop_gradient(jnp.concatenate(boxes, axis=1))
    flat = flat.astype(jnp.promote_types(flat.dtype, jnp.float32))
    out: Any = _align(layout, pool_size, rows.transpose(0, 2, 1, 3), flat)
    out = out.transpose(0, 2, 1, 3).astype(features[0].dtype)
    return jnp.split(out, np.cumsum(counts)[:-1].tolist(), axis=1)


Layout = tuple[tuple[int, int, int], ...]  # height, width and number of boxes of each level


def _corners(layout: Layout, pool_size: int, boxes: jax.Array, point: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Of the four cells around point number `point` of every side, the rows in the table and the weights: (b, 4, n)."""
    counts = [count for *_, count in layout]
    per_box = lambda v: jnp.asarray(np.repeat(np.asarray(v, np.int32), counts).reshape(1, 1, -1))  # noqa: E731
    height, width = per_box([h for h, _, _ in layout]), per_box([w for _, w, _ in layout])
    start = per_box(np.cumsum([0] + [h * w for h, w, _ in layout])[:-1])
    x1, y1, x2, y2 = jnp.moveaxis(boxes, -1, 0)
    dx, dy = (x2 - x1) / pool_size, (y2 - y1) / pool_size
    p = jnp.asarray(point, boxes.dtype)
    x = jnp.stack([x1 + p * dx, x1, x2 - p * dx, x2], axis=1)
    y = jnp.stack([y1, y1 + p * dy, y2, y2 - p * dy], axis=1)
    (top, bottom, fy), (left, right, fx) = _cells(y, height), _cells(x, width)
    return [
        (start + top * width + left, (1 - fy) * (1 - fx)),
        (start + top * width + right, (1 - fy) * fx),
        (start + bottom * width + left, fy * (1 - fx)),
        (start + bottom * width + right, fy * fx),
    ]


def _cells(v: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    v = jnp.clip(v, 0.0, (length - 1).astype(v.dtype))
    low = v.astype(jnp.int32)
    return low, jnp.minimum(low + 1, length - 1), v - low.astype(v.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _align(layout: Layout, pool_size: int, table: jax.Array, boxes: jax.Array) -> jax.Array:
    """table: (b, 4, rows, c) of all levels; boxes: (b, n, 4). Returns (b, 4, n, c), float32 or wider."""
    return _maximum(layout, pool_size, table, boxes)[0]


def _maximum(layout, pool_size, table, boxes) -> tuple[jax.Array, jax.Array]:
    """The maxima, and for each the number of the first point that attains it."""
    number = jnp.int8 if pool_size < 128 else jnp.int32

    def sample(point: Any) -> Any:
        return sum(w[..., None] * _gather(table, rows) for rows, w in _corners(layout, pool_size, boxes, point))

    def walk(point: jax.Array, carry):
        maximum, first = carry
        value = sample(point)
        return jnp.maximum(maximum, value), jnp.where(value > maximum, point.astype(number), first)

    # The loop starts from the first point: inside shard_map the carry must vary over devices, as its values do.
    start = sample(0)
    return jax.lax.fori_loop(1, pool_size + 1, walk, (start, (start != start).astype(number) * 0))


def _align_fwd(layout, pool_size, table, boxes) -> tuple[jax.Array, Any]:
    maximum, first = _maximum(layout, pool_size, table, boxes)
    return maximum, (table, boxes, first)


def _align_bwd(layout, pool_size, residuals, g) -> tuple[jax.Array, None]:
    table, boxes, first = residuals

    def add(point, total):
        here = jnp.where(first == point, g, 0.0)
        for rows, weight in _corners(layout, pool_size, boxes, point):
            total = _scatter_add(total, rows, weight[..., None].astype(g.dtype) * here)
        return total

    # the first point outside the loop, for the same reason as above
    total = add(0, jnp.zeros_like(table, dtype=g.dtype))
    return jax.lax.fori_loop(1, pool_size + 1, add, total).astype(table.dtype), None


_align.defvjp(_align_fwd, _align_bwd)


def _gather(table: jax.Array, rows: jax.Array) -> jax.Array:
    """(b, 4, rows, c) and (b, 4, n) to (b, 4, n, c); by vmap the first two axes stay batching dimensions."""
    return jax.vmap(jax.vmap(lambda t, i: t.at[i].get(mode="promise_in_bounds")))(table, rows)


def _scatter_add(table: jax.Array, rows: jax.Array, values: jax.Array) -> jax.Array:
    return jax.vmap(jax.vmap(lambda t, i, v: t.at[i].add(v, mode="promise_in_bounds")))(table, rows, values)
