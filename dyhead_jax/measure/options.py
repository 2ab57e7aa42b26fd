"""The options that the timing commands share, and how they time their programs and report."""

import argparse
import dataclasses
import json
import re
from pathlib import Path

import jax.numpy as jnp

from dyhead_jax import command
from dyhead_jax.config import Config, flags
from dyhead_jax.files import write_atomic
from dyhead_jax.measure import timing
from dyhead_jax.measure.timing import Program, Report


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `op` and `block`."""
    parser.add_argument("--batch", type=int, default=1, help="images (default 1)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--forward", action="store_true", help="forward only")
    add_run(parser)


def add_configs(parser: argparse.ArgumentParser) -> None:
    """The options of the commands that time a config: --config or --compare is required."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--config", metavar="FILE", help="the config to time; --config.NAME=VALUE changes it")
    group.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two configs, timed in turns; prints their ratio")
    add_canvas(parser)
    add_run(parser)


def add_canvas(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, help="images (default: the config's)")
    parser.add_argument("--size", type=size, metavar="HxW", help="of the canvas (default: the config's first)")


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=10, help="timed rounds (default 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every repeat here")


def configs(options: argparse.Namespace) -> list[tuple[str, Config]]:
    """The configs named on the command line, with its overrides, batch and size. Raises what `flags` raises."""
    result = []
    for argument in getattr(options, "compare", None) or [options.config]:
        config = flags.override(flags.load_file(argument), options.overrides)
        data = config.data
        if options.batch is not None:
            data = dataclasses.replace(data, batch_size=options.batch)
        if options.size is not None:
            data = dataclasses.replace(data, canvases=(options.size,))
        result.append((argument, dataclasses.replace(config, data=data)))
    return result


def check(options: argparse.Namespace) -> None:
    """Raises UsageError for a count below 1."""
    for name in ("batch", "repeats", "images_per_chip"):
        value = getattr(options, name, None)
        if value is not None and value < 1:
            raise command.UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")


def refuse_overrides(options: argparse.Namespace, name: str) -> None:
    """Raises UsageError for --config.NAME=VALUE, given to a command without a config."""
    if options.overrides:
        raise command.UsageError(f"{options.overrides[0]}: {name} has no config; --help lists its options")


def size(text: str) -> tuple[int, int]:
    """(height, width) from HEIGHTxWIDTH in pixels; raises argparse's error for any other text."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, as in 800x1216")
    return int(match[1]), int(match[2])


def time_and_report(
    title: str,
    programs: list[Program],
    options: argparse.Namespace,
    *,
    channels: int,
    at: tuple[int, int],
    batch: int,
    dtype: str,
) -> Report:
    """Times the programs, a yardstick of `channels` at the map size `at`, and the ceilings; prints the report, and
    writes it where --json says."""
    unit = timing.yardstick(channels, at, batch, jnp.dtype(dtype))
    tops = timing.ceilings(jnp.dtype(dtype))
    # the yardstick's many short calls come between the large copy, which empties the caches, and the first program
    timing.run_in_turn([*tops, unit, *programs], options.repeats)
    report = Report(title, unit, tops, programs)
    print(report.text())
    half = len(programs) // 2
    if getattr(options, "compare", None):  # the programs of A, then the same of B
        for first, second in zip(programs[:half], programs[half:], strict=True):
            print(timing.compare(first, second))
    if options.json is not None:
        write_atomic(options.json, (json.dumps(report.json(), indent=1) + "\n").encode())
    return report
