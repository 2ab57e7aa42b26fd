"""RoIAlign (He et al. 2017): a fixed grid of features for boxes of any size, from the pyramid level that fits each.

Coordinates: boxes are (x1, y1, x2, y2) in pixels of the padded input. Pixel (i, j) of a level with stride s has its
centre at ((j + 0.5) * s, (i + 0.5) * s) when `aligned`.

With sampling_ratio 0 the number of points in a bin follows from the box, ceil(side / bins) each way, as in the
reference kernel. Shapes are static all the same: one loop runs over the points of a bin, as often as the largest box
needs, and a box whose own points are done adds nothing more. The number of points is not capped.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dyhead_jax.boxes import geometry


class Grid(NamedTuple):
    """Sampling points of all boxes, in cells of their own level. All (b, r)."""

    y: jax.Array  # start of the first bin
    x: jax.Array
    bin_height: jax.Array
    bin_width: jax.Array
    rows: jax.Array  # points of a bin, int32
    columns: jax.Array
    start: jax.Array  # row of the level's first pixel in the table
    height: jax.Array  # of the level
    width: jax.Array


def roi_levels(boxes: jax.Array, levels: int, finest_scale: float = 56.0) -> jax.Array:
    """The level of each box: floor(log2(sqrt(area) / finest_scale + 1e-6)), cut to 0 ... levels - 1.

    boxes: (..., 4). Returns (...) int32. Source: FPN (Lin et al. 2017), equation 1; mmdetection `map_roi_levels`.
    """
    scale = jnp.sqrt(jnp.maximum(geometry.area(boxes), 0.0))
    level = jnp.floor(jnp.log2(scale / finest_scale + 1e-6))
    return jnp.clip(level, 0, levels - 1).astype(jnp.int32)


def roi_align(
    pyramid: Sequence[jax.Array],
    boxes: jax.Array,
    levels: jax.Array,
    strides: Sequence[int],
    *,
    size: int = 7,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> jax.Array:
    """Mean of bilinear samples in size x size bins of each box.

    pyramid: maps (b, h_l, w_l, c) with their strides in pixels; boxes: (b, r, 4); levels: (b, r) int, the map that each
    box reads. sampling_ratio: points of a bin each way, or 0 for ceil(box side in cells / size). aligned: pixel centres
    at half-integers; False is the older rule without the half and with boxes of at least one cell.
    A point beyond the map by more than one cell counts as 0, and so does a box without area.
    Returns (b, r, size, size, c) in the dtype of the maps; sums are float32 or wider. The gradient reaches the maps
    only. Raises ValueError for shapes that do not fit. Source: mmcv `roi_align`.
    """
    batch, channels = pyramid[0].shape[0], pyramid[0].shape[3]
    for level, x in enumerate(pyramid):
        if x.ndim != 4 or x.shape[0] != batch or x.shape[3] != channels:
            raise ValueError(f"roi_align: level {level} is {x.shape}, expected ({batch}, h, w, {channels})")
    if boxes.ndim != 3 or boxes.shape[0] != batch or boxes.shape[2] != 4:
        raise ValueError(f"roi_align: boxes have shape {boxes.shape}, expected ({batch}, r, 4)")
    if levels.shape != boxes.shape[:2]:
        raise ValueError(f"roi_align: levels have shape {levels.shape}, expected {boxes.shape[:2]}")
    if len(strides) != len(pyramid):
        raise ValueError(f"roi_align: {len(strides)} strides for {len(pyramid)} levels")
    shapes = tuple(x.shape[1:3] for x in pyramid)
    table = jnp.concatenate([x.reshape(batch, -1, channels) for x in pyramid], axis=1)
    grid = _grid(shapes, tuple(strides), jax.lax.stop_gradient(boxes), levels, size, sampling_ratio, aligned)
    out: Any = _pool(size, table, grid)
    return out.reshape(*boxes.shape[:2], size, size, channels).astype(table.dtype)


def _grid(shapes, strides, boxes, levels, size: int, sampling_ratio: int, aligned: bool) -> Grid:
    boxes = boxes.astype(jnp.promote_types(boxes.dtype, jnp.float32))
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))]

    def of_level(values: Sequence[float], dtype: Any) -> jax.Array:
        """The value of each box's level, (b, r)."""
        return jnp.asarray(values, dtype)[levels]

    corners = boxes * of_level([1 / s for s in strides], boxes.dtype)[..., None] - (0.5 if aligned else 0.0)
    sides = corners[..., 2:] - corners[..., :2]
    sides = jnp.maximum(sides, 0.0 if aligned else 1.0)
    if sampling_ratio > 0:
        points = jnp.full(sides.shape, sampling_ratio, jnp.int32)
    else:
        points = jnp.ceil(sides / size).astype(jnp.int32)
    return Grid(
        y=corners[..., 1],
        x=corners[..., 0],
        bin_height=sides[..., 1] / size,
        bin_width=sides[..., 0] / size,
        rows=points[..., 1],
        columns=points[..., 0],
        start=of_level(starts, jnp.int32),
        height=of_level([h for h, _ in shapes], jnp.int32),
        width=of_level([w for _, w in shapes], jnp.int32),
    )


def _axis(start, bin_side, points, point, length, size: int):
    """One axis of point number `point` of every bin, (b, r, size): lower and upper cell, fraction, is it inside."""

    def wide(v: jax.Array) -> jax.Array:
        return v.astype(start.dtype)

    bins = jnp.arange(size, dtype=start.dtype).reshape(1, 1, size)
    step = (wide(point) + 0.5) * bin_side / wide(jnp.maximum(points, 1))
    v = start[..., None] + bins * bin_side[..., None] + step[..., None]
    inside = (v >= -1) & (v <= wide(length)[..., None])
    last = (length - 1)[..., None]
    v = jnp.clip(jnp.where(inside, v, 0.0), 0.0, wide(last))
    low = jnp.minimum(v.astype(jnp.int32), last)
    return low, jnp.minimum(low + 1, last), v - wide(low), inside


def _corners(grid: Grid, point: jax.Array, size: int) -> list[tuple[jax.Array, jax.Array]]:
    """Table rows (b, r * size * size) and weights of the four corners of every bin's point number `point`."""
    count = grid.rows * grid.columns
    across = jnp.maximum(grid.columns, 1)
    top, bottom, fy, in_y = _axis(grid.y, grid.bin_height, grid.rows, point // across, grid.height, size)
    left, right, fx, in_x = _axis(grid.x, grid.bin_width, grid.columns, point % across, grid.width, size)
    share = jnp.where(point < count, 1.0 / jnp.maximum(count, 1).astype(fy.dtype), 0.0)
    weight = share[..., None, None] * (in_y[..., :, None] & in_x[..., None, :]).astype(fy.dtype)
    corners = []
    for rows, wy in ((top, 1 - fy), (bottom, fy)):
        for columns, wx in ((left, 1 - fx), (right, fx)):
            index = (
                grid.start[..., None, None] + rows[..., :, None] * grid.width[..., None, None] + columns[..., None, :]
            )
            value = weight * wy[..., :, None] * wx[..., None, :]
            corners.append((index.reshape(index.shape[0], -1), value.reshape(value.shape[0], -1)))
    return corners


def _most_points(grid: Grid) -> jax.Array:
    return jnp.max(grid.rows * grid.columns, initial=0)


# a loop of dynamic length has no reverse derivative of its own, and the boxes' would be unwanted
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool(size: int, table: jax.Array, grid: Grid) -> jax.Array:
    """table: (b, rows, c) of all levels. Returns (b, r * size * size, c), float32 or wider."""
    wide = jnp.promote_types(table.dtype, jnp.float32)

    def add(point, total):
        for rows, weight in _corners(grid, point, size):
            total = total + weight[..., None].astype(wide) * _gather(table, rows)
        return total

    count = grid.y.shape[1] * size * size
    zero = _zeros(table, count, wide)
    return jax.lax.fori_loop(0, _most_points(grid), add, zero)


def _pool_fwd(size: int, table: jax.Array, grid: Grid) -> tuple[jax.Array, Any]:
    return _pool(size, table, grid), (table, grid)


def _pool_bwd(size: int, residuals: Any, g: jax.Array) -> tuple[jax.Array, None]:
    table, grid = residuals
    wide = g.dtype

    def add(point, total):
        for rows, weight in _corners(grid, point, size):
            total = _scatter_add(total, rows, weight[..., None].astype(wide) * g)
        return total

    total = jax.lax.fori_loop(0, _most_points(grid), add, _zeros(table, table.shape[1], wide))
    return total.astype(table.dtype), None


_pool.defvjp(_pool_fwd, _pool_bwd)


def _zeros(table: jax.Array, rows: int, dtype: Any) -> jax.Array:
    """(b, rows, c), made from the table so that inside shard_map they vary over devices as a loop carry must."""
    return jnp.broadcast_to(jnp.zeros_like(table[:, :1], dtype), (table.shape[0], rows, table.shape[2]))


def _gather(table: jax.Array, rows: jax.Array) -> jax.Array:
    """(b, rows, c) and (b, p) to (b, p, c); vmap keeps b a batching dimension of the gather."""
    return jax.vmap(lambda t, i: t.at[i].get(mode="promise_in_bounds"))(table, rows)


def _scatter_add(table: jax.Array, rows: jax.Array, values: jax.Array) -> jax.Array:
    return jax.vmap(lambda t, i, v: t.at[i].add(v, mode="promise_in_bounds"))(table, rows, values)
