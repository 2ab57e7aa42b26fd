"""What recomputing and scanning blocks do to a training step: temporaries and compile time. Nothing is run.

Compiles the step of a config (forward, backward, update) for one device: with DyHead's blocks as they are, recomputed
in the backward pass (`model.dyhead.remat`), as one compiled block in a loop (`model.dyhead.scan`), and both; without
and with the backbone's blocks recomputed (`model.backbone.remat`), where it can.
Temporaries are the compiler's figure (`memory_analysis()`), of buffers that are neither the state nor the batch.

  python -m dyhead_jax.benchmark remat --config=configs/atss_r50_dyhead_1x.py --batch 1 --size 800x1344
"""

import argparse
import copy
import itertools
from pathlib import Path

import jax

from dyhead_jax.benchmark import options as common
from dyhead_jax.benchmark import train
from dyhead_jax.benchmark.timing import MIB, compiled, machine
from dyhead_jax.report import write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE", help="--config.NAME=VALUE changes it")
    parser.add_argument("--batch", type=int, help="images (default: the config's)")
    parser.add_argument("--size", type=common.size, metavar="HxW", help="of the canvas (default: the config's first)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here as well")


def run(options: argparse.Namespace) -> None:
    options.compare, options.repeats = None, None
    common.check(options)
    _, config = common.configs(options)[0]
    canvas = config.data.canvases[0]
    can = hasattr(config.model.backbone, "remat")
    lines = [
        f"Training step of `{options.config}`, {config.model.dyhead.num_blocks} blocks, {config.data.batch_size}"
        f" image(s) of {canvas[0]} x {canvas[1]}, {config.model.dtype}",
        ", ".join(f"{key} {value}" for key, value in machine().items()),
        "",
        "| DyHead recomputed | scanned | backbone recomputed | temporaries, MiB | of the first row's | compile, s |",
        "|---|---|---|---|---|---|",
    ]
    plain = None
    for backbone, remat, scan in itertools.product((False, True) if can else (False,), (False, True), (False, True)):
        chosen = copy.deepcopy(config)
        chosen.model.dyhead.remat, chosen.model.dyhead.scan = remat, scan
        if can:
            chosen.model.backbone.remat = backbone
        step, first = train.parts(chosen)
        program = compiled("step", step, jax.eval_shape(first), train.random_batch(chosen))
        plain = program.temporaries if plain is None else plain
        marks = " | ".join("yes" if mark else "" for mark in (remat, scan, backbone))
        row = f"{program.temporaries / MIB:.0f} | {program.temporaries / plain:.2f} | {program.compile_s:.1f}"
        lines.append(f"| {marks} | {row} |")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.out is not None:
        write_atomic(options.out, text.encode())
