"""Forms of the deformable convolution on a TPU, by its compiler's estimate: nothing runs, no TPU is needed.

The first table shows for each form and map size the estimated time of the 3x3 convolution, forward and with gradients,
and the temporaries and gathers of one run. The other tables show the same for a DyHead block on the pyramid of an
image, and for a stack of blocks, scanned and recomputed, whose time is taken to be that of as many single blocks. From
the first table follow the constants of dyhead_jax/ops/deform_conv/dispatch.py, which are printed below it: the number
of pixels up to which "dense" is the fastest with gradients, and the fastest form at the largest map.

The compiler counts a loop's body once; here each round of the loops over taps counts. --unroll 9 compiles these loops
unrolled completely; --unroll 3 compiles them unrolled by 3 and extrapolates, which gave a tenth to a fifth less where
both were tried. A loop whose length depends on the data counts as one round: for "windows" one chunk of positions with
samples beyond their window, a 64th of all positions. A "+" marks an estimate that leaves out operations whose cost the
compiler does not know. "windows" decides by the offsets between narrow and wide windows, which adds to the compiler's
work and leaves open which of them an estimate is of; --margin compiles it with one of them alone. Takes half an hour on
two cores that other work shares. Needs libtpu: the extra `tpu`.

  python -m dyhead_jax.benchmark tpu-forms --write benchmarks/results/tpu_forms_v5e.md
  python -m dyhead_jax.benchmark tpu-forms --part op --size 25x42 --form dense --form windows
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

from dyhead_jax.dyhead import DyHead
from dyhead_jax.files import write_atomic
from dyhead_jax.measure import block, tables, tpu
from dyhead_jax.measure import options as common
from dyhead_jax.measure.timing import MIB, with_gradients
from dyhead_jax.ops.deform_conv import IMPLEMENTATIONS, deform_conv, tiles

# The pyramid of a canvas of 800 x 1344, and the three finest maps of one of 800 x 1216.
SIZES = ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11), (100, 152), (50, 76), (25, 38))
PARTS = ("op", "block", "head")
DENSE_LARGEST = 5_000  # pixels; the matrix of "dense" is samples x pixels: 1 GiB at 100 x 168
HEADER = ("form", "forward, ms", "forward + backward, ms", "temporaries, MiB", "gathers")


@dataclass(frozen=True)
class Estimate:
    """For one image. forward, both (forward + backward): seconds, and whether the estimate is complete; temporaries,
    gathers: of the program with gradients, bytes and the number of gathers that run."""

    forward: tuple[float, bool]
    both: tuple[float, bool]
    temporaries: int
    gathers: int

    def cells(self) -> tuple[str, ...]:
        times = (f"{seconds * 1e3:.3f}{'' if complete else '+'}" for seconds, complete in (self.forward, self.both))
        return (*times, f"{self.temporaries / MIB:.0f}", str(self.gathers))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--topology", default="v5e:2x2", metavar="NAME", help="slice whose chip is meant (v5e:2x2)")
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable; default all")
    parser.add_argument("--size", action="append", type=common.size, metavar="HxW", help="of a map; repeatable")
    parser.add_argument("--form", action="append", choices=IMPLEMENTATIONS, help="repeatable; default all")
    parser.add_argument("--image", type=common.size, default=(800, 1344), metavar="HxW", help="of block and head")
    parser.add_argument("--blocks", type=int, default=6, help="in the stack (6)")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--margin", type=int, choices=tiles.MARGINS, help="of windows, pixels (default: decided by data)"
    )
    parser.add_argument("--unroll", type=int, default=3, choices=(3, 9), help="taps a round (3)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the tables here")


def run(options: argparse.Namespace) -> None:
    common.check(options)
    common.refuse_overrides(options, "tpu-forms")
    if options.margin:
        tiles.MARGINS = (options.margin,)
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
        say("", "## 3x3 deformable convolution", "", *tables.header("map", *HEADER))
        estimates: dict[tuple[int, int], dict[str, Estimate]] = {}
        for size in options.size or SIZES:
            estimates[size] = {}
            for form in options.form or IMPLEMENTATIONS:
                if form == "dense" and math.prod(size) > DENSE_LARGEST:
                    continue
                estimates[size][form] = of_convolution(chip, form, size, options)
                say(tables.row("x".join(map(str, size)), form, *estimates[size][form].cells()))
        say("", dispatch_line(estimates))
    if "block" in parts or "head" in parts:
        say("", f"## One DyHead block on the pyramid of {image}", "", *tables.header(*HEADER))
        single = {form: of_block(chip, form, options) for form in ("gather", "auto")}
        say(*(tables.row(form, *estimate.cells()) for form, estimate in single.items()))
        if "head" in parts:
            title = f"## {options.blocks} DyHead blocks, scanned and recomputed, on the same"
            say("", title, "", *tables.header(*HEADER))
            stack = {form: of_stack(chip, form, single[form], options) for form in single}
            say(*(tables.row(form, *estimate.cells()) for form, estimate in stack.items()))
            auto, gather = stack["auto"], stack["gather"]
            forward, both = auto.forward[0] / gather.forward[0], auto.both[0] / gather.both[0]
            say("", f"`auto` takes {forward:.2f} of the time of `gather` forward, {both:.2f} with gradients.")
    if options.write is not None:
        write_atomic(options.write, ("\n".join(lines) + "\n").encode())


def of_convolution(chip: tpu.Chip, form: str, size: tuple[int, int], options: argparse.Namespace) -> Estimate:
    """The deformable 3x3 convolution of a map (1, *size, channels) to as many channels."""

    def forward(x: jax.Array, offsets: jax.Array, mask: jax.Array, kernel: jax.Array) -> jax.Array:
        return deform_conv(x, offsets, mask, kernel, padding=1, implementation=form)

    c = options.channels
    x, kernel = abstract([(1, *size, c), (3, 3, c, c)], options.dtype)
    offsets, mask = abstract([(1, *size, 9, 2), (1, *size, 9)], "float32")
    return estimate_of(chip, forward, with_gradients(forward, (0, 1, 2, 3)), options.unroll, x, offsets, mask, kernel)


def of_block(chip: tpu.Chip, form: str, options: argparse.Namespace) -> Estimate:
    """One DyHead block on the five levels of one image."""
    head, variables, pyramid = abstract_head(form, 1, options)
    return estimate_of(chip, head.apply, with_gradients(head.apply, (0, 1)), options.unroll, variables, pyramid)


def of_stack(chip: tpu.Chip, form: str, single: Estimate, options: argparse.Namespace) -> Estimate:
    """Many blocks: memory and gathers of their own program, times from those of a single block, with a second forward
    pass before each backward pass."""
    head, variables, pyramid = abstract_head(form, options.blocks, options)
    program = chip.compile(with_gradients(head.apply, (0, 1)), variables, pyramid)
    (forward, forward_complete), (both, both_complete) = single.forward, single.both
    return Estimate(
        forward=(options.blocks * forward, forward_complete),
        both=(options.blocks * (forward + both), forward_complete and both_complete),
        temporaries=program.temporaries,
        gathers=gathers(program),
    )


def abstract_head(form: str, blocks: int, options: argparse.Namespace) -> tuple[DyHead, Any, list[Any]]:
    """The module, and the shapes and dtypes of its variables and its pyramid. Several blocks are scanned and
    recomputed."""
    many, c = blocks > 1, options.channels
    dtype = jnp.dtype(options.dtype)
    head = DyHead(num_blocks=blocks, features=c, implementation=form, scan=many, remat=many, dtype=dtype)
    pyramid = abstract([(1, *level, c) for level in block.sizes(options.image, 5)], options.dtype)
    return head, jax.eval_shape(head.init, jax.random.key(0), pyramid), pyramid


def estimate_of(
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


def dispatch_line(estimates: dict[tuple[int, int], dict[str, Estimate]]) -> str:
    """What the table of convolutions says about the constants of `dispatch.py`."""
    times = {size: {form: e.both[0] for form, e in by_form.items()} for size, by_form in estimates.items()}
    largest = times[max(times, key=math.prod)]
    large = min(largest.keys() - {"dense"}, key=lambda form: largest[form], default="")
    if not large:
        return "No line for `dispatch.py`: only `dense` was asked for."
    ratios = {
        math.prod(size): by_form["dense"] / by_form[large]
        for size, by_form in times.items()
        if {"dense", large} <= by_form.keys()
    }
    return f"For `dispatch.py`: `DENSE_PIXELS` {crossing(ratios)}, `LARGE` {large!r} (fastest with gradients)."


def crossing(ratios: dict[int, float]) -> int:
    """The number of pixels up to which a ratio that grows with them is below 1, interpolated between two sizes on a
    logarithmic scale of both; the largest size if it is below 1 there, 0 if it is below 1 nowhere."""
    sizes = sorted(ratios)
    below = [size for size in sizes if ratios[size] < 1]
    if not below or below[-1] == sizes[-1]:
        return below[-1] if below else 0
    low, high = below[-1], sizes[sizes.index(below[-1]) + 1]
    share = math.log(1 / ratios[low]) / math.log(ratios[high] / ratios[low])
    return int(low * (high / low) ** share)
