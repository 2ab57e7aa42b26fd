"""Forms of the deformable convolution on a TPU, by its compiler's estimate: nothing runs, no TPU is needed.

For each form and map size the estimated time of the 3x3 convolution, forward and with gradients, the temporaries and
the gathers of one run; then the same of a DyHead block on the pyramid of an image, and of a stack of blocks, scanned
and recomputed, whose time is taken for that many times a block's, forward, and forward and backward. From the first
table follow the lines of dyhead_jax/ops/deform_conv/dispatch.py, which it prints: up to how many pixels `hat` is the
fastest with gradients, and which form is at the largest map.

The compiler counts a loop's body once. Here each round of the loops over taps counts: --unroll 9 compiles them
unrolled, --unroll 3 by a third of that, and goes on from there; --unroll 3 says a tenth to a fifth less where both were
tried. A loop whose rounds depend on the data counts as one: of `windows`, one chunk of positions that have samples
beyond their window, a 64th of all. A "+" marks an estimate without some operations, of which the compiler does not know
the cost. Takes half an hour on two cores that other work shares. Needs libtpu: the extra `tpu`.

  python -m dyhead_jax.benchmark tpu-forms --write benchmarks/results/tpu_forms_v5e.md
  python -m dyhead_jax.benchmark tpu-forms --part op --size 25x42 --form hat --form windows
"""

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dyhead_jax import command
from dyhead_jax.dyhead import DyHead
from dyhead_jax.files import write_atomic
from dyhead_jax.measure import block, tpu
from dyhead_jax.measure import options as common
from dyhead_jax.measure.timing import MIB, with_gradients
from dyhead_jax.ops.deform_conv import IMPLEMENTATIONS, deform_conv

# The pyramid of a canvas of 800 x 1344, and the three finest maps of one of 800 x 1216.
SIZES = ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11), (100, 152), (50, 76), (25, 38))
PARTS = ("op", "block", "head")
HAT_LARGEST = 5_000  # pixels; the matrix of `hat` is samples x pixels: 1 GiB at 100 x 168
HEADER = ("form", "forward, ms", "forward + backward, ms", "temporaries, MiB", "gathers")


@dataclass(frozen=True)
class Estimate:
    """Of one image: seconds forward and with gradients, each with whether that is all, and of the latter program bytes
    of temporaries and the number of gathers that run."""

    forward: tuple[float, bool]
    both: tuple[float, bool]
    temporaries: int
    gathers: int

    def cells(self) -> tuple[str, ...]:
        times = (f"{seconds * 1e3:.3f}{'' if whole else '+'}" for seconds, whole in (self.forward, self.both))
        return (*times, f"{self.temporaries / MIB:.0f}", str(self.gathers))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--topology", default="v5e:2x2", metavar="NAME", help="one of its chips counts (v5e:2x2)")
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable; default all")
    parser.add_argument("--size", action="append", type=common.size, metavar="HxW", help="of a map; repeatable")
    parser.add_argument("--form", action="append", choices=IMPLEMENTATIONS, help="repeatable; default all")
    parser.add_argument("--image", type=common.size, default=(800, 1344), metavar="HxW", help="of block and head")
    parser.add_argument("--blocks", type=int, default=6, help="of the head (6)")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--unroll", type=int, default=3, choices=(3, 9), help="taps (3)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables here as well")


def run(options: argparse.Namespace) -> None:
    if options.overrides:
        raise command.UsageError("tpu-forms has no config; --help lists its options")
    chip, parts = tpu.Chip(options.topology), options.part or PARTS
    image = "x".join(map(str, options.image))
    lines: list[str] = []

    def say(*new: str) -> None:
        lines.extend(new)
        print("\n".join(new), flush=True)

    say(
        f"`python -m dyhead_jax.benchmark {shlex.join(sys.argv[1:])}`",
        "",
        "The TPU compiler's estimates, not measurements: " + ", ".join(f"{k} {v}" for k, v in tpu.versions().items()),
        f"One chip of {options.topology}, {options.channels} channels, {options.dtype}, batch 1;"
        f' taps unrolled by {options.unroll}. A "+" marks an estimate without operations of unknown cost.',
    )
    if "op" in parts:
        say("", "## 3x3 deformable convolution", "", *head_of("map", *HEADER))
        found: dict[tuple[int, int], dict[str, Estimate]] = {}
        for size in options.size or SIZES:
            found[size] = {}
            for form in options.form or IMPLEMENTATIONS:
                if form == "hat" and math.prod(size) > HAT_LARGEST:
                    continue
                found[size][form] = of_convolution(chip, form, size, options)
                say(row("x".join(map(str, size)), form, *found[size][form].cells()))
        say("", *choice_lines(found))
    if "block" in parts or "head" in parts:
        say("", f"## One DyHead block on the pyramid of {image}", "", *head_of(*HEADER))
        one = {form: of_block(chip, form, options) for form in ("taps", "auto_tpu")}
        say(*(row(form, *found.cells()) for form, found in one.items()))
        if "head" in parts:
            say("", f"## {options.blocks} DyHead blocks, scanned and recomputed, on the same", "", *head_of(*HEADER))
            stack = {form: of_stack(chip, form, one[form], options) for form in ("taps", "auto_tpu")}
            say(*(row(form, *found.cells()) for form, found in stack.items()))
            auto, taps = stack["auto_tpu"], stack["taps"]
            forward, both = auto.forward[0] / taps.forward[0], auto.both[0] / taps.both[0]
            say("", f"`auto_tpu` takes {forward:.2f} of the time of `taps` forward, {both:.2f} with gradients.")
    if options.write is not None:
        write_atomic(options.write, ("\n".join(lines) + "\n").encode())


def of_convolution(chip: tpu.Chip, form: str, size: tuple[int, int], options: argparse.Namespace) -> Estimate:
    """The deformable 3x3 convolution of a map (1, *size, channels) to as many channels."""

    def forward(x: jax.Array, offsets: jax.Array, mask: jax.Array, kernel: jax.Array) -> jax.Array:
        return deform_conv(x, offsets, mask, kernel, padding=1, implementation=form)

    c = options.channels
    x, kernel = abstract([(1, *size, c), (3, 3, c, c)], options.dtype)
    offsets, mask = abstract([(1, *size, 9, 2), (1, *size, 9)], "float32")
    return estimate(chip, forward, with_gradients(forward, (0, 1, 2, 3)), options.unroll, x, offsets, mask, kernel)


def of_block(chip: tpu.Chip, form: str, options: argparse.Namespace) -> Estimate:
    """One DyHead block on the five levels of one image."""
    head, variables, pyramid = abstract_head(form, 1, options)
    return estimate(chip, head.apply, with_gradients(head.apply, (0, 1)), options.unroll, variables, pyramid)


def of_stack(chip: tpu.Chip, form: str, one: Estimate, options: argparse.Namespace) -> Estimate:
    """Many blocks: memory and gathers of their own program, times from those of one block, whose backward pass comes
    after a second forward pass."""
    head, variables, pyramid = abstract_head(form, options.blocks, options)
    program = chip.compile(with_gradients(head.apply, (0, 1)), variables, pyramid)
    (forward, known), (both, all_known) = one.forward, one.both
    return Estimate(
        forward=(options.blocks * forward, known),
        both=(options.blocks * (forward + both), known and all_known),
        temporaries=program.temporaries,
        gathers=gathers(program),
    )


def abstract_head(form: str, blocks: int, options: argparse.Namespace) -> tuple[DyHead, Any, list[Any]]:
    """The module, and shapes and dtypes of its variables and of its pyramid; several blocks scanned and recomputed."""
    many, c = blocks > 1, options.channels
    dtype = jnp.dtype(options.dtype)
    head = DyHead(num_blocks=blocks, features=c, implementation=form, scan=many, remat=many, dtype=dtype)
    pyramid = abstract([(1, *level, c) for level in block.sizes(options.image, 5)], options.dtype)
    return head, jax.eval_shape(head.init, jax.random.key(0), pyramid), pyramid


def estimate(
    chip: tpu.Chip, forward: Callable[..., Any], both: Callable[..., Any], unroll: int, *arguments: Any
) -> Estimate:
    program = chip.compile(both, *arguments)
    return Estimate(
        forward=chip.estimate(forward, *arguments, unroll=unroll),
        both=chip.estimate(both, *arguments, unroll=unroll),
        temporaries=program.temporaries,
        gathers=gathers(program),
    )


def gathers(program: tpu.Compiled) -> int:
    return sum(times for _, times in program.module.of_kind("gather"))


def abstract(shapes: Sequence[tuple[int, ...]], dtype: str) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape in shapes]


def choice_lines(found: dict[tuple[int, int], dict[str, Estimate]]) -> list[str]:
    """What the table of convolutions says about `choice.py`."""
    times = {size: {form: e.both[0] for form, e in of.items()} for size, of in found.items()}
    largest = times[max(times, key=math.prod)]
    large = min(largest.keys() - {"hat"}, key=lambda form: largest[form], default="")
    if not large:
        return ["No lines for `choice.py`: only `hat` was asked for."]
    both = {math.prod(size): of["hat"] / of[large] for size, of in times.items() if {"hat", large} <= of.keys()}
    return [f"For `choice.py`: `HAT_PIXELS` {crossing(both)}, `LARGE` {large!r} (fastest with gradients)."]


def crossing(ratios: dict[int, float]) -> int:
    """Up to how many pixels a ratio that grows with them is below 1: between two sizes on a logarithmic scale of both,
    at most the largest size. 0 where it is nowhere."""
    sizes = sorted(ratios)
    below = [size for size in sizes if ratios[size] < 1]
    if not below or below[-1] == sizes[-1]:
        return below[-1] if below else 0
    low, high = below[-1], sizes[sizes.index(below[-1]) + 1]
    part = math.log(1 / ratios[low]) / math.log(ratios[high] / ratios[low])
    return int(low * (high / low) ** part)


def head_of(*names: str) -> list[str]:
    """The first two lines of a Markdown table."""
    return [row(*names), "|" + "---|" * len(names)]


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
