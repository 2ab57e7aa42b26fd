"""The block task(scale(spatial(pyramid))) and the stack of blocks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.config import import_path
from dyhead_jax.dyhead.scale import ScaleAttention
from dyhead_jax.dyhead.spatial import PlainNeighbours, SpatialAttention
from dyhead_jax.dyhead.task import TaskAttention
from dyhead_jax.dyhead.valid_area import over

Pyramid = list[jax.Array]
Choice = Callable[..., Any] | str | None  # a module class, its import path, or None ("none") for "switched off"


def mean_of_candidates(candidates: list[jax.Array]) -> jax.Array:
    """Scale attention switched off."""
    return sum(candidates[1:], candidates[0]) / len(candidates)


def make(choice: Choice, name: str, **options: Any) -> Any:
    """The module that `choice` names, given those of `options` that it declares as fields.

    A fork's attention thus declares what it wants to know (`features`, `dtype`, ...) and nothing else.
    """
    cls: Any = import_path.load(choice) if isinstance(choice, str) else choice
    fields = getattr(cls, "__dataclass_fields__", {})
    return cls(name=name, **{k: v for k, v in options.items() if k in fields})


class DyHeadBlock(nn.Module):
    """One block. Its three attentions are made once and shared by all levels.

    spatial, scale, task: module classes or import paths; None or "none" switches one off (plain 3x3 convolutions, plain
    mean, ReLU). All other fields are handed to those attentions that declare them.
    Source: paper equation 2, in the order of the released code (spatial, scale, task).
    """

    features: int = 256
    spatial: Choice = SpatialAttention
    scale: Choice = ScaleAttention
    task: Choice = TaskAttention
    coarse_offsets: str = "flat"
    norm_groups: int = 16
    norm_scale: float = 1.0
    dcn_bias: bool = True
    lineage: str = "official"
    implementation: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pyramid: Pyramid, valid: list[jax.Array] | None = None) -> Pyramid:
        """pyramid: (b, h_l, w_l, c_in), fine to coarse. Returns (b, h_l, w_l, features) for each level.

        valid: (b, h_l, w_l) bool, for those attentions that take it (see `valid_area`).
        """
        spatial = self._attention("spatial", off=PlainNeighbours)
        scale = self._attention("scale", off=mean_of_candidates)
        task = self._attention("task", off=nn.relu)
        levels = zip(over(valid, spatial)(pyramid), valid or [None] * len(pyramid), strict=True)
        return [over(cells, task)(over(cells, scale)(candidates)) for candidates, cells in levels]

    def _attention(self, name: str, off: Callable[..., Any]) -> Any:
        choice = {"spatial": self.spatial, "scale": self.scale, "task": self.task}[name]
        if choice is None or choice == "none":
            if off is not PlainNeighbours:
                return off
            choice = off
        return make(
            choice,
            name,
            features=self.features,
            coarse_offsets=self.coarse_offsets,
            norm_groups=self.norm_groups,
            norm_scale=self.norm_scale,
            dcn_bias=self.dcn_bias,
            lineage=self.lineage,
            implementation=self.implementation,
            dtype=self.dtype,
        )


class DyHead(nn.Module):
    """num_blocks blocks in a row; any number of levels; input channels may differ from `features`.

    block: the class of a block or its import path. remat: recompute each block in the backward pass. scan: one compiled
    block with stacked parameters (leading axis num_blocks) in place of num_blocks copies, which compiles sooner; its
    input has `features` channels. valid_area: blocks get to know which cells lie on the image, for their statistics;
    without it padding is part of them, as in the references.
    norm_scale: what the scales of the GroupNorms start at. With the references' 1 a block hands on features of standard
    deviation 0.29 (the mean of three normed maps, each halved by the scale attention), and short trainings with Adam
    then learn slowly behind it; 2 sqrt(3) starts at about 1. The other fields are those of `DyHeadBlock`.
    """

    num_blocks: int = 6
    features: int = 256
    block: Choice = DyHeadBlock
    spatial: Choice = SpatialAttention
    scale: Choice = ScaleAttention
    task: Choice = TaskAttention
    coarse_offsets: str = "flat"
    norm_groups: int = 16
    norm_scale: float = 1.0
    dcn_bias: bool = True
    lineage: str = "official"
    implementation: str = "auto"
    remat: bool = False
    scan: bool = False
    valid_area: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pyramid: Pyramid, valid: list[jax.Array] | None = None) -> Pyramid:
        """pyramid: (b, h_l, w_l, c_in), fine to coarse. Returns (b, h_l, w_l, features) for each level.

        valid: (b, h_l, w_l) bool for each level, used with `valid_area`; None is everywhere.
        Raises ValueError when `scan` meets other channels than `features`.
        """
        if not self.valid_area:
            valid = None
        cls: Any = import_path.load(self.block) if isinstance(self.block, str) else self.block
        if self.remat:
            cls = nn.remat(cls, prevent_cse=not self.scan)
        options = {
            name: getattr(self, name)
            for name in (
                "features", "spatial", "scale", "task", "coarse_offsets", "norm_groups", "norm_scale", "dcn_bias",
                "lineage", "implementation", "dtype",
            )
        }  # fmt: skip
        if not self.scan or self.num_blocks == 0:
            for i in range(self.num_blocks):
                pyramid = over(valid, make(cls, f"block_{i}", **options))(pyramid)
            return pyramid
        for level, x in enumerate(pyramid):
            if x.shape[-1] != self.features:
                raise ValueError(f"scan over blocks: level {level} has {x.shape[-1]} channels, not {self.features}")
        block = make(cls, "blocks", **options)
        scan = nn.scan(
            lambda module, carry, _: (over(valid, module)(carry), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.num_blocks,
        )
        return scan(block, [x.astype(self.dtype) for x in pyramid], None)[0]
