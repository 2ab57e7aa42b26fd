"""What a TPU program is made of, by its compiler's estimate: by part of the model and by operation. Nothing runs.

Compiles for one chip, without a TPU, one of: a config's training step (the default) or its DyHead, a single DyHead
block, or the deformable convolution, the last three with gradients. Where no config is named, maps have --channels
channels of --dtype. A program is traced as for a TPU; each operation counts as often as it runs.

The first table has a row for each part of the model: its time by the sum of libtpu's estimated cycles, forward, of the
recomputed, backward; and beside it two floors. Arithmetic: two operations for each multiply-add of its convolutions and
matrix products, recomputation included, sampling by a deformable convolution not (as in `cost`), at the chip's bfloat16
peak. Bytes: of HBM, those that the operations of this program read and write, at full bandwidth; what stays in the
chip's own memory between two operations is not in it. The last column is the time over the larger floor. The second
table has the operations. An operation belongs to the part in whose scope it was traced, a fusion that mixes parts to
that of its result, a copy that the compiler made to that of what reads it. Most copies between HBM and the chip's own
memory have bytes and no cycles: they run beside the rest. Deformable convolutions in the form "windows" count with
narrow windows, taken as long as few samples lie beyond them, and with one round of reading what does lie beyond.

The compiler also has an estimate of the whole, in which a loop's body counts once; both are shown. Compiling a whole
step takes minutes; --keep FILE stores the program, and --program FILE reads it in place of compiling. Needs libtpu: the
extra `tpu`.

  python -m dyhead_jax.benchmark tpu-profile --what block --topology v5e:2x2 --plot block.png
  python -m dyhead_jax.benchmark tpu-profile --config=configs/atss_r50_dyhead_1x.py --size 800x1344 --keep step.gz \\
      --config.model.dtype=bfloat16 --config.model.dyhead.remat=True --config.model.dyhead.scan=True
  python -m dyhead_jax.benchmark tpu-profile --program step.gz --operations 50
"""

import argparse
import dataclasses
import gzip
import json
import shlex
import sys
import zlib
from collections import Counter
from pathlib import Path

import jax

from dyhead_jax import command
from dyhead_jax.files import parse_json, write_atomic
from dyhead_jax.measure import hlo_costs, model_parts, profile_report, profile_subject, tpu
from dyhead_jax.measure import options as common
from dyhead_jax.measure.multiply_adds import multiply_adds
from dyhead_jax.measure.profile_subject import WHATS, Subject
from dyhead_jax.measure.timing import GIB
from dyhead_jax.ops import backend
from dyhead_jax.ops.deform_conv import IMPLEMENTATIONS
from dyhead_jax.training import parallel

FORMAT = 1  # of the files of --keep


@dataclasses.dataclass(frozen=True)
class Profile:
    """A compiled program. facts: versions; hbm: bytes of HBM that it needs, by what for; optimal: the compiler's
    estimate of the whole in seconds, a loop's body counted once, and unknown the number of operations that it leaves
    out; flops: arithmetic by part of the model; text: the optimised program."""

    title: str
    topology: str
    facts: dict[str, str]
    hbm: dict[str, int]
    optimal: float
    unknown: int
    compile_s: float
    flops: dict[str, float]
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--what", choices=WHATS, default="step", help="(step)")
    parser.add_argument("--config", metavar="FILE", help="of step and head; --config.NAME=VALUE changes it")
    parser.add_argument("--topology", default="v5e:2x2", metavar="NAME", help="slice whose chip is meant (v5e:2x2)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images on the chip (1)")
    parser.add_argument(
        "--size", type=common.size, metavar="HxW", help="of the canvas (step, head: the config's first; block 800x1344)"
    )
    parser.add_argument("--map", type=common.size, default=(100, 168), metavar="HxW", help="of op (100x168)")
    parser.add_argument("--channels", type=int, default=256, help="of op and block (256)")
    parser.add_argument(
        "--dtype", default="bfloat16", choices=("float32", "bfloat16"), help="of op and block (bfloat16)"
    )
    parser.add_argument("--form", default="auto", choices=("auto", *IMPLEMENTATIONS), help="of op and block (auto)")
    parser.add_argument("--operations", type=int, default=25, metavar="N", help="rows of the second table (25)")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="store the compiled program here")
    parser.add_argument("--program", type=Path, metavar="FILE", help="read what --keep stored; nothing is compiled")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the tables here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the first table here: .png, .svg or .pdf")


def run(options: argparse.Namespace) -> None:
    common.check(options)
    refuse(options)
    profile = load(options.program) if options.program else compiled(options)
    if options.keep is not None:
        stored = {"format": FORMAT, **dataclasses.asdict(profile)}
        write_atomic(options.keep, gzip.compress(json.dumps(stored).encode()))
    peak = profile_report.PEAKS[profile.topology.partition(":")[0]]
    operations = hlo_costs.operations(profile.text)
    parts = profile_report.parts_of(operations, profile.flops, peak)
    page = [
        f"`python -m dyhead_jax.benchmark {shlex.join(sys.argv[1:])}`",
        "",
        *summary(profile, operations, peak),
        "",
        profile_report.part_table(parts, peak),
        "",
        profile_report.operation_table(operations, peak, options.operations),
    ]
    print("\n".join(page))
    if options.write is not None:
        write_atomic(options.write, ("\n".join(page) + "\n").encode())
    if options.plot is not None:
        profile_report.draw(parts, peak, f"{profile.title}, {profile.topology.partition(':')[0]}", options.plot)


def refuse(options: argparse.Namespace) -> None:
    """Raises UsageError, before minutes of compiling, for options that do not fit."""
    if options.program is not None and (options.config is not None or options.overrides):
        raise command.UsageError(f"--program={options.program} is compiled already; it takes no config")
    if options.program is None and options.what in ("step", "head") and options.config is None:
        raise command.UsageError(f"--what={options.what} needs --config=FILE")
    for name in ("channels", "operations"):
        if getattr(options, name) < 1:
            raise command.UsageError(f"--{name} is {getattr(options, name)}; it must be at least 1")
    if options.what in ("op", "block"):
        common.refuse_overrides(options, f"--what={options.what}")


def summary(profile: Profile, operations: list[hlo_costs.Operation], peak: profile_report.Peak) -> list[str]:
    """What the tables are of, memory, and both estimates."""
    cycles = sum(operation.times * (operation.cycles or 0) for operation in operations)
    without = sum(operation.times for operation in operations if operation.cycles is None)
    available, used = tpu.hbm(profile.topology), profile.hbm
    needed = used["arguments"] + used["outputs"] - used["aliased"] + used["temporaries"]
    left_out = f" and {profile.unknown} operation(s) that it has none for" if profile.unknown else ""
    return [
        f"{profile.title}, one chip of {profile.topology}",
        "",
        "The TPU compiler's estimates, not measurements: " + ", ".join(f"{k} {v}" for k, v in profile.facts.items()),
        f"Peaks of the chip: {peak.flops / 1e12:.0f} TFLOP/s in bfloat16, {peak.bandwidth / 1e9:.0f} GB/s of HBM"
        f" (Google Cloud's documentation); {peak.clock / 1e9:.2f} GHz.",
        f"HBM: {needed / GIB:.2f} of {available / GIB:.0f} GiB ({'fits' if needed <= available else 'TOO MUCH'});"
        f" arguments {used['arguments'] / GIB:.2f}, temporaries {used['temporaries'] / GIB:.2f} GiB."
        f" Compiled in {profile.compile_s:.0f} s.",
        f"Sum of the operations' cycles: {cycles / 1e6:.1f} M, {cycles / peak.clock * 1e3:.1f} ms; {without} runs of"
        f" operations have none. The compiler's own estimate of the whole, each loop's body counted once:"
        f" {profile.optimal * 1e3:.1f} ms{left_out}.",
    ]


def compiled(options: argparse.Namespace) -> Profile:
    """Compiles what the options name for one chip. Raises what `tpu.devices` raises."""
    chip = parallel.Jit(tpu.devices(options.topology)[:1])
    subject = profile_subject.of(options)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=chip.replicated), subject.arguments)
    with backend.tracing_for("tpu"):
        lowered = jax.jit(subject.function, donate_argnums=subject.replaced).lower(*shapes)
    program = tpu.compile_lowered(lowered)
    return Profile(
        title=subject.title,
        topology=options.topology,
        facts=tpu.versions(),
        hbm={name: getattr(program, name) for name in ("arguments", "outputs", "aliased", "temporaries")},
        optimal=program.seconds,
        unknown=program.unknown,
        compile_s=program.compile_seconds,
        flops=arithmetic(subject),
        text=program.text,
    )


def arithmetic(subject: Subject) -> dict[str, float]:
    """Operations by part of the model, two for each multiply-add."""
    # where deformable convolutions outside of DyHead sample without products too
    with backend.tracing_for("gpu"):
        program = jax.make_jaxpr(subject.counted)(*subject.arguments)
    flops = Counter[str]()
    for name, count in multiply_adds(program, model_parts.PRODUCTS).items():
        flops[model_parts.PRODUCTS.get(name, model_parts.OTHER)] += 2 * count
    return {name: float(count) for name, count in flops.items()}


def load(path: Path) -> Profile:
    """What --keep stored. Raises ValueError for another file."""
    try:
        stored = parse_json(gzip.decompress(path.read_bytes()).decode())
        if stored.pop("format") != FORMAT:
            raise ValueError
        return Profile(**stored)
    except (gzip.BadGzipFile, zlib.error, EOFError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: not a program that --keep stored") from None
