"""The block task(scale(spatial(pyramid))) and the stack of blocks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.config import import_path
from dyhead_jax.dyhead.activations import Lineage
from dyhead_jax.dyhead.branches import Branches, Level, merged
from dyhead_jax.dyhead.building import (
    ATTENTIONS,
    ModuleChoice,
    Pyramid,
    attentions,
    check_levels,
    declared,
    hand_down,
    make,
    name_of,
)
from dyhead_jax.dyhead.coarse_offsets import CoarseOffsets
from dyhead_jax.dyhead.scale import ScaleAttention
from dyhead_jax.dyhead.spatial import SpatialAttention
from dyhead_jax.dyhead.task import TaskAttention


class DyHeadBlock(nn.Module):
    """One block. Its three attentions are created once and shared by all levels.

    spatial, scale, task: module classes, partials of them or import paths; None or "none" switches one off (plain 3x3
    convolutions, plain mean, ReLU). All other fields are passed to the attentions that declare them. axis_name: the
    mapped axis (of `jax.pmap`) over which an attention's batch statistics are averaged; None where one program sees the
    whole batch.
    Source: paper equation 2, in the order of the released code (spatial, scale, task).
    """

    features: int = 256
    spatial: ModuleChoice = SpatialAttention
    scale: ModuleChoice = ScaleAttention
    task: ModuleChoice = TaskAttention
    coarse_offsets: CoarseOffsets = CoarseOffsets.FLAT
    norm_groups: int = 16
    norm_scale: float = 1.0
    neighbour_scale: float = 1.0
    dcn_bias: bool = True
    lineage: Lineage = Lineage.OFFICIAL
    implementation: str = "auto"
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, pyramid: Pyramid, valid: list[jax.Array] | None = None, train: bool = False) -> list[Level]:
        """pyramid: (b, h_l, w_l, c_in), fine to coarse. Returns (b, h_l, w_l, features) for each level, or
        `Branches` of such maps if the task attention returns them.

        valid: (b, h_l, w_l) bool for each level (see `valid_area`), and train, for the attentions that take them.
        Raises ValueError, which names the attention and the level, if a result has another shape or dtype.
        """
        spatial, scale, task = attentions(self, pyramid, valid=valid, train=train)
        candidates = spatial(pyramid)
        return [task(scale(candidates, level), level) for level in range(len(pyramid))]


HANDED_DOWN = tuple(name for name in import_path.parameters(DyHeadBlock) if name not in ATTENTIONS)
"""The fields that a block passes to those of its attentions that declare them."""


class DyHead(nn.Module):
    """A stack of num_blocks blocks; any number of levels; input channels may differ from `features`.

    block: the class of a block or its import path. remat: recompute each block in the backward pass. scan: one compiled
    block with stacked parameters (leading axis num_blocks) instead of num_blocks copies, which compiles faster; the
    input must have `features` channels. valid_area: blocks compute their statistics over the cells on the image only;
    without it padding is included, as in the references.
    norm_scale: initial scale of the GroupNorms. With the references' 1 the output of a block has standard deviation
    0.29 (the mean of three normed maps, each halved by the scale attention), and in short trainings with Adam the
    layers after it learn slowly; with 2 sqrt(3) it is about 1. neighbour_scale: that of the two neighbouring levels'
    maps, as a factor of norm_scale. With less than 1 a level starts mostly with its own map, and learns what to
    take from its neighbours; the references have 1. The other fields are those of `DyHeadBlock`.
    """

    num_blocks: int = 6
    features: int = 256
    block: ModuleChoice = DyHeadBlock
    spatial: ModuleChoice = SpatialAttention
    scale: ModuleChoice = ScaleAttention
    task: ModuleChoice = TaskAttention
    coarse_offsets: CoarseOffsets = CoarseOffsets.FLAT
    norm_groups: int = 16
    norm_scale: float = 1.0
    neighbour_scale: float = 1.0
    dcn_bias: bool = True
    lineage: Lineage = Lineage.OFFICIAL
    implementation: str = "auto"
    remat: bool = False
    scan: bool = False
    valid_area: bool = False
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, pyramid: Pyramid, valid: list[jax.Array] | None = None, train: bool = False) -> list[Level]:
        """pyramid: (b, h_l, w_l, c_in), fine to coarse. Returns (b, h_l, w_l, features) for each level, or
        `Branches` of such maps if the last block does. Between blocks each level has one map (`branches.merged`).

        valid: (b, h_l, w_l) bool for each level, used with `valid_area`; None means all cells. train: for the blocks
        and attentions that take it. Each block has random numbers and variables of its own, with `scan` too, where
        every collection is stacked along axis 0.
        Raises ValueError if with `scan` the input has other than `features` channels, if a block returns other levels
        than it got, and what a block raises.
        """
        if not self.valid_area:
            valid = None

        def run(module: nn.Module, levels: list[Level], valid: list[jax.Array] | None) -> list[Level]:
            maps = [merged(x) for x in levels]
            return hand_down(module, valid=valid, train=train)(maps)  # type: ignore[arg-type]

        run = nn.remat(run, prevent_cse=not self.scan) if self.remat else run
        block, options = self._block()
        if not self.scan or self.num_blocks == 0:
            levels: list[Level] = list(pyramid)
            for i in range(self.num_blocks):
                module = make(block, f"block_{i}", **options)
                levels = run(module, levels, valid)
                check_levels(f"block {name_of(module)}", pyramid, levels, self.features, self.dtype)
            return levels
        for level, x in enumerate(pyramid):
            if x.shape[-1] != self.features:
                raise ValueError(f"scan over blocks: level {level} has {x.shape[-1]} channels, not {self.features}")
        scan = nn.scan(
            lambda module, carry, _: (run(module, carry, valid), None),
            variable_axes={True: 0},
            split_rngs={True: True},
            length=self.num_blocks,
        )
        start = [x.astype(self.dtype) for x in pyramid]
        unbound = make(partial(block, parent=None), None, **options)
        trace = partial(unbound.init_with_output, **declared(unbound, valid=valid, train=train))
        result, _ = jax.eval_shape(trace, jax.random.key(0), start)
        check_levels(f"block {name_of(unbound)}", pyramid, result, self.features, self.dtype)
        # the carry of the loop has the structure of its result
        carry = [Branches(x, x) if isinstance(level, Branches) else x for x, level in zip(start, result, strict=True)]
        return scan(make(block, "blocks", **options), carry, None)[0]

    def _block(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """What makes a block, and the values offered to it."""
        block: Any = import_path.load(self.block) if isinstance(self.block, str) else self.block
        return block, {name: getattr(self, name) for name in (*ATTENTIONS, *HANDED_DOWN)}
