"""What recomputing and scanning blocks does to a training step: temporaries and compile time. Nothing is run.

Compiles the step of a config (forward, backward, update) for one device: with DyHead's blocks as they are, as one
compiled block in a loop (`model.dyhead.scan`), recomputed in the backward pass (`model.dyhead.remat`), both, and both
with the backbone's blocks recomputed too (`model.backbone.remat`), if the backbone has that. Temporaries are the
compiler's figure (`memory_analysis()`) for buffers that are neither the state nor the batch. With --topology the step
is compiled for one chip of a TPU slice; that needs libtpu (the extra `tpu`) and far more time, but no TPU.

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
from dyhead_jax.measure import tables, timing, tpu, train
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
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the table here")


def run(options: argparse.Namespace) -> None:
    common.check(options)
    _, config = common.configs(options)[0]
    canvas = config.data.canvases[0]
    chip = tpu.Chip(options.topology) if options.topology else None
    machine = timing.machine() if chip is None else tpu.versions() | {"compiled for": options.topology}
    backbone_can = hasattr(config.model.backbone, "remat")
    lines = [
        f"Training step of `{options.config}`, {config.model.dyhead.num_blocks} blocks, {config.data.batch_size}"
        f" image(s) of {canvas[0]} x {canvas[1]}, {config.model.dtype}",
        ", ".join(f"{key} {value}" for key, value in machine.items()),
        "",
        *tables.header("blocks", "temporaries, MiB", "of the first row's", "compile, s"),
    ]
    print(*lines, sep="\n")
    plain = None
    for name, scan, remat, backbone in ROWS if backbone_can else ROWS[:-1]:
        chosen = copy.deepcopy(config)
        chosen.model.dyhead.scan, chosen.model.dyhead.remat = scan, remat
        if backbone_can:
            chosen.model.backbone.remat = backbone
        temporaries, seconds = measure(chosen, chip)
        plain = temporaries if plain is None else plain
        lines.append(tables.row(name, f"{temporaries / MIB:.0f}", f"{temporaries / plain:.2f}", f"{seconds:.1f}"))
        print(lines[-1], flush=True)
    if options.out is not None:
        write_atomic(options.out, ("\n".join(lines) + "\n").encode())


def measure(config: Config, chip: tpu.Chip | None) -> tuple[float, float]:
    """Bytes of temporaries of the config's step, and the seconds of its compilation."""
    step, first = train.parts(config)
    arguments = jax.eval_shape(first), train.random_batch(config)
    if chip is None:
        timed = timing.compiled("step", step, *arguments)
        return timed.temporaries, timed.compile_s
    program = chip.compile(step, *arguments)
    return program.temporaries, program.compile_seconds
