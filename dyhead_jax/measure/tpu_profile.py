"""What a TPU program is made of, by its compiler's estimate: by part of the model and by operation. Nothing runs.

Compiles for one chip, without a TPU, one of: a config's training step (the default) or its DyHead, a single DyHead
block, or the deformable convolution, the last three with gradients. Where no config is named, maps have --channels
channels of --dtype. A program is traced as for a TPU; each operation counts as often as it runs.

The first table has a row for each part of the model: its time by the sum of libtpu's estimated cycles, forward, of the
recomputed, backward; and beside it two floors. Arithmetic: two operations for each multiply-add of its convolutions and
matrix products, recomputation included, sampling by a deformable convolution not (as in `cost`), at the chip's bfloat16
peak. Bytes: of HBM, those that the operations of this program read and write, at full bandwidth; what stays in the
chip's own memory between two operations is not in it. The last column is the time over the larger floor. The second
table has the operations. An operation belongs to the part in whose scope it was traced; of a fusion that mixes parts it
is that of its result. Copies that the compiler made have no scope and mostly no estimate: they run beside the rest.

The compiler also has an estimate of the whole, in which a loop's body counts once; both are shown. Compiling a whole
step takes minutes; --keep FILE stores the program, and --program FILE reads it in place of compiling. Needs libtpu: the
extra `tpu`.

  python -m dyhead_jax.benchmark tpu-profile --what block --topology v5e:2x2 --plot block.png
  python -m dyhead_jax.benchmark tpu-profile --config=configs/atss_r50_dyhead_1x.py --size 800x1344 --keep step.gz \\
      --config.model.dtype=bfloat16 --config.model.dyhead.remat=True --config.model.dyhead.scan=True
  python -m dyhead_jax.benchmark tpu-profile --program step.gz --operations 50
"""

import argparse
import copy
import dataclasses
import gzip
import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dyhead_jax import command
from dyhead_jax.config import Config, flags, nodes
from dyhead_jax.dyhead import DyHead
from dyhead_jax.files import write_atomic
from dyhead_jax.measure import block, head, hlo, hlo_costs, model_parts, profile_report, tpu, tpu_compile, train
from dyhead_jax.measure import options as common
from dyhead_jax.measure.multiply_adds import multiply_adds
from dyhead_jax.measure.timing import GIB, with_gradients
from dyhead_jax.ops import backend
from dyhead_jax.ops.deform_conv import IMPLEMENTATIONS, deform_conv
from dyhead_jax.training import parallel

WHATS = ("op", "block", "head", "step")
FORMAT = 1  # of the files of --keep
PLAIN = "gather"  # the form of the deformable convolution whose sampling has no products
PICTURES = (".png", ".svg", ".pdf")


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
    operations = hlo_costs.operations(hlo.parse(profile.text))
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
    """Raises UsageError, before minutes of compiling, for options that do not fit and files that cannot be written."""
    for name in ("keep", "write", "plot"):
        path = getattr(options, name)
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise command.UsageError(
                f"--{name}={path} cannot be written: it is a folder, or in a folder that is not there"
            )
    if options.plot is not None and options.plot.suffix.lower() not in PICTURES:
        raise command.UsageError(f"--plot={options.plot}: the name must end with {', '.join(PICTURES)}")
    if options.program is not None and (options.config is not None or options.overrides):
        raise command.UsageError(f"--program={options.program} is compiled already; it takes no config")
    if options.program is None and options.what in ("step", "head") and options.config is None:
        raise command.UsageError(f"--what={options.what} needs --config=FILE")
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
    """Compiles what the options name."""
    chip = tpu.devices(options.topology)[:1]
    placed = parallel.Jit(chip)
    if options.what in ("step", "head"):
        config = flags.override(flags.load_file(options.config), options.overrides)
        config = tpu_compile.for_chips(config, 1, options.batch, options.size)
        canvas = "x".join(map(str, config.data.canvases[0]))
        title = f"{options.config}: {options.what}, {options.batch} image(s) of {canvas}, {config.model.dtype}"
        if options.what == "step":
            step, first = train.parts(config)
            arguments: tuple[Any, ...] = (jax.eval_shape(first), tpu_compile.abstract_batch(config, placed.sharded))
            return profiled(title, options.topology, step, train.parts(plain(config))[0], arguments, placed, donate=0)
        modules = [nodes.build(c.model.dyhead, dtype=jnp.dtype(config.model.dtype)) for c in (config, plain(config))]
        pyramid: Any = jax.eval_shape(lambda: head.random_pyramid(config))
    else:
        dtype, c = jnp.dtype(options.dtype), options.channels
        title = f"{options.what}, form {options.form!r}, batch {options.batch}, {c} channels, {options.dtype}, of "
        if options.what == "op":
            title += "a map of " + "x".join(map(str, options.map))
            functions = [operator(form) for form in (options.form, PLAIN)]
            return profiled(title, options.topology, *functions, operator_shapes(options), placed)
        size = options.size or (800, 1344)
        title += "the pyramid of " + "x".join(map(str, size))
        modules = [DyHead(num_blocks=1, features=c, implementation=f, dtype=dtype) for f in (options.form, PLAIN)]
        pyramid = [jax.ShapeDtypeStruct((options.batch, *level, c), dtype) for level in block.sizes(size, 5)]
    variables = jax.eval_shape(modules[0].init, jax.random.key(0), pyramid)
    functions = [with_gradients(module.apply, (0, 1)) for module in modules]
    return profiled(title, options.topology, *functions, (variables, pyramid), placed)


def plain(config: Config) -> Config:
    """The config with the form of the deformable convolution in DyHead whose sampling has no products."""
    result = copy.deepcopy(config)
    if hasattr(result.model.dyhead, "implementation"):
        result.model.dyhead.implementation = PLAIN
    return result


def operator(form: str) -> Callable[..., Any]:
    """The gradients of the 3x3 convolution of a map."""

    def forward(x: jax.Array, offsets: jax.Array, mask: jax.Array, kernel: jax.Array) -> jax.Array:
        return deform_conv(x, offsets, mask, kernel, padding=1, implementation=form)

    return with_gradients(forward, (0, 1, 2, 3))


def operator_shapes(options: argparse.Namespace) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Of the arguments of `operator`."""
    b, size, c, dtype = options.batch, options.map, options.channels, jnp.dtype(options.dtype)
    x, kernel = jax.ShapeDtypeStruct((b, *size, c), dtype), jax.ShapeDtypeStruct((3, 3, c, c), dtype)
    offsets, mask = (jax.ShapeDtypeStruct((b, *size, *taps), jnp.float32) for taps in ((9, 2), (9,)))
    return x, offsets, mask, kernel


def profiled(
    title: str,
    topology: str,
    function: Callable[..., Any],
    counted: Callable[..., Any],
    arguments: tuple[Any, ...],
    placed: parallel.Jit,
    donate: int | None = None,
) -> Profile:
    """Compiles a function for these arguments, trees of shapes. counted: the same in the form whose arithmetic counts;
    donate: the argument that the result replaces."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed.replicated), arguments)
    with backend.tracing_for("tpu"):
        lowered = jax.jit(function, donate_argnums=() if donate is None else donate).lower(*shapes)
    program = tpu.compile_lowered(lowered)
    return Profile(
        title=title,
        topology=topology,
        facts=tpu.versions(),
        hbm={name: getattr(program, name) for name in ("arguments", "outputs", "aliased", "temporaries")},
        optimal=program.seconds,
        unknown=program.unknown,
        compile_s=program.compile_seconds,
        flops=arithmetic(counted, arguments),
        text=program.text,
    )


def arithmetic(function: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, float]:
    """Operations by part of the model, two for each multiply-add."""
    # a new function, which was not traced for TPUs; deformable convolutions outside of DyHead sample without products
    with backend.tracing_for("gpu"):
        program = jax.make_jaxpr(lambda *a: function(*a))(*arguments)
    flops = Counter[str]()
    for name, count in multiply_adds(program, model_parts.PRODUCTS).items():
        flops[model_parts.PRODUCTS.get(name, model_parts.OTHER)] += 2 * count
    return {name: float(count) for name, count in flops.items()}


def load(path: Path) -> Profile:
    """What --keep stored. Raises ValueError for another file."""
    try:
        stored = json.loads(gzip.decompress(path.read_bytes()))
        if stored.pop("format") != FORMAT:
            raise ValueError
        return Profile(**stored)
    except (gzip.BadGzipFile, EOFError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: not a program that --keep stored") from None
