"""An output map cut into square tiles, and around each tile a window of the map that is read: no arithmetic.

A window is the part of the map under its tile and `MARGIN` pixels more on each side (for the kernel's reach and the
offsets together), so that samples near their tile lie in it.

Axis letters are those of the package's legend (`geometry`).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.ops.deform_conv.geometry import Layout

TILE = 8  # positions along each side of a tile
MARGIN = 8  # pixels that a window reaches beyond what is under its tile, on each side


class Grid(NamedTuple):
    """The tiles of an output and the windows that they read, each as (rows, columns)."""

    tiles: tuple[int, int]  # number of tiles
    step: tuple[int, int]  # pixels from one window to the next
    first: tuple[int, int]  # pixel where the first window starts, usually outside the map
    size: tuple[int, int]  # pixels of a window


def grid_of(layout: Layout, kernel_size, stride, padding, dilation) -> Grid:
    """The grid of one map; the other arguments as (along y, along x). Windows lie around the kernel's middle tap."""
    middle = [(k - 1) * d // 2 - p for k, d, p in zip(kernel_size, dilation, padding, strict=True)]
    step = [TILE * s for s in stride]
    return Grid(
        tiles=(-(-layout.out_height // TILE), -(-layout.out_width // TILE)),
        step=(step[0], step[1]),
        first=(middle[0] - MARGIN, middle[1] - MARGIN),
        size=(step[0] + 2 * MARGIN, step[1] + 2 * MARGIN),
    )


def in_window(grid: Grid, layout: Layout, y: jax.Array, x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """The floors of the points along y and along x, (k, b, g, p) each, in pixels of their positions' windows; and
    whether all four corners of a sample lie in its window."""
    floors, inside = [], []
    positions = np.divmod(np.arange(layout.positions), layout.out_width)
    for axis, points in enumerate((y, x)):
        start = positions[axis] // TILE * grid.step[axis] + grid.first[axis]
        floors.append(jnp.floor(points) - start.astype(points.dtype).reshape(1, 1, 1, -1))
        inside.append((floors[axis] >= 0) & (floors[axis] < grid.size[axis] - 1))
    return floors, inside[0] & inside[1]


def windows(grid: Grid, x_map: jax.Array, deform_groups: int) -> jax.Array:
    """The windows of a map (b, h, w, c), zero outside the map: (b, g, y, x, v, c // g)."""
    b, h, w, c = x_map.shape
    blocks = [-(-size // step) for size, step in zip(grid.size, grid.step, strict=True)]  # blocks that a window spans
    steps = [tiles + span - 1 for tiles, span in zip(grid.tiles, blocks, strict=True)]
    sides = [
        (-first, n * step + first - side, 0)
        for first, n, step, side in zip(grid.first, steps, grid.step, (h, w), strict=True)
    ]
    x_map = jax.lax.pad(x_map, jnp.zeros((), x_map.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
    x_map = x_map.reshape(b, steps[0], grid.step[0], steps[1], grid.step[1], c)
    for axis, tiles, span, size in zip((1, 3), grid.tiles, blocks, grid.size, strict=True):
        shifted = [jax.lax.slice_in_dim(x_map, i, i + tiles, axis=axis) for i in range(span)]
        x_map = jax.lax.slice_in_dim(jnp.concatenate(shifted, axis=axis + 1), 0, size, axis=axis + 1)
    x_map = x_map.transpose(0, 1, 3, 2, 4, 5).reshape(b, *grid.tiles, math.prod(grid.size), deform_groups, -1)
    return jnp.moveaxis(x_map, 4, 1)


def tiles(grid: Grid, v: jax.Array, axis: int) -> jax.Array:
    """Replaces the axes (height, width) at `axis` by (y, x, t); tiles are padded with zeros."""
    height, width = v.shape[axis : axis + 2]
    sides = [(0, 0)] * v.ndim
    sides[axis], sides[axis + 1] = (0, grid.tiles[0] * TILE - height), (0, grid.tiles[1] * TILE - width)
    v = jnp.pad(v, sides)
    v = v.reshape(*v.shape[:axis], grid.tiles[0], TILE, grid.tiles[1], TILE, *v.shape[axis + 2 :])
    v = jnp.swapaxes(v, axis + 1, axis + 2)
    return v.reshape(*v.shape[: axis + 2], TILE * TILE, *v.shape[axis + 4 :])


def untiled(layout: Layout, v: jax.Array, axis: int) -> jax.Array:
    """The transpose of `tiles`."""
    ny, nx = v.shape[axis : axis + 2]
    v = v.reshape(*v.shape[: axis + 2], TILE, TILE, *v.shape[axis + 3 :])
    v = jnp.swapaxes(v, axis + 1, axis + 2)
    v = v.reshape(*v.shape[:axis], ny * TILE, nx * TILE, *v.shape[axis + 4 :])
    v = jax.lax.slice_in_dim(v, 0, layout.out_height, axis=axis)
    return jax.lax.slice_in_dim(v, 0, layout.out_width, axis=axis + 1)


def by_tile(grid: Grid, layout: Layout, v: jax.Array) -> jax.Array:
    """(k, b, g, p) to (b, g, y, x, k, t)."""
    k, b, g, _ = v.shape
    v = tiles(grid, v.reshape(k, b, g, layout.out_height, layout.out_width), axis=3)
    return v.transpose(1, 2, 3, 4, 0, 5)


def from_samples(layout: Layout, v: jax.Array) -> jax.Array:
    """The transpose of `by_tile`."""
    v = untiled(layout, v.transpose(4, 0, 1, 2, 3, 5), axis=3)
    return v.reshape(*v.shape[:3], -1)


def from_tiles(layout: Layout, v: jax.Array) -> jax.Array:
    """(b, y, x, t, c) to (b, p, c)."""
    v = untiled(layout, v, axis=1)
    return v.reshape(v.shape[0], -1, v.shape[3])
