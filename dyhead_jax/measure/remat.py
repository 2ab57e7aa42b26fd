"""What recomputing and scanning blocks do to a training step: temporaries and compile time. Nothing is run.

Compiles the step of a config (forward, backward, update) for one device: with DyHead's blocks as they are, as one
compiled block in a loop (`model.dyhead.scan`), recomputed in the backward pass (`model.dyhead.remat`), both, and both
with the backbone's blocks recomputed too (`model.backbone.remat`), where it can. Temporaries are the compiler's figure
(`memory_analysis()`), of buffers that are neither the state nor the batch. With --topology the device is one chip of
it, by TPU's compiler, which needs libtpu (the extra `tpu`) and far more time, but no TPU.

XLA's CPU compiler may undo recomputation outside of loops: that of jax 0.10.1 does, that of 0.12.0.1 does not.

  python -m dyhead_jax.benchmark remat --config=configs/atss_r50_dyhead_1x.py --batch 1 --size 800x1344
"""

import argparse
import copy
from pathlib import Path

import jax

from dyhead_jax.config import Config
from dyhead_jax.files import write_atomic
from dyhead_jax.measure import options as common
from dyhead_jax.measure import timing, tpu, train
from dyhead_jax.measure.timing import MIB

# name, DyHead scanned, DyHead recomputed, backbone recomputed
ROWS = (
    ("as they are", False, False, False),
    ("DyHead's scanned", True, False, False),
    ("DyHead's recomputed", False, True, False),
    ("DyHead's scanned and recomputed", True, True, False),
    ("and the backbone's recomputed", True, True, True),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE", help="--config.NAME=VALUE changes it")
    common.add_canvas(parser)
    parser.add_argument("--topology", metavar="NAME", help="compile for a TPU, as in v5e:2x2 (default: what JAX finds)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here as well")


def run(options: argparse.Namespace) -> None:
    common.check(options)
    _, config = common.configs(options)[0]
    canvas = config.data.canvases[0]
    chip = tpu.Chip(options.topology) if options.topology else None
    if chip and config.model.dyhead.implementation == "auto":
        config.model.dyhead.implementation = "auto_tpu"
    machine = timing.machine() if chip is None else tpu.versions() | {"compiled for": options.topology}
    can = hasattr(config.model.backbone, "remat")
    lines = [
        f"Training step of `{options.config}`, {config.model.dyhead.num_blocks} blocks, {config.data.batch_size}"
        f" image(s) of {canvas[0]} x {canvas[1]}, {config.model.dtype}",
        ", ".join(f"{key} {value}" for key, value in machine.items()),
        "",
        "| blocks | temporaries, MiB | of the first row's | compile, s |",
        "|---|---|---|---|",
    ]
    print(*lines, sep="\n")
    plain = None
    for name, scan, remat, backbone in ROWS if can else ROWS[:-1]:
        chosen = copy.deepcopy(config)
        chosen.model.dyhead.scan, chosen.model.dyhead.remat = scan, remat
        if can:
            chosen.model.backbone.remat = backbone
        temporaries, seconds = measure(chosen, chip)
        plain = temporaries if plain is None else plain
        lines.append(f"| {name} | {temporaries / MIB:.0f} | {temporaries / plain:.2f} | {seconds:.1f} |")
        print(lines[-1], flush=True)
    if options.out is not None:
        write_atomic(options.out, ("\n".join(lines) + "\n").encode())


def measure(config: Config, chip: tpu.Chip | None) -> tuple[float, float]:
    """Bytes of temporaries of the config's step, and the seconds that compiling took."""
    step, first = train.parts(config)
    arguments = jax.eval_shape(first), train.random_batch(config)
    if chip is None:
        program = timing.compiled("step", step, *arguments)
        return program.temporaries, program.compile_s
    found = chip.compile(step, *arguments)
    return found.temporaries, found.compile_seconds
