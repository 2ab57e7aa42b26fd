"""Parameters and multiply-adds of configs, part by part, counted without running or compiling anything.

Counted are the multiply-adds of convolutions and matrix products for one image, from pixels to detections. A
deformable convolution counts as a plain one: the products of its sampled values with the kernel. Not counted are the
sampling itself, resizing (products with constants), norms, activations and the arithmetic of boxes. Frozen parameters
are counted.

One config gives a table of its parts, several give a table with a row each. --config.NAME=VALUE changes all of them.

  python -m dyhead_jax.benchmark cost --config=configs/atss_r50_dyhead_1x.py
  python -m dyhead_jax.benchmark cost --config=configs/depth.py:2 --config=configs/depth.py:6
  python -m dyhead_jax.benchmark cost --config=configs/depth.py:2 --config.model.dyhead.features=128 --size=640x640
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from dyhead_jax import detectors
from dyhead_jax.config import ModelConfig, flags
from dyhead_jax.files import write_atomic
from dyhead_jax.measure import options as common
from dyhead_jax.measure import tables
from dyhead_jax.measure.multiply_adds import multiply_adds
from dyhead_jax.ops import backend
from dyhead_jax.training.steps import init_variables

TRUNK = ("backbone", "neck", "dyhead")  # parts that every detector has; the others are its head
DIVISOR = 32  # images are padded to multiples of the coarsest stride of a backbone


@dataclass(frozen=True)
class Cost:
    """Counts by the name of a part, the trunk first. A part is a direct submodule of the detector."""

    parameters: dict[str, int]
    multiply_adds: dict[str, int]

    @staticmethod
    def head(counts: dict[str, int]) -> int:
        """The sum of one of the two dicts over everything but the trunk."""
        return sum(value for name, value in counts.items() if name not in TRUNK)


def padded(size: tuple[int, int]) -> tuple[int, int]:
    """The size (height, width) that suits the strides of every backbone and has a picture of this size in it."""
    height, width = (-(-side // DIVISOR) * DIVISOR for side in size)
    return height, width


def measure(model: ModelConfig, size: tuple[int, int]) -> Cost:
    """The cost of `detect` on one image of size (height, width), which must suit the model's strides."""
    module = detectors.build(model)
    # The forms for GPUs have no other products. Those for CPUs multiply with zeros in grouped convolutions, those for
    # TPUs with interpolation weights in deformable ones.
    with backend.tracing_for("gpu"):
        variables = jax.eval_shape(lambda: init_variables(module, jax.random.key(0), (64, 64)))
        program = jax.make_jaxpr(lambda v, x, s: module.apply(v, x, s, method="detect"))(
            variables, jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8), jax.ShapeDtypeStruct((1, 2), jnp.int32)
        )
    parameters: dict[str, int] = dict.fromkeys(TRUNK, 0)
    for name, tree in variables["params"].items():
        parameters[name] = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
    counted = multiply_adds(program, parameters.keys())
    return Cost(parameters, {name: counted[name] for name in (*parameters, *(counted.keys() - parameters.keys()))})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", action="append", required=True, metavar="FILE", help="config file; repeatable")
    parser.add_argument(
        "--size",
        type=common.size,
        default=(800, 1333),
        metavar="HxW",
        help=f"of the image, which is padded to multiples of {DIVISOR} (default 800x1333)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")


def run(options: argparse.Namespace) -> None:
    common.check(options)
    height, width = padded(options.size)
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
    return tables.aligned([*rows, ("all", f"{total[0]:.2f}", f"{total[1]:.1f}")])


def config_table(costs: dict[str, Cost]) -> str:
    """A row for each config, as a Markdown table."""
    rows = [("config", *TRUNK, "head", "all")]
    for path, cost in costs.items():
        cells = []
        for name in (*TRUNK, "head", "all"):
            millions, billions = (
                {**counts, "head": cost.head(counts), "all": sum(counts.values())}.get(name, 0)
                for counts in (cost.parameters, cost.multiply_adds)
            )
            cells.append(f"{millions / 1e6:.2f} M, {billions / 1e9:.1f} G")
        rows.append((path, *cells))
    return tables.aligned(rows)
