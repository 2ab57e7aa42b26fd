"""Parameters and multiply-adds of configs, part by part, counted without running or compiling anything.

Counted are the multiply-adds of convolutions and matrix products for one image, from pixels to detections, deformable
convolutions included: nine products of a sampled value with a kernel's row are nine products, as in a plain
convolution. Sampling itself and resizing, which are products with constants, are not counted, nor are norms,
activations and the arithmetic of boxes. Frozen parameters count.

One config gives a table of its parts, several a table with a row each. --config.NAME=VALUE changes all of them.

  python -m dyhead_jax.benchmark cost --config=configs/atss_r50_dyhead_1x.py
  python -m dyhead_jax.benchmark cost --config=configs/depth.py:2 --config=configs/depth.py:6
  python -m dyhead_jax.benchmark cost --config=configs/depth.py:2 --config.model.dyhead.features=128 --size=640x640
"""

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Var

from dyhead_jax import command, detectors
from dyhead_jax.config import ModelConfig, flags
from dyhead_jax.files import write_atomic
from dyhead_jax.ops import backend
from dyhead_jax.training.steps import init_variables

TRUNK = ("backbone", "neck", "dyhead")  # parts that every detector has; the others are its head
DIVISOR = 32  # images are padded to multiples of the coarsest stride of a backbone


@dataclass(frozen=True)
class Cost:
    """Of each part by name, the trunk first. A part is a module that the detector itself holds."""

    parameters: dict[str, int]
    multiply_adds: dict[str, int]

    def head(self, of: dict[str, int]) -> int:
        """Everything but the trunk, of one of the two dicts."""
        return sum(value for name, value in of.items() if name not in TRUNK)


def measure(model: ModelConfig, size: tuple[int, int]) -> Cost:
    """The cost of `detect` on one image of size (height, width), which must suit the model's strides."""
    module = detectors.build(model)
    with backend.preferred("lax"):  # the CPU's form of a grouped convolution multiplies with zeros
        variables = jax.eval_shape(lambda: init_variables(module, jax.random.key(0), (64, 64)))
        program = jax.make_jaxpr(lambda v, x, s: module.apply(v, x, s, method="detect"))(
            variables, jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8), jax.ShapeDtypeStruct((1, 2), jnp.int32)
        )
    parameters: dict[str, int] = dict.fromkeys(TRUNK, 0)
    for name, tree in variables["params"].items():
        parameters[name] = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
    counted = multiply_adds(program, parameters.keys())
    return Cost(parameters, {name: counted[name] for name in (*parameters, *(counted.keys() - parameters.keys()))})


def multiply_adds(program: ClosedJaxpr, parts: Any) -> Counter[str]:
    """Multiply-adds of a traced program by part: the first of the names `parts` in the scope of an operation, or
    "other". Loops count as often as they run, but those of unknown length once. Products with what does not depend on
    the program's inputs are not counted."""
    counts: Counter[str] = Counter()

    def walk(jaxpr: Jaxpr, inputs: Sequence[bool], times: int, part: str | None) -> None:
        live = {var for var, depends in zip(jaxpr.invars, inputs, strict=True) if depends}
        for eqn in jaxpr.eqns:
            depends = [isinstance(var, Var) and var in live for var in eqn.invars]
            if not any(depends):
                continue
            live.update(eqn.outvars)
            kind = eqn.primitive.name
            here = part or next((w for w in re.findall(r"\w+", str(eqn.source_info.name_stack)) if w in parts), None)
            if kind in ("dot_general", "conv_general_dilated"):
                counts[here or "other"] += times * _products(eqn) if all(depends) else 0
                continue
            loop = kind in ("scan", "while")
            for inner in inner_jaxprs(eqn):
                count = len(inner.invars)
                known = not loop and count <= len(depends)
                often = times * (eqn.params["length"] if kind == "scan" else 1)
                walk(inner, depends[len(depends) - count :] if known else [True] * count, often, here)

    walk(program.jaxpr, [True] * len(program.jaxpr.invars), 1, None)
    return +counts


def _products(eqn: Any) -> int:
    """Multiply-adds of a matrix product or a convolution."""
    outputs = eqn.outvars[0].aval.size
    left, right = (var.aval.shape for var in eqn.invars)
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return outputs * math.prod(left[axis] for axis in contracted)
    return outputs * math.prod(right) // right[eqn.params["dimension_numbers"].rhs_spec[0]]


def inner_jaxprs(eqn: Any) -> Iterator[Jaxpr]:
    """The programs that an operation of a traced one runs: a loop's body, a function that was called."""
    for value in eqn.params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(one, ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, Jaxpr):
                yield one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", action="append", required=True, metavar="FILE", help="config file; repeatable")
    parser.add_argument(
        "--size", default="800x1333", metavar="HxW", help=f"image, padded to multiples of {DIVISOR} (default: 800x1333)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here as well")


def run(options: argparse.Namespace) -> None:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", options.size)
    if match is None:
        raise command.UsageError(f"--size={options.size}: give height x width in pixels, as in 800x1333")
    height, width = (-(-int(side) // DIVISOR) * DIVISOR for side in match.groups())
    costs = {}
    for path in options.config:
        config = flags.override(flags.load_file(path), options.overrides)
        costs[path] = measure(config.model, (height, width))
    print(f"one image of {height}x{width}; parameters in millions, multiply-adds in billions\n")
    print(part_table(next(iter(costs.values()))) if len(costs) == 1 else config_table(costs))
    if options.json is not None:
        rows = {
            path: {"parameters": cost.parameters, "multiply_adds": cost.multiply_adds} for path, cost in costs.items()
        }
        text = json.dumps({"height": height, "width": width, "configs": rows}, indent=2)
        write_atomic(options.json, (text + "\n").encode())


def part_table(cost: Cost) -> str:
    """The parts of one config, as a Markdown table."""
    rows = [("part", "parameters", "multiply-adds")]
    for name, products in cost.multiply_adds.items():
        rows.append((name, f"{cost.parameters.get(name, 0) / 1e6:.2f}", f"{products / 1e9:.1f}"))
    total = sum(cost.parameters.values()) / 1e6, sum(cost.multiply_adds.values()) / 1e9
    return _markdown([*rows, ("all", f"{total[0]:.2f}", f"{total[1]:.1f}")])


def config_table(costs: dict[str, Cost]) -> str:
    """A row for each config, as a Markdown table."""
    rows = [("config", *TRUNK, "head", "all")]
    for path, cost in costs.items():
        cells = []
        for name in (*TRUNK, "head", "all"):
            millions, billions = (
                {"head": cost.head(of), "all": sum(of.values())}.get(name, of.get(name, 0))
                for of in (cost.parameters, cost.multiply_adds)
            )
            cells.append(f"{millions / 1e6:.2f} M, {billions / 1e9:.1f} G")
        rows.append((path, *cells))
    return _markdown(rows)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], f"| {' | '.join(rule)} |", *lines[1:]])
