"""An output map cut into square tiles, and around each tile a window of the map that is read: no arithmetic.

A window is the part of the map under its tile and a margin on each side (for the kernel's reach and the offsets
together), so that samples near their tile lie in it. The map is cut into square blocks once, and a window is
made of whole blocks, so that cutting the overlapping windows moves blocks and no single rows. Its pixels are therefore
ordered block by block. With blocks of 2x2 pixels instead of 8x8, a window of 2x2 blocks would have them in this order:

     0  1 |  4  5
     2  3 |  6  7
    ------+------
     8  9 | 12 13
    10 11 | 14 15

Axis letters are those of the package's legend (`geometry`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.ops.deform_conv.geometry import Layout

TILE = 8  # positions along each side of a tile, and pixels along each side of a block
MARGINS = (4, 8)  # pixels that windows reach beyond their tile on each side, ascending; multiples of half a block


class Grid(NamedTuple):
    """The tiles of an output and the windows that they read, each as (rows, columns)."""

    tiles: tuple[int, int]  # number of tiles
    step: tuple[int, int]  # blocks from one window to the next
    span: tuple[int, int]  # blocks of a window
    first: tuple[int, int]  # pixel where the first window starts, usually outside the map

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of a window."""
        return self.span[0] * TILE, self.span[1] * TILE


def grid_of(layout: Layout, kernel_size, stride, padding, dilation, margin: int) -> Grid:
    """The grid of one map; all but the margin as (along y, along x). Windows lie around the kernel's middle tap."""
    middle = [(k - 1) * d // 2 - p for k, d, p in zip(kernel_size, dilation, padding, strict=True)]
    around = 2 * margin // TILE
    return Grid(
        tiles=(-(-layout.out_height // TILE), -(-layout.out_width // TILE)),
        step=(stride[0], stride[1]),
        span=(stride[0] + around, stride[1] + around),
        first=(middle[0] - margin, middle[1] - margin),
    )


def in_window(grid: Grid, layout: Layout, y: jax.Array, x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """The floors of the points along y and along x, (k, b, g, p) each, in pixels of their positions' windows; and
    whether all four corners of a sample lie in its window."""
    floors, inside = [], []
    positions = np.divmod(np.arange(layout.positions), layout.out_width)
    for axis, points in enumerate((y, x)):
        start = positions[axis] // TILE * (grid.step[axis] * TILE) + grid.first[axis]
        floors.append(jnp.floor(points) - start.astype(points.dtype).reshape(1, 1, 1, -1))
        inside.append((floors[axis] >= 0) & (floors[axis] < grid.size[axis] - 1))
    return floors, inside[0] & inside[1]


def pixels(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The row and the column of each pixel of a window, (v,) each, in the order of `windows`."""
    rows, columns = np.mgrid[: grid.size[0], : grid.size[1]].reshape(2, grid.span[0], TILE, grid.span[1], TILE)
    return rows.swapaxes(1, 2).ravel(), columns.swapaxes(1, 2).ravel()


def windows(grid: Grid, x_map: jax.Array, deform_groups: int) -> jax.Array:
    """The windows of a map (b, h, w, c), zero outside the map: (b, g, y, x, v, c // g)."""
    b, h, w, c = x_map.shape
    ends = [step * (n - 1) + 1 for step, n in zip(grid.step, grid.tiles, strict=True)]  # where last windows start
    blocks = [end + span - 1 for end, span in zip(ends, grid.span, strict=True)]
    sides = [(-first, n * TILE + first - n_map, 0) for first, n, n_map in zip(grid.first, blocks, (h, w), strict=True)]
    x_map = jax.lax.pad(x_map, jnp.zeros((), x_map.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
    x_map = x_map.reshape(b, blocks[0], TILE, blocks[1], TILE, c).swapaxes(2, 3)
    x_map = x_map.reshape(b, *blocks, TILE * TILE, c)
    shifted = [
        x_map[:, i : i + ends[0] : grid.step[0], j : j + ends[1] : grid.step[1]] for i, j in np.ndindex(*grid.span)
    ]
    x_map = jnp.concatenate(shifted, axis=3)
    return jnp.moveaxis(x_map.reshape(*x_map.shape[:4], deform_groups, -1), 4, 1)


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
