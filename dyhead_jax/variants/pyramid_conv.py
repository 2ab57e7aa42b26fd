"""Pyramid convolution as spatial attention: nothing is sampled, so it is the cheapest of all on a TPU.

y_l = norm(w_0 * x_l + w_1 * x_{l-1} at stride 2 + up(w_-1 * x_{l+1})), three 3x3 convolutions shared over levels. They
are those of `PlainNeighbours`, DyHead's block without spatial attention; that normalises each of the three and leaves
their sum to the scale attention, this sums first (one candidate a level), and takes the statistics of its norm over all
levels together, as the paper's integrated batch norm does. That is a norm over a batch; here it is a GroupNorm, so that
images stay independent of each other, and the ReLU after it is left to the block's task attention.

Plugs in as `config.model.dyhead.spatial = "dyhead_jax.variants.pyramid_conv:PyramidConv"`. Source: Wang et al.,
Scale-Equalizing Pyramid Convolution, CVPR 2020, equation 1 and section 3.3.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dyhead_jax.dyhead.activations import torch_uniform
from dyhead_jax.dyhead.spatial import check_halving, group_norm
from dyhead_jax.dyhead.valid_area import normed
from dyhead_jax.ops.resize import upsample_align_corners


class PyramidConv(nn.Module):
    """norm_groups, norm_scale: of the GroupNorm. Kernels start as U(+-1/sqrt(9 c_in)), without a bias."""

    features: int = 256
    norm_groups: int = 16
    norm_scale: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pyramid: list[jax.Array], valid: list[jax.Array] | None = None) -> list[list[jax.Array]]:
        """pyramid: (b, h_l, w_l, c_in), fine to coarse. Returns one candidate (b, h_l, w_l, features) of each level.

        valid: (b, h_l, w_l) bool, the cells over which the norm is computed. Raises ValueError if a level is not half
        (rounded up) of the finer one.
        """
        check_halving(pyramid)
        init = torch_uniform(9 * pyramid[0].shape[-1])

        def conv(name: str, stride: int = 1) -> nn.Conv:
            return nn.Conv(
                self.features, (3, 3), stride, 1, use_bias=False, kernel_init=init, dtype=self.dtype, name=name
            )

        own = conv("mid")
        sums = [own(x) for x in pyramid]
        if len(pyramid) > 1:
            finer, coarser = conv("low", 2), conv("high")
            for level in range(1, len(pyramid)):
                sums[level] += finer(pyramid[level - 1])
                _, h, w, _ = pyramid[level - 1].shape
                sums[level - 1] += upsample_align_corners(coarser(pyramid[level]), (h, w))
        return [
            [x] for x in integrated_norm(group_norm(self.norm_groups, self.norm_scale, self.dtype, "norm"), sums, valid)
        ]


def integrated_norm(norm: nn.GroupNorm, maps: list[jax.Array], valid: list[jax.Array] | None = None) -> list[jax.Array]:
    """`norm` of maps (b, h_l, w_l, c) with statistics over the (valid) cells of all of them together."""
    b, c = maps[0].shape[0], maps[0].shape[-1]
    cells = jnp.concatenate([x.reshape(b, -1, 1, c) for x in maps], axis=1)
    mask = None if valid is None else jnp.concatenate([v.reshape(b, -1, 1) for v in valid], axis=1)
    parts = jnp.split(normed(norm, cells, mask), np.cumsum([x.shape[1] * x.shape[2] for x in maps])[:-1], axis=1)
    return [part.reshape(x.shape) for part, x in zip(parts, maps, strict=True)]
