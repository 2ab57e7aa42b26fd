"""The form "dense": no gather, but a product of the whole map with a dense matrix of interpolation weights.

The matrix is samples x pixels, so the work grows with the square of a map's pixels: for small maps on hardware that
multiplies faster than it gathers. It has the dtype of the maps, so in bfloat16 the weights are rounded to 8 bits.

Axis letters are those of the package's legend (`geometry`).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dyhead_jax.ops.deform_conv import geometry
from dyhead_jax.ops.deform_conv.geometry import Layout, Place, Samples


def prepare(maps: Sequence[jax.Array], deform_groups: int) -> jax.Array:
    """All maps' pixels, without borders: (b, g, pixels, c // g)."""
    flat = [x.reshape(x.shape[0], -1, x.shape[3]) for x in maps]
    return geometry.split_groups(jnp.concatenate(flat, axis=1), deform_groups)


def restore(places: Sequence[Place], table: jax.Array, like: Sequence[jax.Array]) -> list[jax.Array]:
    """The transpose of `prepare`, in the dtypes of `like`."""
    flat = geometry.join_groups(table)
    parts = [flat[:, _span(place)] for place in places]
    return [part.reshape(x.shape).astype(x.dtype) for part, x in zip(parts, like, strict=True)]


def read(layouts: Sequence[Layout], table: jax.Array, s: Samples) -> jax.Array:
    """The interpolated and masked values of the samples, (b, g, p, c // g), float32 or wider."""
    values = []
    for layout, level in zip(layouts, _by_level(layouts, s), strict=True):
        matrix = _matrix(level.blend, *_axis_weights(layout, level)).astype(table.dtype)
        values.append(_dot("bgpv,bgvc->bgpc", matrix, table[:, :, _span(layout.place)]))
    return jnp.concatenate(values, axis=2)


def vjp(
    layouts: Sequence[Layout],
    table: jax.Array,
    d_table: jax.Array,
    s: Samples,
    d_value: jax.Array,
    store_products: bool,
):
    """As `gather.vjp`; store_products does not matter, since the products are matrix products."""
    del store_products
    values, gradients = [], []
    for layout, level in zip(layouts, _by_level(layouts, s), strict=True):
        span = _span(layout.place)
        pixels = table[:, :, span]
        rows, columns = _axis_weights(layout, level)
        matrix = _matrix(level.blend, rows, columns).astype(table.dtype)
        d_level = d_value[:, :, layout.position : layout.position + layout.positions].astype(table.dtype)
        values.append(_dot("bgpv,bgvc->bgpc", matrix, pixels))
        d_table = d_table.at[:, :, span].add(_dot("bgpv,bgpc->bgvc", matrix, d_level))
        d_matrix = _dot("bgpc,bgvc->bgpv", d_level, pixels).reshape(*rows.shape, -1)
        slope_y, slope_x = _slopes(layout.height, level.y0), _slopes(layout.width, level.x0)
        over_x = jnp.einsum("bgphw,bgpw->bgph", d_matrix, columns)
        over_slope = jnp.einsum("bgphw,bgpw->bgph", d_matrix, slope_x)
        gradients.append(
            (
                level.blend * jnp.sum(over_x * slope_y, -1),
                level.blend * jnp.sum(over_slope * rows, -1),
                jnp.where(level.inside, jnp.sum(over_x * rows, -1), 0.0),
            )
        )
    d_y, d_x, d_mask = (jnp.concatenate(parts, axis=2).astype(s.fy.dtype) for parts in zip(*gradients, strict=True))
    return d_table, jnp.concatenate(values, axis=2), (d_y, d_x, d_mask)


def _axis_weights(layout: Layout, s: Samples) -> tuple[jax.Array, jax.Array]:
    """Linear interpolation weights over the rows (b, g, p, h) and over the columns (b, g, p, w)."""
    return _linear_weights(layout.height, s.y0, s.fy), _linear_weights(layout.width, s.x0, s.fx)


def _linear_weights(size: int, floor: jax.Array, fraction: jax.Array) -> jax.Array:
    first, second = _neighbours(size, floor)
    fraction = fraction[..., None]
    return jnp.where(first, 1 - fraction, 0.0) + jnp.where(second, fraction, 0.0)


def _slopes(size: int, floor: jax.Array) -> jax.Array:
    """Derivatives of the weights by the fraction: -1 at the floor pixel, +1 at the next one, 0 elsewhere."""
    first, second = _neighbours(size, floor)
    return second.astype(jnp.float32) - first.astype(jnp.float32)  # exact in any precision


def _neighbours(size: int, floor: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of each pixel of an axis, whether it is the floor of the sample, and whether it is the next one."""
    index = jnp.arange(size, dtype=floor.dtype).reshape(1, 1, 1, -1)
    return index == floor[..., None], index == floor[..., None] + 1


def _matrix(blend: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The masked weights of all pixels: (b, g, p, h * w)."""
    product = (blend[..., None] * rows)[..., :, None] * columns[..., None, :]
    return product.reshape(*blend.shape, -1)


def _dot(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))


def _by_level(layouts: Sequence[Layout], s: Samples) -> list[Samples]:
    return [Samples(*(v[:, :, lay.position : lay.position + lay.positions] for v in s)) for lay in layouts]


def _span(place: Place) -> slice:
    """The rows of a map in the array that `prepare` returns."""
    return slice(place.pixel, place.pixel + place.pixels)
