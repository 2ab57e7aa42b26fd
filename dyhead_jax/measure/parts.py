"""The modules of a DyHead block as programs of their own, on the arguments that they have inside the block.

Each program is compiled by itself and runs all calls of a module: those of spatial attention, one for all levels, those
of the others, one a level. What is left of the block's time is that of parts that are no modules (a mean, a ReLU), and
what the compiler saves or loses between modules; fused with its neighbours a module can take less time than alone, so
the rest may be negative. All norms together are a program too; their time is part of that of the modules with norms.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.dyhead import DyHead
from dyhead_jax.measure import tables
from dyhead_jax.measure.harness import Job
from dyhead_jax.measure.report import columns_of
from dyhead_jax.measure.timing import Program, Setting, with_gradients
from dyhead_jax.training import steps

NORMS = "norms"
FORWARD, BOTH = "forward", "forward+backward"
_NORM_CLASSES = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm, nn.RMSNorm, nn.InstanceNorm)


@dataclass(frozen=True)
class Call:
    """A call of a module inside a block. parts: the names under which it counts; module: without its parents; path: in
    the variables; structure, leaves: of its arguments, an array being replaced by `_Float` or `_Other`."""

    parts: tuple[str, ...]
    module: nn.Module
    path: tuple[str, ...]
    structure: Any
    leaves: tuple[Any, ...]

    def __call__(self, variables: Any, floats: Sequence[jax.Array], others: Sequence[jax.Array]) -> Any:
        arrays = {_Float: iter(floats), _Other: iter(others)}
        leaves = [next(arrays[leaf]) if leaf is _Float or leaf is _Other else leaf for leaf in self.leaves]
        args, kwargs = jax.tree.unflatten(self.structure, leaves)
        return self.module.apply(variables, *args, **kwargs)


class _Float:
    """In the place of an array that has a gradient."""


class _Other:
    """In the place of any other array."""


@dataclass
class Recorded:
    """The calls of a block's modules, and for each of them its arrays."""

    calls: list[Call] = field(default_factory=list)
    floats: list[list[jax.Array]] = field(default_factory=list)
    others: list[list[jax.Array]] = field(default_factory=list)


def jobs(
    variant: str, head: DyHead, variables: Any, pyramid: list[jax.Array], setting: Setting, kinds: Sequence[str]
) -> Iterator[tuple[str, Job]]:
    """For each part its name and its jobs of these kinds. head: of one block, neither scanned nor recomputed."""
    found = recorded(head, variables, pyramid)
    for part in dict.fromkeys(name for call in found.calls for name in call.parts):
        own = [i for i, call in enumerate(found.calls) if part in call.parts]
        calls = [found.calls[i] for i in own]
        inputs = {"/".join(call.path): _variables_at(call.path, variables) for call in calls}

        def forward(inputs, floats, others, calls=calls):
            arrays = zip(calls, floats, others, strict=True)
            return [call(inputs["/".join(call.path)], *own) for call, *own in arrays]

        arguments = inputs, [found.floats[i] for i in own], [found.others[i] for i in own]
        for kind in kinds:
            function = forward if kind == FORWARD else with_gradients(forward, (0, 1))
            yield part, Job(named(variant, part, kind), function, arguments, setting)


def named(variant: str, part: str, kind: str) -> str:
    """The name of a program. part: "" for the whole block."""
    return " ".join(filter(None, (variant, part, kind)))


def recorded(head: DyHead, variables: Any, pyramid: list[jax.Array]) -> Recorded:
    """What the modules of the first block, and the norms in it, are called with."""
    found = Recorded()

    def trace(variables, pyramid):
        found.calls.clear()
        floats, others = [], []

        def keep(call, args, kwargs, context):
            parts = _parts(context.module) if context.method_name == "__call__" else ()
            if parts:
                leaves, structure = jax.tree.flatten((args, kwargs))
                marks = tuple(_mark(leaf) for leaf in leaves)
                floats.append([x for x, mark in zip(leaves, marks, strict=True) if mark is _Float])
                others.append([x for x, mark in zip(leaves, marks, strict=True) if mark is _Other])
                module = context.module
                found.calls.append(Call(parts, module.clone(parent=None), module.path, structure, marks))
            return call(*args, **kwargs)

        with nn.intercept_methods(keep):
            head.apply(variables, pyramid)
        return floats, others

    found.floats, found.others = steps.jit_once(trace)(variables, pyramid)
    return found


def _parts(module: nn.Module) -> tuple[str, ...]:
    """The names under which the time of a module counts: as a direct part of a block, as a norm, both or neither."""
    direct = (module.path[1],) if len(module.path) == 2 else ()  # ("block_0", "spatial")
    return direct + ((NORMS,) if isinstance(module, _NORM_CLASSES) else ())


def _mark(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array):
        return leaf
    return _Float if jnp.issubdtype(leaf.dtype, jnp.inexact) else _Other


def _variables_at(path: Sequence[str], variables: Any) -> dict[str, Any]:
    """The variables of the module at a path, by collection."""
    found = {}
    for collection, tree in variables.items():
        for name in path:
            tree = tree.get(name, {})
        if tree:
            found[collection] = tree
    return found


def table(parts: dict[str, list[str]], groups: Sequence[Sequence[Program]], kinds: Sequence[str]) -> str:
    """The time of each part, alone and as a share of the block's. parts: the names by variant; groups: the programs of
    each setting; kinds: FORWARD, BOTH or both of them. A variant that lacks a program is left out."""
    settings = [programs[0].setting for programs in groups if programs]
    swept = columns_of(settings)
    rows = [("part", *swept, *(text for kind in kinds for text in (f"{kind}, ms", "of the block")))]
    for programs in groups:
        by_name = {p.name: p for p in programs}
        for variant, names in parts.items():
            seconds = {
                name: [by_name[full].seconds for kind in kinds if (full := named(variant, name, kind)) in by_name]
                for name in ("", *names)
            }
            if any(len(found) < len(kinds) for found in seconds.values()):
                continue
            where = [cell(programs[0].setting) for cell in swept.values()]
            block = seconds.pop("")
            alone = [[seconds[name][i] for name in names if name != NORMS] for i in range(len(kinds))]
            seconds["rest"] = [
                [whole - sum(own) for whole, *own in zip(times, *others, strict=True)]
                for times, others in zip(block, alone, strict=True)
            ]
            seconds["block"] = block
            for name, found in seconds.items():
                shown = f"{variant}: {name}" + " (in the others)" * (name == NORMS)
                rows.append((shown, *where, *_cells(found, block)))
    return tables.aligned(rows)


def _cells(found: Sequence[Sequence[float]], block: Sequence[Sequence[float]]) -> Iterator[str]:
    """For each kind the median of the rounds in milliseconds, and the median share of the block's time in a round."""
    for times, whole in zip(found, block, strict=True):
        yield f"{statistics.median(times) * 1e3:.2f}"
        yield f"{statistics.median(a / b for a, b in zip(times, whole, strict=True)):.0%}"
