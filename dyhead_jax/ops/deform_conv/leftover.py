"""The samples that a form leaves over: their positions are picked out and read in chunks, as many as there are.

Where there are none nothing is read. A position is picked when any of its samples is left over. All taps of a chunk are
read at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dyhead_jax.ops.deform_conv import gather, geometry

CHUNKS = 64  # so many chunks hold all positions


class Rest(NamedTuple):
    """Samples of all taps, each (k, b, g, p): points, blends, and which are left over; blend is zero at the others."""

    y: jax.Array
    x: jax.Array
    blend: jax.Array
    left: jax.Array


def add(layouts, groups, deform_groups, maps, rest: Rest, kernel, out) -> jax.Array:
    """Adds to `out`, (b, p, c_out), what is left over. The other arguments are those of `windowed`."""
    dtype, k = maps[0].dtype, len(rest.y)
    matrix = kernel.reshape(k, kernel.shape[1], groups, -1).astype(dtype)

    def chunk(out: jax.Array, index: jax.Array, taken: jax.Array) -> jax.Array:
        samples = _samples(layouts, _take(rest, index), index)
        values = gather.read(layouts, gather.prepare(maps, deform_groups), samples)
        result = jnp.einsum(
            "bksnc,kcnd->bsnd", _columns(values, k, groups, dtype), matrix, preferred_element_type=out.dtype
        )
        return _put(out, index, jnp.where(taken[..., None], result.reshape(*index.shape, -1), 0.0))

    return _for_chunks(chunk, rest.left, out)


def add_gradients(layouts, groups, deform_groups, maps, rest: Rest, kernel, g, sums):
    """Adds to `sums` the gradients of what is left over: (of each map, (of y, of x, of blend), of the kernel), given
    that of `out`, g (b, p, c_out)."""
    dtype, k = maps[0].dtype, len(rest.y)
    d_maps, d_points, d_kernel = sums
    wide = d_kernel.dtype
    # by image: summed in the loop, a sharded batch would exchange it in every round
    d_kernels = geometry.zeros(maps[0], (len(g), *kernel.shape), wide)
    matrix = kernel.reshape(k, kernel.shape[1], groups, -1).astype(dtype)

    def chunk(sums: Any, index: jax.Array, taken: jax.Array) -> Any:
        d_maps, d_points, d_kernels = sums
        part = _take(rest, index)
        table = gather.prepare(maps, deform_groups)
        of_chunk = jnp.where(taken[..., None], _rows(g, index), 0.0).reshape(*index.shape, groups, -1)
        d_columns = jnp.einsum("bsnd,kcnd->bksnc", of_chunk, matrix, preferred_element_type=wide)
        d_values = geometry.split_groups(d_columns.reshape(index.shape[0], k * index.shape[1], -1), deform_groups)
        start = geometry.zeros(table, table.shape, wide)
        d_table, values, d_samples = gather.pull(
            layouts, table, start, _samples(layouts, part, index), d_values, apart=False
        )
        columns = _columns(values, k, groups, dtype)
        more = jnp.einsum("bksnc,bsnd->bkcnd", columns, of_chunk, preferred_element_type=wide)
        keep = part.left & taken[None, :, None]
        d_samples = [jnp.where(keep, _by_tap(v, k), 0.0) for v in d_samples]
        return (
            [
                d + v
                for d, v in zip(d_maps, gather.restore([lay.place for lay in layouts], d_table, d_maps), strict=True)
            ],
            _put(d_points, index, jnp.concatenate([_flat(v) for v in d_samples], axis=-1)),
            d_kernels + more.reshape(d_kernels.shape),
        )

    flat = jnp.concatenate([_flat(v) for v in d_points], axis=-1)
    d_maps, flat, d_kernels = _for_chunks(chunk, rest.left, (d_maps, flat, d_kernels))
    return d_maps, [_unflat(v, k) for v in jnp.split(flat, 3, axis=-1)], d_kernel + d_kernels.sum(0)


def _for_chunks(chunk: Callable[..., Any], left: jax.Array, carry: Any) -> Any:
    """Calls chunk(carry, index, taken) until every position is through. index: (b, size) positions of each image that
    any sample of is left over; taken: which of them are meant, the others fill the chunk up."""
    picked = left.any(axis=(0, 2))
    positions = picked.shape[1]
    size = -(-positions // CHUNKS)
    everywhere = jnp.broadcast_to(jnp.arange(positions), picked.shape)
    order = jnp.sort(jnp.where(picked, everywhere, positions), axis=1)  # those that are not picked come last
    order = jnp.pad(order, ((0, 0), (0, CHUNKS * size - positions)), constant_values=positions)
    count = picked.sum(axis=1).max()

    def body(state):
        i, carry = state
        index = jax.lax.dynamic_slice_in_dim(order, i * size, size, axis=1)
        return i + 1, chunk(carry, jnp.minimum(index, positions - 1), index < positions)

    return jax.lax.while_loop(lambda state: state[0] * size < count, body, (jnp.int32(0), carry))[1]


def _samples(layouts, part: Rest, index: jax.Array) -> geometry.Samples:
    """All taps' samples of a chunk in a row: (b, g, k * size)."""
    k = len(part.y)
    source = jax.tree.map(lambda v: jnp.tile(v[0, 0][index][:, None], (1, 1, k)), geometry.sources(layouts))
    y, x, blend = (jnp.moveaxis(v, 0, 2).reshape(*v.shape[1:3], -1) for v in (part.y, part.x, part.blend))
    return geometry.samples(source, y, x, blend)


def _by_tap(v: jax.Array, k: int) -> jax.Array:
    """(b, g, k * size) to (k, b, g, size)."""
    return jnp.moveaxis(v.reshape(*v.shape[:2], k, -1), 2, 0)


def _columns(values: jax.Array, k: int, groups: int, dtype) -> jax.Array:
    """(b, g, k * size, c // g) to (b, k, size, groups, c // groups)."""
    values = geometry.join_groups(values).astype(dtype)
    return values.reshape(values.shape[0], k, values.shape[1] // k, groups, -1)


def _take(rest: Rest, index: jax.Array) -> Rest:
    """The positions (b, size)."""
    k, last = len(rest.y), rest.y.shape[0] * rest.y.shape[2]
    rows = _rows(jnp.concatenate([_flat(v.astype(rest.y.dtype)) for v in rest], axis=-1), index)
    y, x, blend, left = (_unflat(rows[..., i * last : (i + 1) * last], k) for i in range(4))
    return Rest(y, x, blend, left > 0)


def _rows(v: jax.Array, index: jax.Array) -> jax.Array:
    """Of (b, p, n) the positions (b, size)."""
    return geometry.gather(v[:, None], index[:, None])[:, 0]


def _put(total: jax.Array, index: jax.Array, rows: jax.Array) -> jax.Array:
    """Adds rows (b, size, n) to (b, p, n)."""
    return geometry.scatter_add(total[:, None], index[:, None], rows[:, None])[:, 0]


def _flat(v: jax.Array) -> jax.Array:
    """(k, b, g, p) to (b, p, k * g)."""
    return v.transpose(1, 3, 0, 2).reshape(v.shape[1], v.shape[3], -1)


def _unflat(v: jax.Array, k: int) -> jax.Array:
    """The transpose of `_flat`."""
    return v.reshape(*v.shape[:2], k, -1).transpose(2, 0, 3, 1)
