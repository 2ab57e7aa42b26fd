"""One gather a sample: each row of the table holds a pixel and its right, lower and lower right neighbours.

Four times the memory of the maps, a quarter of the gathers: for TPUs, whose gathers cost by the row. A row is an array
of its own, corners x channels: of a flat row of 4 c channels a TPU reads eight rows' worth, since its memory comes in
tiles of 8 x 128. The idea is that of Scenic's deformable attention.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dyhead_jax.ops.deform_conv import geometry
from dyhead_jax.ops.deform_conv.geometry import Layout, Samples


def prepare(maps: Sequence[jax.Array], deform_groups: int) -> jax.Array:
    """(b, g, rows, 4, c // g): top left, top right, low left, low right."""
    levels = []
    for x, rows in zip(maps, geometry.bordered(maps), strict=True):
        rows = geometry.split_groups(rows, deform_groups)
        count, pitch = rows.shape[2], x.shape[2] + 2
        ended = jnp.pad(rows, ((0, 0), (0, 0), (0, pitch + 1), (0, 0)))
        levels.append(jnp.stack([ended[:, :, d : d + count] for d in _shifts(pitch)], axis=3))
    return jnp.concatenate(levels, axis=2)


def restore(layouts: Sequence[Layout], table: jax.Array, like: Sequence[jax.Array]) -> list[jax.Array]:
    """The transpose of `prepare`, from flat rows (b, g, rows, 4 * c // g): those are what a TPU scatters into."""
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
    pixels = geometry.gather(table, s.row)
    return jnp.sum(_weights(s).astype(wide) * pixels, axis=3)


def pull(layouts: Sequence[Layout], table: jax.Array, d_table: jax.Array, s: Samples, d_value: jax.Array, lanes: int):
    """As `taps.pull`."""
    pixels = geometry.gather(table, s.row)
    weights = _weights(s).astype(d_value.dtype)
    dots = geometry.dots(d_value[:, :, :, None], pixels, lanes).astype(s.fy.dtype)
    d_rows = jnp.concatenate([weights[:, :, :, i] * d_value for i in range(4)], axis=-1)
    d_table = geometry.scatter_add(d_table, s.row, d_rows)
    return d_table, jnp.sum(weights * pixels, axis=3), geometry.pull_points(s, [dots[..., i] for i in range(4)])


def _weights(s: Samples) -> jax.Array:
    """What each corner counts: (b, g, p, 4, 1)."""
    return jnp.stack([w * s.blend for w in geometry.corner_weights(s)], axis=3)[..., None]


def _shifts(pitch: int) -> tuple[int, int, int, int]:
    return 0, 1, pitch, pitch + 1
