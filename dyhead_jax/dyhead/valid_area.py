"""Statistics without the padding: `valid` (b, h, w) bool marks the cells of a map that lie on the image.

The references compute means and norms over the whole padded map, so their results depend on the canvas. This is the
option `config.model.dyhead.valid_area`. A module opts in by a parameter `valid` of its `__call__` (see
`building.hand_down`); without it, it is called as usual. The sums then have the same terms, and the same divisor, as
for the unpadded image.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from dyhead_jax.ops.pixels import pixel_sum


def valid_cells(sizes: jax.Array, shapes: Sequence[tuple[int, int]], strides: Sequence[int]) -> list[jax.Array]:
    """(b, h_l, w_l) bool for each level of `shapes` (h_l, w_l): cells that begin inside the image of `sizes` (b, 2),
    as many as the unpadded image would have."""
    levels = []
    for (h, w), stride in zip(shapes, strides, strict=True):
        rows = jnp.arange(h)[None] * stride < sizes[:, :1]
        columns = jnp.arange(w)[None] * stride < sizes[:, 1:]
        levels.append(rows[:, :, None] & columns[:, None, :])
    return levels


def pooled(x: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Mean over h and w of x (b, h, w, c), float32 or wider: (b, c)."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if valid is None:
        return pixel_sum(wide) / (x.shape[1] * x.shape[2])
    return jnp.mean(wide, axis=(1, 2), where=valid[..., None])


def normed(norm: Callable[..., jax.Array], x: jax.Array, valid: jax.Array | None) -> jax.Array:
    """norm(x) of a Linen GroupNorm with the statistics of the valid cells; all cells are normalised."""
    return norm(x) if valid is None else norm(x, mask=jnp.broadcast_to(valid[..., None], x.shape))
