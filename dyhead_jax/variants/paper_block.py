"""The block as the paper writes it: all levels at one size, then task(spatial(scale(F))) on the tensor F (l, s, c).

Plugs in as `config.model.dyhead.block = "dyhead_jax.variants.paper_block:PaperBlock"`. Source: Dai et al., Dynamic
Head, CVPR 2021, equations 2 to 5 and the text around them, not the released code, which has another order, other
functions and only neighbouring levels (see `dyhead.head`).

Where the paper is silent: maps are resized bilinearly, antialiased where they shrink, and in the same way back; with an
even number of levels the median is the finer of the two in the middle; the linear function of the scale attention maps
the l means to l gates; equation 4 gives one map, so that levels would differ in nothing but their size: here each level
has its own weights w; a GroupNorm follows the spatial attention, as in the released code, since nothing else keeps the
size of features from block to block; the normalisation in the task attention is a LayerNorm, and its coefficients are
added to Dynamic ReLU's initial values (1, 0, 0, 0). Input of other than `features` channels is projected first.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.dyhead.spatial import group_norm
from dyhead_jax.dyhead.valid_area import normed, pooled
from dyhead_jax.ops.conv import Conv
from dyhead_jax.ops.deform_conv import deform_conv

TAPS = 9  # K, the samples of a 3x3 kernel


class PaperBlock(nn.Module):
    """reduction: of the task attention's hidden layer; norm_groups, norm_scale: of the GroupNorm; implementation: of
    `deform_conv`."""

    features: int = 256
    reduction: int = 4
    norm_groups: int = 16
    norm_scale: float = 1.0
    implementation: str = "auto"
    dtype: jnp.dtype = jnp.float32
    level_parameters: ClassVar = ("scale", "spatial")

    @nn.compact
    def __call__(self, pyramid: list[jax.Array], valid: list[jax.Array] | None = None) -> list[jax.Array]:
        """pyramid: (b, h_l, w_l, c_in), fine to coarse. Returns (b, h_l, w_l, features) of each level.

        valid: (b, h_l, w_l) bool; means and norms are taken over those of the median level.
        """
        median = (len(pyramid) - 1) // 2
        (_, h, w, _), cells = pyramid[median].shape, None if valid is None else valid[median]
        maps = [x.astype(self.dtype) for x in pyramid]
        if maps[0].shape[-1] != self.features:
            project = nn.Dense(self.features, dtype=self.dtype, name="project")
            maps = [project(x) for x in maps]
        scale = LevelGates(name="scale")
        spatial = SparseSampling(self.norm_groups, self.norm_scale, self.implementation, self.dtype, name="spatial")
        task = SharedDynamicReLU(self.reduction, name="task")
        levels = task(spatial(scale([_resized(x, h, w) for x in maps], cells), median, cells), cells)
        return [_resized(x, *y.shape[1:3]) for x, y in zip(levels, pyramid, strict=True)]


class LevelGates(nn.Module):
    """Equation 3: hsig(f(mean over s and c of F)) F with a gate for each level, a linear f and
    hsig(x) = max(0, min(1, (x + 1) / 2)). f starts as N(0, 0.01), bias 0. Float32."""

    @nn.compact
    def __call__(self, levels: list[jax.Array], valid: jax.Array | None = None) -> list[jax.Array]:
        """levels: (b, h, w, c), all of one size; valid: (b, h, w) bool. Returns the same shapes and dtype."""
        means = jnp.stack([jnp.mean(pooled(x, valid), axis=-1) for x in levels], axis=-1)
        logits = nn.Dense(len(levels), kernel_init=nn.initializers.normal(0.01), name="linear")(means)
        gates = jnp.clip((logits + 1) / 2, 0.0, 1.0).astype(levels[0].dtype)
        return [x * gates[:, i, None, None, None] for i, x in enumerate(levels)]


class SparseSampling(nn.Module):
    """Equation 4: mean over levels l of the sum over k of w[k, l, m] F(l, p + p_k + d_k) mask_k, for each level m.

    A 3x3 convolution of the median level predicts d_k in its pixels and, through a sigmoid, mask_k: it starts at zero.
    w starts at 1 for the middle sample of the own level (times the number of levels), else 0.
    """

    norm_groups: int = 16
    norm_scale: float = 1.0
    implementation: str = "auto"
    dtype: jnp.dtype = jnp.float32
    offset_parameters: ClassVar = ("offset",)

    @nn.compact
    def __call__(self, levels: list[jax.Array], median: int, valid: jax.Array | None = None) -> list[jax.Array]:
        """As `LevelGates.__call__`; median: the index of the level that offsets are predicted from."""
        count, (b, h, w, c) = len(levels), levels[0].shape
        zeros = nn.initializers.zeros
        out = Conv(3 * TAPS, 3, use_bias=True, kernel_init=zeros, dtype=self.dtype, name="offset")(levels[median])
        out = out.astype(jnp.promote_types(out.dtype, jnp.float32))
        offsets, mask = out[..., : 2 * TAPS].reshape(b, h, w, TAPS, 2), nn.sigmoid(out[..., 2 * TAPS :])

        def start(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
            return jnp.zeros(shape, dtype).at[1, 1].set(count * jnp.eye(count, dtype=dtype))

        kernel = self.param("weights", start, (3, 3, count, count))
        # a group of the convolution is a channel, with the levels as its inputs and outputs
        grouped = jnp.tile(kernel.astype(self.dtype), (1, 1, 1, c))
        x = jnp.stack(levels, axis=-1).reshape(b, h, w, c * count)
        y = deform_conv(x, offsets, mask, grouped, padding=1, groups=c, implementation=self.implementation) / count
        norm = group_norm(self.norm_groups, self.norm_scale, self.dtype, "norm")
        y = y.reshape(b, h, w, c, count)
        return [normed(norm, y[..., level], valid) for level in range(count)]


class SharedDynamicReLU(nn.Module):
    """Equation 5: max(a1 x + b1, a2 x + b2) for each channel, with one set of coefficients for all levels.

    (a1, a2, b1, b2) = (1, 0, 0, 0) + 2 sigmoid(norm(FC(relu(FC(mean over l and s))))) - 1, from c to c / reduction to
    4 c. The norm's scale starts at 0.1, so that a block starts near a ReLU. Float32.
    """

    reduction: int = 4

    @nn.compact
    def __call__(self, levels: list[jax.Array], valid: jax.Array | None = None) -> list[jax.Array]:
        """As `LevelGates.__call__`."""
        mean = sum((pooled(x, valid) for x in levels[1:]), pooled(levels[0], valid)) / len(levels)
        hidden = nn.relu(nn.Dense(max(mean.shape[-1] // self.reduction, 1), name="squeeze")(mean))
        expanded = nn.Dense(4 * mean.shape[-1], name="expand")(hidden)
        theta = 2 * nn.sigmoid(nn.LayerNorm(scale_init=nn.initializers.constant(0.1), name="norm")(expanded)) - 1
        a1, a2, b1, b2 = (v[:, None, None] for v in jnp.split(theta.astype(levels[0].dtype), 4, axis=-1))
        return [jnp.maximum((1 + a1) * x + b1, a2 * x + b2) for x in levels]


def _resized(x: jax.Array, height: int, width: int) -> jax.Array:
    """(b, h, w, c) to (b, height, width, c), bilinear with half-pixel centres."""
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "bilinear")
