"""Spatial-aware attention, pi_S: deformable sampling of a level and its two neighbours with one set of offsets."""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.dyhead.activations import Lineage, torch_uniform
from dyhead_jax.dyhead.coarse_offsets import CoarseOffsets, for_coarser
from dyhead_jax.dyhead.valid_area import normed
from dyhead_jax.ops.conv import Conv
from dyhead_jax.ops.deform_conv import Call, deform_conv_calls
from dyhead_jax.ops.resize import upsample_align_corners

TAPS = 9
Valid = list[jax.Array] | None  # of each level; see `valid_area`


class SpatialAttention(nn.Module):
    """Up to three candidates per level: from its own map, the finer (stride 2) and the coarser (upsampled) neighbour.

    One 3x3 convolution, shared over levels, predicts 18 offsets (dy, dx by tap) and 9 mask logits; the level's offsets
    and sigmoid(mask) drive three deformable 3x3 convolutions, each followed by its own GroupNorm. Each of the three
    runs over all levels in one loop, and all read the same table of the maps. Offsets, masks and norms are float32.

    features: output channels; coarse_offsets: see `coarse_offsets`; norm_groups: of GroupNorm, eps 1e-5, whose scale
    starts at norm_scale, of the neighbours' candidates at norm_scale * neighbour_scale (1 and 1 in the references; see
    `DyHead`); dcn_bias: bias of the deformable convolutions; implementation: of `deform_conv`.
    lineage: deformable kernels U(+-1/sqrt(9 c_in)), bias 0; the offset convolution is PyTorch's default ("official"),
    N(0, 0.01) ("mmdet") or zero ("mmdet_simple"), bias 0 in the last two.
    Source: paper equation 4; official code `DyConv`; mmdetection `DyHeadBlock`.
    """

    features: int = 256
    coarse_offsets: CoarseOffsets = CoarseOffsets.FLAT
    norm_groups: int = 16
    norm_scale: float = 1.0
    neighbour_scale: float = 1.0
    dcn_bias: bool = True
    lineage: Lineage = Lineage.OFFICIAL
    implementation: str = "auto"
    dtype: jnp.dtype = jnp.float32
    offset_parameters: ClassVar = ("offset",)

    @nn.compact
    def __call__(self, pyramid: list[jax.Array], valid: Valid = None) -> list[list[jax.Array]]:
        """pyramid: (b, h_l, w_l, c_in), fine to coarse. Returns for each level its candidates, (b, h_l, w_l, features):
        own, finer (not at the finest), coarser (not at the coarsest). valid: the cells over which norms are computed.

        Raises ValueError if coarse_offsets is unknown or a level is not half (rounded up) of the finer one.
        """
        CoarseOffsets.parse("coarse_offsets", self.coarse_offsets)
        check_halving(pyramid)
        offsets, masks = self._predict(pyramid)
        levels = len(pyramid)
        calls = {"mid": self._call("mid", pyramid, range(levels), offsets, masks, stride=1)}
        if levels > 1:
            calls["low"] = self._call("low", pyramid, range(levels - 1), offsets[1:], masks[1:], stride=2)
            if self.coarse_offsets != CoarseOffsets.UPSAMPLE_FIRST:
                fitted = [
                    for_coarser(self.coarse_offsets, offset, mask, (x.shape[1], x.shape[2]))
                    for offset, mask, x in zip(offsets[:-1], masks[:-1], pyramid[1:], strict=True)
                ]
                small = [offset for offset, _ in fitted], [mask for _, mask in fitted]
                calls["high"] = self._call("high", pyramid, range(1, levels), *small, stride=1)
        outputs = dict(zip(calls, self._deform(pyramid, list(calls.values())), strict=True))

        candidates = [[own] for own in self._normed("mid", outputs["mid"], valid)]
        if levels == 1:
            return candidates
        finer, coarser = (valid[:-1], valid[1:]) if valid else (None, None)
        sizes = [(x.shape[1], x.shape[2]) for x in pyramid[:-1]]
        for level, low in enumerate(self._normed("low", outputs["low"], coarser)):
            candidates[level + 1].append(low)
        if self.coarse_offsets == CoarseOffsets.UPSAMPLE_FIRST:
            maps = [upsample_align_corners(x, size) for x, size in zip(pyramid[1:], sizes, strict=True)]
            call = self._call("high", maps, range(levels - 1), offsets[:-1], masks[:-1], stride=1)
            highs = self._normed("high", self._deform(maps, [call])[0], finer)
        else:
            coarse = self._normed("high", outputs["high"], coarser)
            highs = [upsample_align_corners(x, size) for x, size in zip(coarse, sizes, strict=True)]
        for level, high in enumerate(highs):
            candidates[level].append(high)
        return candidates

    def _predict(self, pyramid: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        """Offsets (b, h, w, 9, 2) and masks (b, h, w, 9) of each level."""
        if self.lineage == Lineage.OFFICIAL:
            kernel = bias = torch_uniform(TAPS * pyramid[0].shape[-1])
        else:
            bias = nn.initializers.zeros
            kernel = bias if self.lineage == Lineage.MMDET_SIMPLE else nn.initializers.normal(0.01)
        conv = Conv(3 * TAPS, 3, use_bias=True, kernel_init=kernel, bias_init=bias, dtype=self.dtype, name="offset")
        offsets, masks = [], []
        for x in pyramid:
            out = conv(x)
            out = out.astype(jnp.promote_types(out.dtype, jnp.float32))
            offsets.append(out[..., : 2 * TAPS].reshape(*out.shape[:3], TAPS, 2))
            masks.append(nn.sigmoid(out[..., 2 * TAPS :]))
        return offsets, masks

    def _call(self, kind: str, maps, levels: Sequence[int], offsets, masks, stride: int) -> Call:
        self.sow("intermediates", kind, {"offsets": list(offsets), "weights": list(masks)})  # for `look`
        c_in = maps[0].shape[-1]
        kernel = self.param(f"{kind}_kernel", torch_uniform(TAPS * c_in), (3, 3, c_in, self.features))
        bias = self.param(f"{kind}_bias", nn.initializers.zeros, (self.features,)) if self.dcn_bias else None
        return Call(levels, offsets, masks, kernel.astype(self.dtype), bias, stride, padding=1)

    def _deform(self, maps: list[jax.Array], calls: list[Call]) -> list[list[jax.Array]]:
        return deform_conv_calls([x.astype(self.dtype) for x in maps], calls, implementation=self.implementation)

    def _normed(self, kind: str, maps: list[jax.Array], valid: Valid) -> list[jax.Array]:
        norm = candidate_norm(self, kind)
        return [normed(norm, x, cells) for x, cells in zip(maps, valid or [None] * len(maps), strict=True)]


class PlainNeighbours(nn.Module):
    """Replaces spatial attention that is switched off: plain 3x3 convolutions of the same maps, each with a GroupNorm.

    Kernels start as U(+-1/sqrt(9 c_in)), bias 0. Source: GLIP's `USE_DFCONV = False`.
    """

    features: int = 256
    norm_groups: int = 16
    norm_scale: float = 1.0
    neighbour_scale: float = 1.0
    dcn_bias: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pyramid: list[jax.Array], valid: Valid = None) -> list[list[jax.Array]]:
        """As `SpatialAttention.__call__`."""
        check_halving(pyramid)
        init = torch_uniform(TAPS * pyramid[0].shape[-1])

        def branch(kind: str, stride: int):
            conv = nn.Conv(
                self.features, (3, 3), stride, 1, kernel_init=init, use_bias=self.dcn_bias, dtype=self.dtype, name=kind
            )
            norm = candidate_norm(self, kind)
            return lambda x, cells: normed(norm, conv(x), cells)

        own = branch("mid", 1)
        cells = valid or [None] * len(pyramid)
        candidates = [[own(x, v)] for x, v in zip(pyramid, cells, strict=True)]
        if len(pyramid) == 1:
            return candidates
        sizes = [(x.shape[1], x.shape[2]) for x in pyramid]
        finer, coarser = branch("low", 2), branch("high", 1)
        for level in range(1, len(pyramid)):
            candidates[level].append(finer(pyramid[level - 1], cells[level]))
        for level in range(len(pyramid) - 1):
            small = coarser(pyramid[level + 1], cells[level + 1])
            candidates[level].append(upsample_align_corners(small, sizes[level]))
        return candidates


def group_norm(groups: int, scale: float, dtype: jnp.dtype, name: str) -> nn.GroupNorm:
    """GroupNorm with epsilon 1e-5 and initial scale `scale`."""
    start = nn.initializers.constant(scale)
    return nn.GroupNorm(groups, epsilon=1e-5, use_fast_variance=False, scale_init=start, dtype=dtype, name=name)


def candidate_norm(attention: Any, kind: str) -> nn.GroupNorm:
    """That of one kind of candidates of a spatial attention: its own map ("mid") or a neighbour ("low", "high")."""
    scale = attention.norm_scale * (1.0 if kind == "mid" else attention.neighbour_scale)
    return group_norm(attention.norm_groups, scale, attention.dtype, f"{kind}_norm")


def check_halving(pyramid: list[jax.Array]) -> None:
    """Raises ValueError unless each level is half of the finer one, rounded up."""
    for level in range(1, len(pyramid)):
        finer, size = pyramid[level - 1].shape[1:3], pyramid[level].shape[1:3]
        if size != ((finer[0] + 1) // 2, (finer[1] + 1) // 2):
            raise ValueError(f"pyramid level {level} is {size}, not half of level {level - 1}, {finer}")
