"""The form "gather": four row gathers a sample, one for each corner, from a table of all maps' pixels."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dyhead_jax.ops.deform_conv import geometry
from dyhead_jax.ops.deform_conv.geometry import Layout, Place, Samples


def prepare(maps: Sequence[jax.Array], deform_groups: int) -> jax.Array:
    """All maps' pixels, each map with a border of zeros: (b, g, rows, c // g)."""
    return geometry.split_groups(jnp.concatenate(list(geometry.bordered(maps)), axis=1), deform_groups)


def restore(places: Sequence[Place], table: jax.Array, like: Sequence[jax.Array]) -> list[jax.Array]:
    """The transpose of `prepare`, in the dtypes of `like`."""
    return geometry.unbordered(places, geometry.join_groups(table), like)


def read(layouts: Sequence[Layout], table: jax.Array, s: Samples) -> jax.Array:
    """The interpolated and masked values of the samples, (b, g, p, c // g), float32 or wider."""
    wide = jnp.promote_types(table.dtype, jnp.float32)
    total: Any = 0.0
    for row, weight in zip(_rows(s), geometry.corner_weights(s), strict=True):
        total = total + (weight * s.blend)[..., None].astype(wide) * geometry.gather(table, row)
    return total


def vjp(
    layouts: Sequence[Layout],
    table: jax.Array,
    d_table: jax.Array,
    s: Samples,
    d_value: jax.Array,
    store_products: bool,
):
    """The gradient of `read`, given that of the values, d_value (b, g, p, c // g).

    Returns d_table with the gradient of the table added, the values (which the gradient of the kernel needs), and the
    gradients of y, x and mask, (b, g, p). store_products: see `dispatch.STORE_PRODUCTS`.
    """

    def corner(carry, inputs):  # corner by corner, so that only one corner's rows are in memory
        d_table, value = carry
        row, weight = inputs
        weight = (weight * s.blend)[..., None].astype(d_value.dtype)
        pixels = geometry.gather(table, row)
        dot = geometry.dots(d_value, pixels, store_products).astype(s.fy.dtype)
        return (geometry.scatter_add(d_table, row, weight * d_value), value + weight * pixels), dot

    rows, weights = jnp.stack(_rows(s)), jnp.stack(geometry.corner_weights(s))
    (d_table, value), dots = jax.lax.scan(corner, (d_table, jnp.zeros_like(d_value)), (rows, weights))
    return d_table, value, geometry.points_vjp(s, list(dots))


def _rows(s: Samples) -> list[jax.Array]:
    return [s.row, s.row + 1, s.row + s.pitch, s.row + s.pitch + 1]
