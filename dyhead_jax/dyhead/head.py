"""The block task(scale(spatial(pyramid))) and the stack of blocks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.config import import_path
from dyhead_jax.dyhead.activations import Lineage
from dyhead_jax.dyhead.branches import Branches, Level, merged
from dyhead_jax.dyhead.coarse_offsets import CoarseOffsets
from dyhead_jax.dyhead.scale import ScaleAttention
from dyhead_jax.dyhead.spatial import PlainNeighbours, SpatialAttention
from dyhead_jax.dyhead.task import TaskAttention
from dyhead_jax.dyhead.valid_area import over

Pyramid = list[jax.Array]
Choice = Callable[..., Any] | str | None  # a module class, a partial of one, its import path; None or "none": off
ATTENTIONS = ("spatial", "scale", "task")


def mean_of_candidates(candidates: list[jax.Array]) -> jax.Array:
    """Scale attention switched off."""
    return sum(candidates[1:], candidates[0]) / len(candidates)


def make(choice: Choice, name: str | None, **context: Any) -> Any:
    """The module that `choice` names, given what it declares of `context` as fields.

    A fork's attention thus declares what it wants to know (`features`, `dtype`, ...) and nothing else. Options of its
    own come with `choice`, as a partial.
    """
    target: Any = import_path.load(choice) if isinstance(choice, str) else choice
    return import_path.call(partial(target, name=name), context)


class DyHeadBlock(nn.Module):
    """One block. Its three attentions are made once and shared by all levels.

    spatial, scale, task: module classes, partials of them or import paths; None or "none" switches one off (plain 3x3
    convolutions, plain mean, ReLU). All other fields are handed down to those attentions that declare them.
    Source: paper equation 2, in the order of the released code (spatial, scale, task).
    """

    features: int = 256
    spatial: Choice = SpatialAttention
    scale: Choice = ScaleAttention
    task: Choice = TaskAttention
    coarse_offsets: CoarseOffsets = CoarseOffsets.FLAT
    norm_groups: int = 16
    norm_scale: float = 1.0
    dcn_bias: bool = True
    lineage: Lineage = Lineage.OFFICIAL
    implementation: str = "auto"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pyramid: Pyramid, valid: list[jax.Array] | None = None) -> list[Level]:
        """pyramid: (b, h_l, w_l, c_in), fine to coarse. Returns (b, h_l, w_l, features) for each level, or
        `Branches` of such where the task attention returns them.

        valid: (b, h_l, w_l) bool, for those attentions that take it (see `valid_area`).
        Raises ValueError, which names the attention and the level, for a result of another shape or dtype.
        """
        spatial = self._attention("spatial", self.spatial, off=PlainNeighbours)
        scale = self._attention("scale", self.scale, off=mean_of_candidates)
        task = self._attention("task", self.task, off=nn.relu)
        candidates = over(valid, spatial)(pyramid)
        if len(candidates) != len(pyramid):
            raise ValueError(
                f"spatial attention {_name(spatial)} returns {len(candidates)} lists of candidates for"
                f" {len(pyramid)} levels"
            )
        levels = []
        for level, (x, maps) in enumerate(zip(pyramid, candidates, strict=True)):
            cells = None if valid is None else valid[level]
            self._check("spatial", spatial, level, x, maps)
            y = over(cells, scale)(maps)
            self._check("scale", scale, level, x, [y])
            z = over(cells, task)(y)
            self._check("task", task, level, x, z if isinstance(z, Branches) else [z])
            levels.append(z)
        return levels

    def _attention(self, name: str, choice: Choice, off: Callable[..., Any]) -> Any:
        if choice is None or choice == "none":
            if off is not PlainNeighbours:
                return off
            choice = off
        return make(choice, name, **{field: getattr(self, field) for field in HANDED_DOWN})

    def _check(self, kind: str, module: Any, level: int, x: jax.Array, maps: Sequence[jax.Array]) -> None:
        """Raises ValueError unless `maps`, a module's results for the level x, have the block's shape and dtype."""
        wanted = jax.ShapeDtypeStruct((*x.shape[:3], self.features), self.dtype)
        for found in maps:
            if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
                raise ValueError(
                    f"{kind} attention {_name(module)}, level {level}: returns {found.dtype}{list(found.shape)}, not"
                    f" {wanted.dtype}{list(wanted.shape)} (b, h, w, features)"
                )


def _name(module: Any) -> str:
    return type(module).__name__ if isinstance(module, nn.Module) else import_path.name_of(module)


HANDED_DOWN = tuple(name for name in import_path.parameters(DyHeadBlock) if name not in ATTENTIONS)
"""The fields of a block, which it hands down to those of its attentions that declare them."""


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
    coarse_offsets: CoarseOffsets = CoarseOffsets.FLAT
    norm_groups: int = 16
    norm_scale: float = 1.0
    dcn_bias: bool = True
    lineage: Lineage = Lineage.OFFICIAL
    implementation: str = "auto"
    remat: bool = False
    scan: bool = False
    valid_area: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pyramid: Pyramid, valid: list[jax.Array] | None = None) -> list[Level]:
        """pyramid: (b, h_l, w_l, c_in), fine to coarse. Returns (b, h_l, w_l, features) for each level, or
        `Branches` of such where the last block does. From block to block goes one map a level (`branches.merged`).

        valid: (b, h_l, w_l) bool for each level, used with `valid_area`; None is everywhere.
        Raises ValueError when `scan` meets other channels than `features`, and what a block raises.
        """
        if not self.valid_area:
            valid = None
        block, options = self._block()
        if not self.scan or self.num_blocks == 0:
            levels: list[Level] = list(pyramid)
            for i in range(self.num_blocks):
                levels = over(valid, make(block, f"block_{i}", **options))([merged(x) for x in levels])
            return levels
        for level, x in enumerate(pyramid):
            if x.shape[-1] != self.features:
                raise ValueError(f"scan over blocks: level {level} has {x.shape[-1]} channels, not {self.features}")
        scan = nn.scan(
            lambda module, carry, _: (over(valid, module)([merged(x) for x in carry]), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.num_blocks,
        )
        start = [x.astype(self.dtype) for x in pyramid]
        unbound = make(partial(block, parent=None), None, **options)
        result, _ = jax.eval_shape(unbound.init_with_output, jax.random.key(0), start)
        # the loop's input has the structure of its result
        carry = [Branches(x, x) if isinstance(level, Branches) else x for x, level in zip(start, result, strict=True)]
        return scan(make(block, "blocks", **options), carry, None)[0]

    def _block(self) -> tuple[Any, dict[str, Any]]:
        """What makes a block, and what it is offered."""
        block: Any = import_path.load(self.block) if isinstance(self.block, str) else self.block
        keywords: dict[str, Any] = {}
        while isinstance(block, partial):
            keywords = block.keywords | keywords
            block = block.func
        if self.remat:
            block = nn.remat(block, prevent_cse=not self.scan)
        offered = {name: getattr(self, name) for name in (*ATTENTIONS, *HANDED_DOWN)}
        return partial(block, **keywords), offered
