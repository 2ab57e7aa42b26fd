"""Where the samples of a deformable convolution lie, and how they are interpolated.

Axis legend of this package, in docstrings and einsums:

    b images, h w rows and columns of a map, c channels, g deformable groups, k kernel taps: as in `types.py`
    p output positions of all maps, one map after another    s positions of a chunk (`leftover`)
    y, x rows and columns of tiles (`tiles`)                 t positions of a tile
    v pixels of a map or of a window                         f groups of the kernel     o output channels

The letters of an einsum also decide the order in which axes are summed: other letters may round differently. Variables
y and x are coordinates of samples; they, and all that is computed from them, have the axes (b, g, p) for one tap and
(k, b, g, p) for all taps.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Place(NamedTuple):
    """Where a map lies in a table of all maps: its size, its first row in a table of maps with a border of one pixel,
    and its first pixel in a table of maps without borders."""

    height: int
    width: int
    row: int
    pixel: int

    @property
    def rows(self) -> int:
        return (self.height + 2) * (self.width + 2)

    @property
    def pixels(self) -> int:
        return self.height * self.width


class Layout(NamedTuple):
    """An output level: the place of the map that its samples read, its own size, and its first position."""

    place: Place
    out_height: int
    out_width: int
    position: int

    @property
    def height(self) -> int:
        return self.place.height

    @property
    def width(self) -> int:
        return self.place.width

    @property
    def positions(self) -> int:
        return self.out_height * self.out_width


class Source(NamedTuple):
    """For each position the map that its samples read, each field (1, 1, p) or (b, 1, p): its size, its first row in
    the table of all maps, and the number of rows from a pixel to the one below it."""

    height: jax.Array
    width: jax.Array
    row: jax.Array
    pitch: jax.Array


class Samples(NamedTuple):
    """All samples of one tap, each (b, g, p)."""

    y0: jax.Array  # row and column of the top-left corner, int32, -1 at the rim
    x0: jax.Array
    fy: jax.Array  # fractions of the way to the lower and to the right corner
    fx: jax.Array
    blend: jax.Array  # the mask; 0 outside the map
    inside: jax.Array
    row: jax.Array  # row of the table that holds the top-left corner
    pitch: jax.Array  # number of rows from a pixel to the one below it, as in `Source`


def places_of(maps: Sequence[jax.Array]) -> tuple[Place, ...]:
    """The places of maps (b, h, w, c) in one table."""
    places, row, pixel = [], 0, 0
    for x in maps:
        places.append(Place(x.shape[1], x.shape[2], row, pixel))
        row += places[-1].rows
        pixel += places[-1].pixels
    return tuple(places)


def layouts_of(places: Sequence[Place], outputs: Sequence[tuple[int, int]]) -> tuple[Layout, ...]:
    """The layouts of outputs of these (height, width), one for each place."""
    layouts, position = [], 0
    for place, (height, width) in zip(places, outputs, strict=True):
        layouts.append(Layout(place, height, width, position))
        position += layouts[-1].positions
    return tuple(layouts)


def by_tap(per_level: Sequence[jax.Array], deform_groups: int) -> jax.Array:
    """[(b, h, w, g*k, last)] to (k, b, g, p, last)."""
    flat = jnp.concatenate([v.reshape(v.shape[0], -1, *v.shape[3:]) for v in per_level], axis=1)
    batch, positions, _, last = flat.shape
    return flat.reshape(batch, positions, deform_groups, -1, last).transpose(3, 0, 2, 1, 4)


def points(layouts, offsets, kernel_size, stride, padding, dilation, deform_groups) -> tuple[jax.Array, jax.Array]:
    """Sampling points y and x, each (k, b, g, p), in pixels of the map that a sample reads."""
    offset = by_tap(offsets, deform_groups)
    offset = offset.astype(jnp.promote_types(offset.dtype, jnp.float32))  # bfloat16 has no integers above 256
    base = []
    for layout in layouts:
        i, j = np.mgrid[: layout.out_height, : layout.out_width].reshape(2, -1)
        ky, kx = np.mgrid[: kernel_size[0], : kernel_size[1]].reshape(2, -1, 1)
        base.append((i * stride[0] - padding[0] + ky * dilation[0], j * stride[1] - padding[1] + kx * dilation[1]))
    y, x = (np.concatenate([b[axis] for b in base], axis=1)[:, None, None, :] for axis in range(2))
    return offset[..., 0] + y.astype(offset.dtype), offset[..., 1] + x.astype(offset.dtype)


def sources(layouts: Sequence[Layout]) -> Source:
    """The sources of the positions of all levels."""

    def by_position(values: Sequence[int]) -> jax.Array:
        repeated = np.repeat(np.asarray(values, np.int32), [layout.positions for layout in layouts])
        return jnp.asarray(repeated.reshape(1, 1, -1))

    return Source(
        height=by_position([lay.height for lay in layouts]),
        width=by_position([lay.width for lay in layouts]),
        row=by_position([lay.place.row for lay in layouts]),
        pitch=by_position([lay.width + 2 for lay in layouts]),
    )


def inside(source: Source, y: jax.Array, x: jax.Array) -> jax.Array:
    """Whether points, (b, g, p), have a corner on the map."""
    return (y > -1) & (x > -1) & (y < source.height) & (x < source.width)


def samples(source: Source, y: jax.Array, x: jax.Array, mask: jax.Array | None) -> Samples:
    """The samples at the points y and x, (b, g, p)."""
    on_map = inside(source, y, x)
    # Points far outside would overflow the integers: they are moved to 0, and their blend is 0.
    y = jnp.where(on_map, y, 0.0)
    x = jnp.where(on_map, x, 0.0)
    y0, x0 = jnp.floor(y), jnp.floor(x)
    blend = jnp.where(on_map, 1.0 if mask is None else mask, 0.0).astype(y.dtype)
    fy, fx, y0, x0 = y - y0, x - x0, y0.astype(jnp.int32), x0.astype(jnp.int32)
    row = source.row + (y0 + 1) * source.pitch + x0 + 1
    return Samples(y0, x0, fy, fx, blend, on_map, row, source.pitch)


def corner_weights(s: Samples) -> list[jax.Array]:
    """Bilinear weights, (b, g, p), of top left, top right, low left, low right."""
    return [(1 - s.fy) * (1 - s.fx), (1 - s.fy) * s.fx, s.fy * (1 - s.fx), s.fy * s.fx]


def points_vjp(s: Samples, dots: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of y, x and the mask, (b, g, p), from each corner's scalar product of pixel and output gradient."""
    top_left, top_right, low_left, low_right = dots
    d_y = s.blend * ((1 - s.fx) * (low_left - top_left) + s.fx * (low_right - top_right))
    d_x = s.blend * ((1 - s.fy) * (top_right - top_left) + s.fy * (low_right - low_left))
    total: jax.Array | float = 0.0
    for weight, dot in zip(corner_weights(s), dots, strict=True):
        total = total + weight * dot
    return d_y, d_x, jnp.where(s.inside, total, 0.0)


def dots(a: jax.Array, b: jax.Array, store_products: bool) -> jax.Array:
    """Sum of a * b over the last axis. store_products: the products are stored before they are summed."""
    products = jax.lax.optimization_barrier(a * b) if store_products else a * b
    return jnp.sum(products, axis=-1)


def bordered(maps: Sequence[jax.Array]) -> Iterator[jax.Array]:
    """Each map (b, h, w, c) with a border of zeros, one pixel wide, as rows (b, (h + 2) * (w + 2), c).

    The border saves testing whether a corner lies inside the map.
    """
    for x in maps:
        yield jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(x.shape[0], -1, x.shape[3])


def unbordered(places: Sequence[Place], rows: jax.Array, like: Sequence[jax.Array]) -> list[jax.Array]:
    """The transpose of `bordered`, from all maps' rows (b, rows, c), in the dtypes of `like`."""
    maps = []
    for place, x in zip(places, like, strict=True):
        piece = rows[:, place.row : place.row + place.rows]
        piece = piece.reshape(rows.shape[0], place.height + 2, place.width + 2, -1)
        maps.append(piece[:, 1:-1, 1:-1].astype(x.dtype))
    return maps


def split_groups(v: jax.Array, deform_groups: int) -> jax.Array:
    """(b, rows, c) to (b, g, rows, c // g)."""
    return v.reshape(v.shape[0], v.shape[1], deform_groups, -1).transpose(0, 2, 1, 3)


def join_groups(v: jax.Array) -> jax.Array:
    """(b, g, rows, c // g) to (b, rows, c)."""
    return v.transpose(0, 2, 1, 3).reshape(v.shape[0], v.shape[2], -1)


def gather(table: jax.Array, row: jax.Array) -> jax.Array:
    """(b, g, rows, c) and (b, g, p) to (b, g, p, c); by vmap b and g stay batching dimensions of the gather."""
    return jax.vmap(jax.vmap(lambda t, i: t.at[i].get(mode="promise_in_bounds")))(table, row)


def scatter_add(table: jax.Array, row: jax.Array, values: jax.Array) -> jax.Array:
    """Adds values (b, g, p, c) to the rows (b, g, p) of the table (b, g, rows, c)."""
    add = jax.vmap(jax.vmap(lambda t, i, v: t.at[i].add(v, mode="promise_in_bounds")))
    return add(table, row, values)


def cut(v: jax.Array, pieces: int, axis: int, mode: str) -> jax.Array:
    """Cuts an axis into equal pieces, which become the first axis; the last piece is padded in `jnp.pad`'s mode."""
    axis %= v.ndim
    length = -(-v.shape[axis] // pieces)
    v = jnp.pad(v, [(0, length * pieces - n if i == axis else 0) for i, n in enumerate(v.shape)], mode=mode)
    return jnp.moveaxis(v.reshape(*v.shape[:axis], pieces, length, *v.shape[axis + 1 :]), axis, 0)


def uncut(v: jax.Array, size: int, axis: int) -> jax.Array:
    """The inverse of `cut`. axis: of the result, where it has `size` entries."""
    axis %= v.ndim - 1
    v = jnp.moveaxis(v, 0, axis)
    v = v.reshape(*v.shape[:axis], -1, *v.shape[axis + 2 :])
    return jax.lax.slice_in_dim(v, 0, size, axis=axis)


def zeros(like: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """Zeros that vary over devices as `like` does: inside shard_map the carry of a loop must."""
    zero = jnp.where(like[(slice(1),) * like.ndim] > 0, 0, 0).astype(dtype)
    return jnp.broadcast_to(zero.reshape((1,) * len(shape)), shape)
