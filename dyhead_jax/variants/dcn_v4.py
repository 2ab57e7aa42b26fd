"""Deformable convolution v3 and v4 as spatial attention: sampling in groups, between pointwise layers.

Each of the three candidates of `SpatialAttention` (own level, finer, coarser) becomes
norm(W' sum over k of m_gk (W x)_g(p + p_k + d_gk)) with offsets d and weights m for each group g of channels. A tap has
no matrix of its own any more: all nine share W', and each group looks elsewhere.

Plugs in as `config.model.dyhead.spatial = "dyhead_jax.variants.dcn_v4:DCNv4"` (or `:DCNv3`). Sources: Wang et al.,
InternImage, 2022, section 3.1 (v3); Xiong et al., Efficient Deformable ConvNets, 2024, section 3 (v4).
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.choices import Choice
from dyhead_jax.dyhead.spatial import TAPS, candidate_norm, check_halving
from dyhead_jax.dyhead.valid_area import normed
from dyhead_jax.ops.conv import Conv
from dyhead_jax.ops.deform_conv import Call, deform_conv_calls
from dyhead_jax.ops.resize import upsample_align_corners

KINDS = (("mid", 1), ("low", 2), ("high", 1))  # the candidates, with the stride at which they read a map


class Modulation(Choice):
    """What becomes of the predicted weights of a group's samples."""

    SOFTMAX = "softmax"  # over the samples, v3
    UNBOUNDED = "unbounded"  # as they are, v4


class DCNv4(nn.Module):
    """group_features: channels of a group; modulation: a `Modulation`; depthwise: whether offsets and weights are
    predicted from a depthwise 3x3 convolution with LayerNorm and GELU (v3), not from the map itself (v4); norm_groups,
    norm_scale, neighbour_scale: of the candidates' GroupNorms; implementation: of `deform_conv`.

    The coarser neighbour is sampled at its own cells, with offsets that it predicts itself, then upsampled: no offsets
    have to change their size, and `coarse_offsets` has no place. Offsets start at zero, weights at 1/9.
    """

    features: int = 256
    group_features: int = 16
    modulation: Modulation = Modulation.UNBOUNDED
    depthwise: bool = False
    norm_groups: int = 16
    norm_scale: float = 1.0
    neighbour_scale: float = 1.0
    implementation: str = "auto"
    dtype: jnp.dtype = jnp.float32
    offset_parameters: ClassVar = ("offset",)

    @nn.compact
    def __call__(self, pyramid: list[jax.Array], valid: list[jax.Array] | None = None) -> list[list[jax.Array]]:
        """As `SpatialAttention.__call__`. Raises ValueError if group_features does not divide features, modulation is
        unknown, or a level is not half (rounded up) of the finer one."""
        Modulation.parse("modulation", self.modulation)
        if self.features % self.group_features:
            raise ValueError(f"DCNv4: group_features {self.group_features} does not divide {self.features} features")
        check_halving(pyramid)
        value = nn.Dense(self.features, dtype=self.dtype, name="value")
        offsets, weights = self._predict(pyramid)
        ones = jnp.ones((3, 3, 1, self.features), self.dtype)
        calls, levels = {}, len(pyramid)
        for i, (kind, stride) in enumerate(KINDS):
            at = range(levels) if kind == "mid" else range(1, levels)
            reads = [level - 1 if kind == "low" else level for level in at]
            own = [offsets[level][..., i, :, :] for level in at], [weights[level][..., i, :] for level in at]
            self.sow("intermediates", kind, {"offsets": own[0], "weights": own[1]})  # for `look`
            if reads:
                calls[kind] = Call(reads, *own, ones, None, stride, padding=1)
        sampled = deform_conv_calls(
            [value(x) for x in pyramid], list(calls.values()), groups=self.features, implementation=self.implementation
        )
        outputs = {kind: self._output(kind, maps, valid) for kind, maps in zip(calls, sampled, strict=True)}
        candidates = [[own] for own in outputs["mid"]]
        for level, (low, high) in enumerate(zip(outputs.get("low", []), outputs.get("high", []), strict=True)):
            candidates[level + 1].append(low)
            _, h, w, _ = pyramid[level].shape
            candidates[level].append(upsample_align_corners(high, (h, w)))
        return candidates

    def _predict(self, pyramid: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        """Of each level the offsets (b, h, w, 3, g*9, 2) and the weights (b, h, w, 3, g*9), float32, for the three
        candidates that are sampled at its cells."""
        groups, c = self.features // self.group_features, pyramid[0].shape[-1]
        zeros = nn.initializers.zeros
        softmax = self.modulation == Modulation.SOFTMAX
        start = zeros if softmax else nn.initializers.constant(1 / TAPS)
        count = len(KINDS) * groups * TAPS
        offset = nn.Dense(2 * count, kernel_init=zeros, dtype=self.dtype, name="offset")
        weight = nn.Dense(count, kernel_init=zeros, bias_init=start, dtype=self.dtype, name="modulation")
        if self.depthwise:
            conv = Conv(c, 3, groups=c, use_bias=True, dtype=self.dtype, name="query")
            norm = nn.LayerNorm(dtype=self.dtype, name="query_norm")
            pyramid = [nn.gelu(norm(conv(x))) for x in pyramid]
        offsets, weights = [], []
        for x in pyramid:
            d, m = offset(x), weight(x)
            wide = jnp.promote_types(d.dtype, jnp.float32)
            m = m.astype(wide).reshape(*x.shape[:3], len(KINDS), groups, TAPS)
            m = nn.softmax(m) if softmax else m
            offsets.append(d.astype(wide).reshape(*x.shape[:3], len(KINDS), groups * TAPS, 2))
            weights.append(m.reshape(*x.shape[:3], len(KINDS), groups * TAPS))
        return offsets, weights

    def _output(self, kind: str, maps: list[jax.Array], valid: list[jax.Array] | None) -> list[jax.Array]:
        project = nn.Dense(self.features, dtype=self.dtype, name=f"{kind}_out")
        norm = candidate_norm(self, kind)
        cells = [None] * len(maps) if valid is None else valid[len(valid) - len(maps) :]
        return [normed(norm, project(x), mask) for x, mask in zip(maps, cells, strict=True)]


class DCNv3(DCNv4):
    """The same with a softmax over the samples, and offsets and weights from a depthwise convolution."""

    modulation: Modulation = Modulation.SOFTMAX
    depthwise: bool = True
