"""Spatial attention by strips: every cell reads its own row and its own column at learned places."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.dyhead.spatial import group_norm
from dyhead_jax.dyhead.valid_area import normed


class StripAttention(nn.Module):
    """Two candidates for each level: samples along the row of each cell, and samples along its column.

    For each cell and each of the two directions, `places` predicts where to read, in cells from the cell itself, and
    `weights` how much of each, by a softmax. The places start evenly spread over `reach` cells. Each direction has a
    GroupNorm. Levels do not read each other. Places and weights are float32.

    points: samples of a strip; reach: length of a strip at the start, in cells; the other fields are the block's.
    """

    features: int
    points: int = 5  # samples of a strip
    reach: float = 8.0  # length of a strip at the start, in cells
    norm_groups: int = 16
    norm_scale: float = 1.0
    dtype: jnp.dtype = jnp.float32
    offset_parameters: ClassVar = ("places",)  # these learn with config.optim.offset_rate

    @nn.compact
    def __call__(self, pyramid, valid=None):
        """pyramid: (b, h_l, w_l, c) of each level. Returns for each level a list of two maps (b, h_l, w_l, features).

        valid: (b, h_l, w_l) bool of each level, the cells over which the norms are computed; None is all.
        """
        start = jnp.tile(jnp.linspace(-self.reach / 2, self.reach / 2, self.points), 2)
        value = nn.Dense(self.features, dtype=self.dtype, name="value")
        places = nn.Dense(2 * self.points, kernel_init=nn.initializers.zeros, bias_init=lambda *_: start, name="places")
        weights = nn.Dense(2 * self.points, name="weights")
        norms = [group_norm(self.norm_groups, self.norm_scale, self.dtype, f"{k}_norm") for k in ("row", "column")]
        levels = []
        for x, cells in zip(pyramid, valid or [None] * len(pyramid), strict=True):
            across, down = jnp.split(places(x), 2, axis=-1)
            of_row, of_column = (nn.softmax(w) for w in jnp.split(weights(x), 2, axis=-1))
            y = value(x)
            row = along_rows(y, across, of_row)
            turned = (z.swapaxes(1, 2) for z in (y, down, of_column))
            column = along_rows(*turned).swapaxes(1, 2)
            levels.append([normed(norm, z, cells) for norm, z in zip(norms, (row, column), strict=True)])
        return levels


def along_rows(x: jax.Array, places: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted samples of each cell's row: x (b, h, w, c), read `places` (b, h, w, k) cells to the right, by linear
    interpolation; a place beside the map is its border. weights: (b, h, w, k). Returns (b, h, w, c) in x's dtype."""
    b, h, w, c = x.shape
    at = jnp.clip(jnp.arange(w, dtype=places.dtype).reshape(1, 1, w, 1) + places, 0, w - 1)
    left = jnp.floor(at)
    result = jnp.zeros_like(x)
    for side in (0, 1):
        index = jnp.minimum(left + side, w - 1).astype(jnp.int32).reshape(b, h, -1, 1)
        read = jnp.take_along_axis(x, index, axis=2, mode="clip").reshape(b, h, w, -1, c)
        share = weights * (1 - jnp.abs(at - left - side))
        result += jnp.einsum("bhwk,bhwkc->bhwc", share.astype(x.dtype), read)
    return result
