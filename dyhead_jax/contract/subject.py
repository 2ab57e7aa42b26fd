"""What is checked: a tiny DyHead with the attentions of a command line, and what several properties share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dyhead_jax.command import UsageError
from dyhead_jax.config import Config, ConfigError, flags, import_path, nodes
from dyhead_jax.contract.tiny_model import make_config
from dyhead_jax.dyhead import DyHead, DyHeadBlock
from dyhead_jax.dyhead.building import ATTENTIONS, OFF, Pyramid, make
from dyhead_jax.dyhead.head import HANDED_DOWN
from dyhead_jax.training import steps

KINDS = (*ATTENTIONS, "block")
SIZE = (13, 11)  # of the finest map: odd, as are some of the coarser ones
Path = tuple[str, ...]


class Broken(ValueError):
    """A property does not hold; the message says what the contract wants and what it saw."""


class NotRun(ValueError):
    """A property that cannot be checked on this machine; the message says why."""


def sizes(levels: int, finest: tuple[int, int] = SIZE) -> list[tuple[int, int]]:
    """(height, width) of each level, fine to coarse, each half of the one before, rounded up."""
    found = [finest]
    for _ in range(levels - 1):
        found.append(((found[-1][0] + 1) // 2, (found[-1][1] + 1) // 2))
    return found


def noise(shapes: Sequence[tuple[int, ...]], seed: int = 0) -> list[np.ndarray]:
    """Standard normal float32 of these shapes."""
    draw = np.random.default_rng(seed)
    return [draw.normal(size=shape).astype(np.float32) for shape in shapes]


@dataclass(frozen=True)
class Subject:
    """config: tiny, with the attentions that are checked; tested: which of `KINDS` a person named."""

    config: Config
    tested: tuple[str, ...]

    @property
    def features(self) -> int:
        return self.config.model.dyhead.features

    def head(self, **fields: Any) -> DyHead:
        """Two blocks, float32; `fields` are set besides."""
        head = nodes.build(self.config.model.dyhead, dtype=jnp.dtype("float32"), axis_name=None)
        return head.clone(**fields) if fields else head

    def target(self, kind: str) -> Any:
        """The class of a kind, or a partial of it; None where it is off."""
        return nodes.target_of(getattr(self.config.model.dyhead, kind))

    def attention(self, kind: str, **fields: Any) -> Any:
        """An attention or the block on its own, with what is handed down to it; fields: of the shipped block, which a
        block of another kind gets too where its attentions declare them."""
        block = DyHeadBlock(features=self.features, norm_groups=4, **fields)
        handed = {name: getattr(block, name) for name in HANDED_DOWN}
        target = self.target(kind) or OFF[kind]
        if kind == "block":
            handed |= {name: _with(self.target(name), fields) for name in ATTENTIONS}
        return make(target, None, **handed) if isinstance(called(target), type) else target

    def pyramid(self, levels: int = 3, batch: int = 2, seed: int = 0) -> Pyramid:
        """Noise (batch, h_l, w_l, features) for each level."""
        maps = noise([(batch, *size, self.features) for size in sizes(levels)], seed)
        return [jnp.asarray(x) for x in maps]

    @cached_property
    def traced(self) -> Callable[..., tuple[Any, Any]]:
        """The shapes of the results and of the variables for a number of levels and the size of the finest."""

        @cache
        def trace(levels: int, finest: tuple[int, int] = SIZE) -> tuple[Any, Any]:
            shapes = [jax.ShapeDtypeStruct((2, *s, self.features), jnp.float32) for s in sizes(levels, finest)]
            return jax.eval_shape(self.head(num_blocks=1).init_with_output, jax.random.key(0), shapes)

        return trace

    @cached_property
    def initial(self) -> Any:
        """The variables of two blocks as they start."""
        return steps.jit_once(self.head().init)(jax.random.key(0), self.pyramid())

    def moved(self, seed: int = 0) -> Any:
        """Variables away from where they start, so that none is zero."""
        leaves, tree = jax.tree.flatten(self.initial)
        more = noise([leaf.shape for leaf in leaves], seed)
        return jax.tree.unflatten(tree, [x + (0.1 * abs(y)).astype(x.dtype) for x, y in zip(leaves, more, strict=True)])

    @cached_property
    def run(self) -> Callable[[Any, Pyramid], tuple[list[Any], dict[Path, np.ndarray]]]:
        """A compiled program: variables, maps -> the results of two blocks, and the gradient of each parameter."""
        return program(self.head())

    def own(self, path: Path) -> bool:
        """Whether the parameter at a path (below DyHead) belongs to what is tested."""
        return "block" in self.tested or path[1] in self.tested


def program(head: DyHead) -> Callable[[Any, Pyramid], tuple[list[Any], dict[Path, np.ndarray]]]:
    """variables, maps -> results and gradients (by path) of a weighted sum of them; compiled at the first call."""

    @steps.jit_once
    def run(variables: Any, pyramid: Pyramid) -> Any:
        def objective(params: Any) -> Any:
            levels = head.apply(variables | {"params": params}, pyramid)
            return weighted_sum(levels), levels

        gradients, levels = jax.grad(objective, has_aux=True)(variables["params"])
        return levels, gradients

    def readable(variables: Any, pyramid: Pyramid) -> tuple[list[Any], dict[Path, np.ndarray]]:
        levels, gradients = jax.tree.map(np.asarray, run(variables, pyramid))
        return levels, by_path(gradients)

    return readable


def weighted_sum(levels: Any) -> jax.Array:
    """A scalar to which every value of the maps contributes with a weight of its own."""
    leaves = jax.tree.leaves(levels)
    weights = noise([leaf.shape for leaf in leaves], seed=9)
    return sum((jnp.vdot(x.astype(jnp.float32), w) for x, w in zip(leaves, weights, strict=True)), jnp.float32(0))


def by_path(tree: Any) -> dict[Path, Any]:
    """The leaves of a tree of variables, by the names that lead to them."""
    return dict(traverse_util.flatten_dict(tree))  # type: ignore[arg-type]


def difference(found: Any, wanted: Any, least: float = 1e-6) -> float:
    """The largest absolute difference of two trees, relative to the largest value of `wanted` in the same array, which
    counts as `least` where it is smaller."""

    def of(a: Any, b: Any) -> float:
        return largest(np.asarray(a, np.float32) - np.asarray(b, np.float32)) / max(largest(b), least)

    return max(jax.tree.leaves(jax.tree.map(of, found, wanted)), default=0.0)


def largest(tree: Any) -> float:
    """The largest absolute value in a tree."""
    arrays = (np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(tree))
    return max((float(np.max(np.abs(array), initial=0.0)) for array in arrays), default=0.0)


def make_subject(chosen: dict[str, str], options: Sequence[str] = (), features: int = 16) -> Subject:
    """chosen: import paths by kind; options: as in ["spatial.num_points=8"]. Without a choice all three are tested.

    Raises UsageError for an option that the class does not have, and ConfigError for a path that leads nowhere.
    """
    settings = [f"{kind}={path}" for kind, path in chosen.items()] + list(options)
    prefix = "--config.model.dyhead."
    try:
        config = flags.override(make_config(features), [f"{prefix}{setting}" for setting in settings])
    except (UsageError, ConfigError) as error:
        raise type(error)(str(error).replace(prefix, "--")) from error
    named = tuple(kind for kind in KINDS if kind in chosen or any(o.startswith(f"{kind}.") for o in options))
    return Subject(config, named or ATTENTIONS)


def called(target: Any) -> Any:
    """The class of a partial of one."""
    while isinstance(target, partial):
        target = target.func
    return target


def _with(target: Any, fields: dict[str, Any]) -> Any:
    """A class with those of the `fields` set that it declares; None stays None."""
    if target is None:
        return None
    return partial(target, **{name: value for name, value in fields.items() if name in import_path.parameters(target)})
