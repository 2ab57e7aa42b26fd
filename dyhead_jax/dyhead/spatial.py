"""Spatial-aware attention, pi_S: deformable sampling of a level and its two neighbours with one set of offsets."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.dyhead import coarse_offsets
from dyhead_jax.dyhead.activations import torch_uniform
from dyhead_jax.dyhead.valid_area import normed
from dyhead_jax.ops.conv import Conv
from dyhead_jax.ops.deform_conv import deform_conv_levels
from dyhead_jax.ops.resize import upsample_align_corners

TAPS = 9
Valid = list[jax.Array] | None  # of each level; see `valid_area`


class SpatialAttention(nn.Module):
    """For each level up to three candidates: its own map, the finer (stride 2) and the coarser (upsampled) neighbour's.

    One 3x3 convolution, shared over levels, predicts 18 offsets (dy, dx by tap) and 9 mask logits; the level's offsets
    and sigmoid(mask) drive three deformable 3x3 convolutions, each followed by its own GroupNorm. The convolution of a
    kind runs over all levels in one loop. Offsets, masks and norms are float32.

    features: output channels; coarse_offsets: see `coarse_offsets.CHOICES`; norm_groups: of GroupNorm, eps 1e-5, whose
    scale starts at norm_scale (1 in the references; see `DyHead`);
    dcn_bias: bias of the deformable convolutions; implementation: of `deform_conv`.
    lineage: deformable kernels U(+-1/sqrt(9 c_in)), bias 0; the offset convolution is PyTorch's default ("official"),
    N(0, 0.01) ("mmdet") or zero ("mmdet_simple"), bias 0 in the last two.
    Source: paper equation 4; official code `DyConv`; mmdetection `DyHeadBlock`.
    """

    features: int = 256
    coarse_offsets: str = "flat"
    norm_groups: int = 16
    norm_scale: float = 1.0
    dcn_bias: bool = True
    lineage: str = "official"
    implementation: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pyramid: list[jax.Array], valid: Valid = None) -> list[list[jax.Array]]:
        """pyramid: (b, h_l, w_l, c_in), fine to coarse. Returns for each level its candidates, (b, h_l, w_l, features):
        own, finer (not at the finest), coarser (not at the coarsest). valid: the cells that norms are taken over.

        Raises ValueError when coarse_offsets is unknown or a level is not half (rounded up) of the finer one.
        """
        if self.coarse_offsets not in coarse_offsets.CHOICES:
            raise ValueError(f"coarse_offsets is {self.coarse_offsets!r}; it may be {coarse_offsets.CHOICES}")
        check_halving(pyramid)
        offsets, masks = self._predict(pyramid)
        candidates = [[own] for own in self._deform("mid", pyramid, offsets, masks, valid, stride=1)]
        if len(pyramid) == 1:
            return candidates
        finer, coarser = (valid[:-1], valid[1:]) if valid else (None, None)
        for level, low in enumerate(self._deform("low", pyramid[:-1], offsets[1:], masks[1:], coarser, stride=2)):
            candidates[level + 1].append(low)
        for level, high in enumerate(self._coarser(pyramid, offsets, masks, finer, coarser)):
            candidates[level].append(high)
        return candidates

    def _predict(self, pyramid: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        """Offsets (b, h, w, 9, 2) and masks (b, h, w, 9) of each level."""
        if self.lineage == "official":
            kernel = bias = torch_uniform(TAPS * pyramid[0].shape[-1])
        else:
            bias = nn.initializers.zeros
            kernel = bias if self.lineage == "mmdet_simple" else nn.initializers.normal(0.01)
        conv = Conv(3 * TAPS, 3, use_bias=True, kernel_init=kernel, bias_init=bias, dtype=self.dtype, name="offset")
        offsets, masks = [], []
        for x in pyramid:
            out = conv(x)
            out = out.astype(jnp.promote_types(out.dtype, jnp.float32))
            offsets.append(out[..., : 2 * TAPS].reshape(*out.shape[:3], TAPS, 2))
            masks.append(nn.sigmoid(out[..., 2 * TAPS :]))
        return offsets, masks

    def _coarser(self, pyramid, offsets, masks, finer_valid: Valid, coarser_valid: Valid) -> list[jax.Array]:
        """The coarser neighbour's candidate of each level but the coarsest."""
        sizes = [(x.shape[1], x.shape[2]) for x in pyramid]
        if self.coarse_offsets == "upsample_first":
            maps = [upsample_align_corners(x, size) for x, size in zip(pyramid[1:], sizes[:-1], strict=True)]
            return self._deform("high", maps, offsets[:-1], masks[:-1], finer_valid, stride=1)
        fitted = [
            coarse_offsets.for_coarser(self.coarse_offsets, offset, mask, size)
            for offset, mask, size in zip(offsets[:-1], masks[:-1], sizes[1:], strict=True)
        ]
        offsets, masks = [o for o, _ in fitted], [m for _, m in fitted]
        small = self._deform("high", pyramid[1:], offsets, masks, coarser_valid, stride=1)
        return [upsample_align_corners(x, size) for x, size in zip(small, sizes[:-1], strict=True)]

    def _deform(self, kind: str, maps, offsets, masks, valid: Valid, stride: int) -> list[jax.Array]:
        c_in = maps[0].shape[-1]
        kernel = self.param(f"{kind}_kernel", torch_uniform(TAPS * c_in), (3, 3, c_in, self.features))
        bias = self.param(f"{kind}_bias", nn.initializers.zeros, (self.features,)) if self.dcn_bias else None
        norm = group_norm(self.norm_groups, self.norm_scale, self.dtype, f"{kind}_norm")
        maps = [x.astype(self.dtype) for x in maps]
        kernel = kernel.astype(self.dtype)
        out = deform_conv_levels(
            maps, offsets, masks, kernel, bias, stride=stride, padding=1, implementation=self.implementation
        )
        return [normed(norm, x, cells) for x, cells in zip(out, valid or [None] * len(out), strict=True)]


class PlainNeighbours(nn.Module):
    """Spatial attention switched off: plain 3x3 convolutions of the same three maps, each with its GroupNorm.

    Kernels start as U(+-1/sqrt(9 c_in)), bias 0. Source: GLIP's `USE_DFCONV = False`.
    """

    features: int = 256
    norm_groups: int = 16
    norm_scale: float = 1.0
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
            norm = group_norm(self.norm_groups, self.norm_scale, self.dtype, f"{kind}_norm")
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
    """GroupNorm with epsilon 1e-5 whose scale starts at `scale`."""
    start = nn.initializers.constant(scale)
    return nn.GroupNorm(groups, epsilon=1e-5, use_fast_variance=False, scale_init=start, dtype=dtype, name=name)


def check_halving(pyramid: list[jax.Array]) -> None:
    """Raises ValueError unless each level is half of the finer one, rounded up."""
    for level in range(1, len(pyramid)):
        finer, size = pyramid[level - 1].shape[1:3], pyramid[level].shape[1:3]
        if size != ((finer[0] + 1) // 2, (finer[1] + 1) // 2):
            raise ValueError(f"pyramid level {level} is {size}, not half of level {level - 1}, {finer}")
