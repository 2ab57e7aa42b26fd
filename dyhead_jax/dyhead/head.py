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
ModuleChoice = Callable[..., Any] | str | None  # a module class, a partial or import path of one; None or "none": off
ATTENTIONS = ("spatial", "scale", "task")


def mean_of_candidates(candidates: list[jax.Array]) -> jax.Array:
    """The mean, used when scale attention is switched off."""
    return sum(candidates[1:], candidates[0]) / len(candidates)


def make(choice: ModuleChoice, name: str | None, **context: Any) -> Any:
    """The module that `choice` names, called with those values of `context` that it declares as fields.

    A fork's attention thus declares only the fields that it needs (`features`, `dtype`, ...). `choice` carries its own
    options, as a partial.
    """
    target: Any = import_path.load(choice) if isinstance(choice, str) else choice
    return import_path.call(partial(target, name=name), context)


class DyHeadBlock(nn.Module):
    """One block. Its three attentions are created once and shared by all levels.

    spatial, scale, task: module classes, partials of them or import paths; None or "none" switches one off (plain 3x3
    convolutions, plain mean, ReLU). All other fields are passed to the attentions that declare them.
    Source: paper equation 2, in the order of the released code (spatial, scale, task).
    """

    features: int = 256
    spatial: ModuleChoice = SpatialAttention
    scale: ModuleChoice = ScaleAttention
    task: ModuleChoice = TaskAttention
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
        `Branches` of such maps if the task attention returns them.

        valid: (b, h_l, w_l) bool for each level, for the attentions that take it (see `valid_area`).
        Raises ValueError, which names the attention and the level, if a result has another shape or dtype.
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

    def _attention(self, name: str, choice: ModuleChoice, off: Callable[..., Any]) -> Any:
        if choice is None or choice == "none":
            if off is not PlainNeighbours:
                return off
            choice = off
        return make(choice, name, **{field: getattr(self, field) for field in HANDED_DOWN})

    def _check(self, kind: str, module: Any, level: int, x: jax.Array, maps: Sequence[jax.Array]) -> None:
        """Raises ValueError unless `maps`, a module's results for level x, have the shape and dtype of the block."""
        expected = jax.ShapeDtypeStruct((*x.shape[:3], self.features), self.dtype)
        for result in maps:
            if (result.shape, result.dtype) != (expected.shape, expected.dtype):
                raise ValueError(
                    f"{kind} attention {_name(module)}, level {level}: returns {result.dtype}{list(result.shape)}, not"
                    f" {expected.dtype}{list(expected.shape)} (b, h, w, features)"
                )


def _name(module: Any) -> str:
    return type(module).__name__ if isinstance(module, nn.Module) else import_path.name_of(module)


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
    layers after it learn slowly; with 2 sqrt(3) it is about 1. The other fields are those of `DyHeadBlock`.
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
        `Branches` of such maps if the last block does. Between blocks each level has one map (`branches.merged`).

        valid: (b, h_l, w_l) bool for each level, used with `valid_area`; None means all cells.
        Raises ValueError if with `scan` the input has other than `features` channels, and what a block raises.
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
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            length=self.num_blocks,
        )
        start = [x.astype(self.dtype) for x in pyramid]
        unbound = make(partial(block, parent=None), None, **options)
        result, _ = jax.eval_shape(unbound.init_with_output, jax.random.key(0), start)
        # the carry of the loop has the structure of its result
        carry = [Branches(x, x) if isinstance(level, Branches) else x for x, level in zip(start, result, strict=True)]
        return scan(make(block, "blocks", **options), carry, None)[0]

    def _block(self) -> tuple[Any, dict[str, Any]]:
        """A partial that makes a block, and the values offered to it."""
        block: Any = import_path.load(self.block) if isinstance(self.block, str) else self.block
        keywords: dict[str, Any] = {}
        while isinstance(block, partial):
            keywords = block.keywords | keywords
            block = block.func
        if self.remat:
            block = nn.remat(block, prevent_cse=not self.scan)
        offered = {name: getattr(self, name) for name in (*ATTENTIONS, *HANDED_DOWN)}
        return partial(block, **keywords), offered
