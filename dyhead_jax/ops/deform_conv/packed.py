"""One gather a sample: each row of the table holds a pixel and its right, lower and lower right neighbours.

Four times the memory of the maps, a quarter of the gathers: for TPUs, whose gathers cost by the row, and pad it to 128
lanes. The form of Scenic's deformable attention.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dyhead_jax.ops.deform_conv import geometry
from dyhead_jax.ops.deform_conv.geometry import Layout, Samples


def prepare(maps: Sequence[jax.Array], deform_groups: int) -> jax.Array:
    """(b, g, rows, 4 * c // g): top left, top right, low left, low right."""
    levels = []
    for x, rows in zip(maps, geometry.bordered(maps), strict=True):
        rows = geometry.split_groups(rows, deform_groups)
        count, pitch = rows.shape[2], x.shape[2] + 2
        ended = jnp.pad(rows, ((0, 0), (0, 0), (0, pitch + 1), (0, 0)))
        levels.append(jnp.concatenate([ended[:, :, d : d + count] for d in _shifts(pitch)], axis=-1))
    return jnp.concatenate(levels, axis=2)


def restore(layouts: Sequence[Layout], table: jax.Array, like: Sequence[jax.Array]) -> list[jax.Array]:
    """The transpose of `prepare`."""
    levels = []
    for layout in layouts:
        count, shifts = layout.rows, _shifts(layout.width + 2)
        parts = jnp.split(table[:, :, layout.row : layout.row + count], 4, axis=-1)
        shifted = [
            jnp.pad(part, ((0, 0), (0, 0), (d, 0), (0, 0)))[:, :, :count] for part, d in zip(parts, shifts, strict=True)
        ]
        levels.append(shifted[0] + shifted[1] + shifted[2] + shifted[3])
    return geometry.unbordered(layouts, geometry.join_groups(jnp.concatenate(levels, axis=2)), like)


def read(layouts: Sequence[Layout], table: jax.Array, s: Samples) -> jax.Array:
    """The blended values of the samples, (b, g, p, c // g), float32 or wider."""
    wide = jnp.promote_types(table.dtype, jnp.float32)
    pixels = geometry.gather(table, geometry.table_rows(layouts, s)[0])
    weights = geometry.corner_weights(s)
    parts = jnp.split(pixels, 4, axis=-1)
    values = [(w * s.blend)[..., None].astype(wide) * part for w, part in zip(weights, parts, strict=True)]
    return values[0] + values[1] + values[2] + values[3]


def pull(layouts: Sequence[Layout], table: jax.Array, d_table: jax.Array, s: Samples, d_value: jax.Array):
    """As `taps.pull`."""
    row = geometry.table_rows(layouts, s)[0]
    parts = jnp.split(geometry.gather(table, row), 4, axis=-1)
    weights = [(w * s.blend)[..., None].astype(d_value.dtype) for w in geometry.corner_weights(s)]
    dots = [jnp.sum(d_value * part, axis=-1).astype(s.fy.dtype) for part in parts]
    values = [w * part for w, part in zip(weights, parts, strict=True)]
    d_table = geometry.scatter_add(d_table, row, jnp.concatenate([w * d_value for w in weights], axis=-1))
    return d_table, values[0] + values[1] + values[2] + values[3], geometry.pull_points(s, dots)


def _shifts(pitch: int) -> tuple[int, int, int, int]:
    return 0, 1, pitch, pitch + 1
