"""The samples that lie beyond their window: their positions are collected and read in as many chunks as they fill.

Where there are none, nothing is read. A position is collected when any of its samples lies beyond its window; all taps
of a chunk are read at once, by row gathers.

Axis letters are those of the package's legend (`geometry`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dyhead_jax.ops.deform_conv import gather, geometry

CHUNKS = 64  # this many chunks hold all positions


class Leftover(NamedTuple):
    """Samples of all taps, each (k, b, g, p). y, x: points; beyond: whether the sample is left over; blend: the mask of
    these samples, 0 at the others. count: the largest number of positions with such samples in an image."""

    y: jax.Array
    x: jax.Array
    blend: jax.Array
    beyond: jax.Array
    count: jax.Array


def positions(beyond: jax.Array) -> jax.Array:
    """(b, p) bool: the positions with samples that are left over, from (k, b, g, p)."""
    return beyond.any(axis=(0, 2))


def add(layouts, groups, deform_groups, maps, leftover: Leftover, kernel, out) -> jax.Array:
    """Adds what the leftover samples contribute to `out`, (b, p, c_out). The other arguments are as in `windowed`."""
    dtype, k = maps[0].dtype, len(leftover.y)
    matrix = kernel.reshape(k, kernel.shape[1], groups, -1).astype(dtype)

    def chunk(out: jax.Array, index: jax.Array, taken: jax.Array) -> jax.Array:
        samples = _samples(layouts, _take(leftover, index), index)
        values = gather.read(layouts, gather.prepare(maps, deform_groups), samples)
        result = jnp.einsum(
            "bksfc,kcfo->bsfo", _columns(values, k, groups, dtype), matrix, preferred_element_type=out.dtype
        )
        return _put(out, index, jnp.where(taken[..., None], result.reshape(*index.shape, -1), 0.0))

    return _for_chunks(chunk, leftover, out)


def add_gradients(layouts, groups, deform_groups, maps, leftover: Leftover, kernel, g, sums):
    """Adds the gradients of the leftover samples to `sums`, which is (of each map, (of y, of x, of blend), of the
    kernel), given the gradient of `out`, g (b, p, c_out). That of the kernel is one for each image, (b, *kernel.shape):
    a sum over images inside the loop would make a sharded batch communicate in every round."""
    dtype, k = maps[0].dtype, len(leftover.y)
    d_maps, d_points, d_kernels = sums
    wide = d_kernels.dtype
    matrix = kernel.reshape(k, kernel.shape[1], groups, -1).astype(dtype)

    def chunk(sums: Any, index: jax.Array, taken: jax.Array) -> Any:
        d_maps, d_points, d_kernels = sums
        part = _take(leftover, index)
        table = gather.prepare(maps, deform_groups)
        of_chunk = jnp.where(taken[..., None], _rows(g, index), 0.0).reshape(*index.shape, groups, -1)
        d_columns = jnp.einsum("bsfo,kcfo->bksfc", of_chunk, matrix, preferred_element_type=wide)
        d_values = geometry.split_groups(d_columns.reshape(index.shape[0], k * index.shape[1], -1), deform_groups)
        start = geometry.zeros(table, table.shape, wide)
        d_table, values, d_samples = gather.vjp(
            layouts, table, start, _samples(layouts, part, index), d_values, store_products=False
        )
        columns = _columns(values, k, groups, dtype)
        more = jnp.einsum("bksfc,bsfo->bkcfo", columns, of_chunk, preferred_element_type=wide)
        keep = part.beyond & taken[None, :, None]
        d_samples = [jnp.where(keep, _by_tap(v, k), 0.0) for v in d_samples]
        restored = gather.restore([layout.place for layout in layouts], d_table, d_maps)
        return (
            [d + v for d, v in zip(d_maps, restored, strict=True)],
            _put(d_points, index, jnp.concatenate([_flat(v) for v in d_samples], axis=-1)),
            d_kernels + more.reshape(d_kernels.shape),
        )

    flat = jnp.concatenate([_flat(v) for v in d_points], axis=-1)
    d_maps, flat, d_kernels = _for_chunks(chunk, leftover, (d_maps, flat, d_kernels))
    return d_maps, [_unflat(v, k) for v in jnp.split(flat, 3, axis=-1)], d_kernels


def _for_chunks(chunk: Callable[..., Any], leftover: Leftover, carry: Any) -> Any:
    """Calls carry = chunk(carry, index, taken) until every position with a leftover sample has been processed.

    index: (b, s) positions of each image; taken: (b, s), False at the entries that only pad a chunk.
    """
    collected = positions(leftover.beyond)
    total = collected.shape[1]
    size = -(-total // CHUNKS)
    everywhere = jnp.broadcast_to(jnp.arange(total), collected.shape)
    order = jnp.sort(jnp.where(collected, everywhere, total), axis=1)  # positions that are not collected come last
    order = jnp.pad(order, ((0, 0), (0, CHUNKS * size - total)), constant_values=total)

    def body(state):
        i, carry = state
        index = jax.lax.dynamic_slice_in_dim(order, i * size, size, axis=1)
        return i + 1, chunk(carry, jnp.minimum(index, total - 1), index < total)

    return jax.lax.while_loop(lambda state: state[0] * size < leftover.count, body, (jnp.int32(0), carry))[1]


def _samples(layouts, part: Leftover, index: jax.Array) -> geometry.Samples:
    """A chunk's samples of all taps, one tap after another: (b, g, k * s)."""
    k = len(part.y)
    source = jax.tree.map(lambda v: jnp.tile(v[0, 0][index][:, None], (1, 1, k)), geometry.sources(layouts))
    y, x, blend = (jnp.moveaxis(v, 0, 2).reshape(*v.shape[1:3], -1) for v in (part.y, part.x, part.blend))
    return geometry.samples(source, y, x, blend)


def _by_tap(v: jax.Array, k: int) -> jax.Array:
    """(b, g, k * s) to (k, b, g, s)."""
    return jnp.moveaxis(v.reshape(*v.shape[:2], k, -1), 2, 0)


def _columns(values: jax.Array, k: int, groups: int, dtype) -> jax.Array:
    """(b, g, k * s, c // g) to (b, k, s, groups, c // groups)."""
    values = geometry.join_groups(values).astype(dtype)
    return values.reshape(values.shape[0], k, values.shape[1] // k, groups, -1)


def _take(leftover: Leftover, index: jax.Array) -> Leftover:
    """The samples of the positions `index`, (b, s): each field (k, b, g, s)."""
    k, last = len(leftover.y), leftover.y.shape[0] * leftover.y.shape[2]
    fields = leftover.y, leftover.x, leftover.blend, leftover.beyond
    rows = _rows(jnp.concatenate([_flat(v.astype(leftover.y.dtype)) for v in fields], axis=-1), index)
    y, x, blend, beyond = (_unflat(rows[..., i * last : (i + 1) * last], k) for i in range(4))
    return Leftover(y, x, blend, beyond > 0, leftover.count)


def _rows(v: jax.Array, index: jax.Array) -> jax.Array:
    """Of (b, p, last) the positions `index`, (b, s): (b, s, last)."""
    return geometry.gather(v[:, None], index[:, None])[:, 0]


def _put(total: jax.Array, index: jax.Array, rows: jax.Array) -> jax.Array:
    """Adds rows (b, s, last) to the positions `index` of (b, p, last)."""
    return geometry.scatter_add(total[:, None], index[:, None], rows[:, None])[:, 0]


def _flat(v: jax.Array) -> jax.Array:
    """(k, b, g, p) to (b, p, k * g)."""
    return v.transpose(1, 3, 0, 2).reshape(v.shape[1], v.shape[3], -1)


def _unflat(v: jax.Array, k: int) -> jax.Array:
    """The inverse of `_flat`."""
    return v.reshape(*v.shape[:2], k, -1).transpose(2, 0, 3, 1)
