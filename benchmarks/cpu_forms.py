"""What the constants of the forms for CPUs rest on: pieces and stored products of `deform_conv`, `narrow_conv`'s width.

    python benchmarks/cpu_forms.py --out=benchmarks/results/cpu_forms.md

First the deformable convolution 256 -> 256 at 100x152 for several values of `PIECE` and `STORE_PRODUCTS`
(dyhead_jax/ops/deform_conv/dispatch.py); then a 3x3 convolution of 256 channels at 100x152 to few channels in the forms
"shifted" and "lax", alone and in a loop of two (dyhead_jax/ops/narrow_conv.py). Forward + backward, over the forward
pass of a plain convolution; the programs of a table take turns. For CPUs only.
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp

from dyhead_jax import command
from dyhead_jax.files import write_atomic
from dyhead_jax.measure import tables, timing
from dyhead_jax.measure.timing import MIB
from dyhead_jax.ops.deform_conv import deform_conv, dispatch
from dyhead_jax.ops.narrow_conv import narrow_conv

SIZE, CHANNELS = (100, 152), 256
PIECES = ((0, False), (MIB, False), (2 * MIB, False), (4 * MIB, False), (2 * MIB, True))  # bytes, products stored
FEATURES = (1, 4, 27, 32, 64)


def main() -> None:
    parser = command.parser("python benchmarks/cpu_forms.py", __doc__)
    parser.add_argument("--repeats", type=int, default=10, help="timed rounds (10)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the tables here")
    options: argparse.Namespace = parser.parse_args()
    if jax.default_backend() != "cpu":
        raise command.UsageError(f"the backend is {jax.default_backend()}; this measures forms for CPUs")
    lines = [
        f"Command: `python benchmarks/cpu_forms.py --repeats={options.repeats}`",
        "",
        ", ".join(f"{key} {value}" for key, value in timing.machine().items()),
        "",
        f"Forward + backward of {CHANNELS} channels at {SIZE[0]}x{SIZE[1]}, float32, over a plain 3x3 convolution's"
        " forward.",
        *table(deformable(), "deformable convolution", options.repeats),
        *table(narrow(), "3x3 convolution", options.repeats),
    ]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.out is not None:
        write_atomic(options.out, text.encode())


def table(programs: list[timing.Program], title: str, repeats: int) -> list[str]:
    unit = timing.yardstick(CHANNELS, SIZE, 1, jnp.float32)
    timing.run_in_turn([unit, *programs], repeats)
    rows = [
        tables.row(p.name, f"{timing.ratio(p, unit):.2f}", f"{p.median * 1e3:.1f}", f"{p.spread:.0%}") for p in programs
    ]
    return ["", *tables.header(title, "over plain", "median, ms", "spread"), *rows]


def deformable() -> list[timing.Program]:
    shapes = ((1, *SIZE, CHANNELS), (1, *SIZE, 9, 2), (1, *SIZE, 9), (3, 3, CHANNELS, CHANNELS))
    arguments = random(shapes)
    programs = []
    for dispatch.PIECE, dispatch.STORE_PRODUCTS in PIECES:
        name = f"pieces of {dispatch.PIECE / MIB:g} MiB" if dispatch.PIECE else "all at once"
        name += ", products stored" if dispatch.STORE_PRODUCTS else ""
        run = lambda x, o, m, k: deform_conv(x, o, m, k, padding=1)  # noqa: E731
        programs.append(timing.compiled(name, timing.with_gradients(run, (0, 1, 2, 3)), *arguments))
    return programs


def narrow() -> list[timing.Program]:
    programs = []
    for features in FEATURES:
        for form in ("shifted", "lax"):
            x, kernel = random(((1, *SIZE, CHANNELS), (3, 3, CHANNELS, features)))
            run = timing.with_gradients(functools.partial(narrow_conv, implementation=form), (0, 1))
            programs.append(timing.compiled(f"to {features}, {form}", run, x, kernel))
    for form in ("shifted", "lax"):
        x, kernels = random(((1, *SIZE, CHANNELS), (2, 3, 3, CHANNELS, 27)))

        def loop(x: jax.Array, kernels: jax.Array, form: str = form) -> jax.Array:
            step = lambda x, k: (x + narrow_conv(x, k, form).mean(-1, keepdims=True), None)  # noqa: E731
            return jax.lax.scan(step, x, kernels)[0]

        run = timing.with_gradients(loop, (0, 1))
        programs.append(timing.compiled(f"to 27, {form}, a loop of two", run, x, kernels))
    return programs


def random(shapes: tuple[tuple[int, ...], ...]) -> list[jax.Array]:
    return [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]


if __name__ == "__main__":
    command.run(main)
