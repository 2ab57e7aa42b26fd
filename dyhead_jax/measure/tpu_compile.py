"""Whether a config's training step fits a TPU slice: compiled for it ahead of time, without a TPU. Nothing runs.

The step is that of config.run.parallel="jit": the batch split over all chips of the topology, the state replicated (or
divided, as config.run.shard_state says, which costs all-gathers of weights). Shown are the HBM that a chip needs, the
collectives of the optimised program (what chips send each other) and its gathers, each counted as often as it runs, and
the compiler's estimate of the time. The step is traced for a TPU: "auto" in the config means what it means there. Needs
libtpu: the extra `tpu`.

  python -m dyhead_jax.benchmark tpu-compile --config=configs/atss_r50_dyhead_1x.py --topology=v5e:16x16 \\
      --size 800x1344 --config.model.dtype=bfloat16 --config.model.dyhead.remat=True --config.model.dyhead.scan=True
"""

import argparse
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import jax

from dyhead_jax.config import Config, flags
from dyhead_jax.files import write_atomic
from dyhead_jax.measure import hlo, tpu, train
from dyhead_jax.measure import options as common
from dyhead_jax.measure.timing import GIB, MIB
from dyhead_jax.ops import backend
from dyhead_jax.training import parallel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE", help="--config.NAME=VALUE changes it")
    parser.add_argument(
        "--topology", required=True, metavar="NAME", help="v5e:16x16, v4:2x2x4, v5p:2x2x1, v6e:4x4, ..."
    )
    parser.add_argument("--images-per-chip", type=int, default=2, metavar="N", help="in a micro-batch (default 2)")
    parser.add_argument("--size", type=common.size, metavar="HxW", help="of the canvas (default: the config's first)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")


def run(options: argparse.Namespace) -> None:
    common.check(options)
    config = flags.override(flags.load_file(options.config), options.overrides)
    chips = tpu.devices(options.topology)
    config = for_chips(config, len(chips), options.images_per_chip, options.size)
    numbers = report(options.topology, config, chips)
    print(text(numbers))
    if options.json is not None:
        write_atomic(options.json, (json.dumps(numbers, indent=1) + "\n").encode())


def for_chips(config: Config, chips: int, images: int, size: tuple[int, int] | None) -> Config:
    """The config with `images` on each of the chips, and on canvases of the given size."""
    batch = images * chips * config.optim.accumulate
    data = dataclasses.replace(config.data, batch_size=batch, canvases=(size or config.data.canvases[0],))
    return dataclasses.replace(config, data=data)


def report(topology: str, config: Config, chips: list[Any]) -> dict[str, Any]:
    """All numbers that `text` prints, in bytes and seconds."""
    step, first = train.parts(config)
    placed = parallel.Jit(chips, config.run.shard_state)
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed.state_sharding(x.shape)), jax.eval_shape(first)
    )
    with backend.tracing_for("tpu"):
        lowered = placed.train_step(step).lower(state, abstract_batch(config, placed.sharded))
    compiled = tpu.compile_lowered(lowered)
    others = [
        {"kind": i.kind, "times": times, "bytes": i.size, "shape": i.shape, "op_name": i.op_name}
        for i, times in compiled.module.of_kind(*hlo.COLLECTIVES)
        if i.kind != "all-reduce"
    ]
    return {
        **tpu.versions(),
        "topology": topology,
        "chips": len(chips),
        "batch": config.data.batch_size,
        "canvas": config.data.canvases[0],
        "dtype": config.model.dtype,
        "implementation": config.model.dyhead.implementation,
        "hbm_bytes": compiled.memory,
        "hbm_of_a_chip_bytes": tpu.hbm(topology),
        "arguments_bytes": compiled.arguments,
        "temporaries_bytes": compiled.temporaries,
        "compile_s": compiled.compile_seconds,
        "collectives": collectives(compiled.module),
        "largest_collective_bytes": max((i.size for i, _ in compiled.module.of_kind(*hlo.COLLECTIVES)), default=0),
        "other_collectives": others,
        "gathers": sum(times for _, times in compiled.module.of_kind("gather")),
        "estimate_s": compiled.seconds,
        "operations_without_estimate": compiled.unknown,
    }


def abstract_batch(config: Config, sharding: jax.sharding.Sharding) -> Any:
    """Shapes and dtypes of the config's batch on its first canvas."""
    single = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=1))
    size = config.data.batch_size
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype, sharding=sharding), train.random_batch(single)
    )


def collectives(module: hlo.Module) -> dict[str, dict[str, int]]:
    """For each kind of collective the number that run in a step and the bytes of all their results."""
    counts, sizes = Counter[str](), Counter[str]()
    for instruction, times in module.of_kind(*hlo.COLLECTIVES):
        counts[instruction.kind] += times
        sizes[instruction.kind] += times * instruction.size
    return {kind: {"count": counts[kind], "bytes": sizes[kind]} for kind in sorted(counts)}


def text(numbers: dict[str, Any]) -> str:
    """The report for a terminal."""
    used, available = numbers["hbm_bytes"], numbers["hbm_of_a_chip_bytes"]
    height, width = numbers["canvas"]
    lines = [
        f"{numbers['topology']}: {numbers['chips']} chips, {numbers['batch']} images of {height}x{width},"
        f" {numbers['dtype']}, deformable convolutions by {numbers['implementation']!r}",
        "  ".join(f"{key} {numbers[key]}" for key in tpu.versions()),
        f"HBM a chip: {used / GIB:.2f} of {available / GIB:.0f} GiB ({'fits' if used <= available else 'TOO MUCH'});"
        f" arguments {numbers['arguments_bytes'] / GIB:.2f}, temporaries {numbers['temporaries_bytes'] / GIB:.2f} GiB",
        f"compiled in {numbers['compile_s']:.0f} s",
    ]
    for kind, total in numbers["collectives"].items():
        lines.append(f"{kind}: {total['count']} a step, {total['bytes'] / MIB:.1f} MiB")
    if not numbers["collectives"]:
        lines.append("no collectives")
    lines.append(f"largest collective: {numbers['largest_collective_bytes'] / MIB:.1f} MiB")
    if numbers["other_collectives"]:
        lines.append("other than all-reduce:")
    else:
        lines.append("no collective other than all-reduce: chips exchange sums and maxima only")
    for other in numbers["other_collectives"]:
        lines.append(f"  {other['kind']} x{other['times']} {other['shape']} {other['op_name']}")
    lines.append(f"gathers: {numbers['gathers']} a step")
    without = numbers["operations_without_estimate"]
    lines.append(
        f"compiler's estimate of a step, each loop's body counted once: {numbers['estimate_s'] * 1e3:.1f} ms"
        + (f" and {without} operation(s) that it has none for" if without else "")
    )
    return "\n".join(lines)
