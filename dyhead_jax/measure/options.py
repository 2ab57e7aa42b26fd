"""The options that the timing commands share, and what they name: settings, configs and files."""

import argparse
import dataclasses
import re
import shlex
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from dyhead_jax import command
from dyhead_jax.config import Config, flags
from dyhead_jax.measure import targets
from dyhead_jax.measure.timing import Setting

DTYPES = ("float32", "bfloat16", "float16")
T = TypeVar("T")


def add(parser: argparse.ArgumentParser, size: tuple[int, int], of: str) -> None:
    """The options of `op` and `block`. size: (height, width) unless --size is given; of: what has that size."""
    h, w = size
    parser.add_argument("--batch", type=several(count), default=[1], metavar="N,...", help="images (1)")
    parser.add_argument(
        "--size", type=several(side_or_size), default=[size], metavar="HxW,...", help=f"of {of} ({h}x{w}); 512: 512x512"
    )
    parser.add_argument(
        "--dtype", type=several(dtype), default=["float32"], metavar="NAME,...", help=" or ".join(DTYPES)
    )
    parser.add_argument("--forward", action="store_true", help="forward only")
    add_run(parser)


def add_configs(parser: argparse.ArgumentParser) -> None:
    """The options of the commands that time a config: --config or --compare is required."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--config", metavar="FILE", help="the config to time; --config.NAME=VALUE changes it")
    group.add_argument(
        "--compare",
        nargs="+",
        metavar="CONFIG",
        help="two or more, timed in turns; prints their ratios to the first; one with options of its own in quotes:"
        " 'FILE --config.NAME=VALUE'",
    )
    parser.add_argument("--batch", type=several(count), metavar="N,...", help="images (default: the config's)")
    parser.add_argument(
        "--size", type=several(side_or_size), metavar="HxW,...", help="of the canvas (default: the config's first)"
    )
    parser.add_argument("--dtype", type=several(dtype), metavar="NAME,...", help="(default: the config's)")
    add_run(parser)


def add_canvas(parser: argparse.ArgumentParser) -> None:
    """One batch and one size, for commands that do not sweep."""
    parser.add_argument("--batch", type=int, help="images (default: the config's)")
    parser.add_argument("--size", type=size, metavar="HxW", help="of the canvas (default: the config's first)")


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=10, help="timed rounds (default 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything, with every repeat, here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the times: .png, .svg or .pdf")
    parser.add_argument(
        "--trace", type=Path, metavar="FOLDER", help="also record a profile of a few calls of each program, for xprof"
    )


def settings(options: argparse.Namespace) -> list[Setting]:
    """Every combination of the batches, sizes and dtypes of `add`."""
    return [Setting(*chosen) for chosen in product(options.batch, options.size, options.dtype)]


def config_settings(options: argparse.Namespace) -> list[list[tuple[str, Config]]]:
    """For every combination of the batches, sizes and dtypes of `add_configs` the configs by name, with the
    command line's overrides. Raises what `flags` raises."""
    named = [(name, _loaded(name, options)) for name in getattr(options, "compare", None) or [options.config]]
    swept = product(options.dtype or [None], options.batch or [None], options.size or [None])
    return [[(name, _changed(config, *chosen)) for name, config in named] for chosen in swept]


def configs(options: argparse.Namespace) -> list[tuple[str, Config]]:
    """The config named on the command line of `add_canvas`. Raises what `flags` raises."""
    return [(options.config, _changed(_loaded(options.config, options), None, options.batch, options.size))]


def titled(title: str, settings: list[Setting]) -> str:
    """A title with the setting, if there is one only; else the table has columns for what differs."""
    return f"{title}, {settings[0]}" if len(settings) == 1 else title


def setting_of(config: Config) -> Setting:
    return Setting(config.data.batch_size, config.data.canvases[0], config.model.dtype)


def _loaded(text: str, options: argparse.Namespace) -> Config:
    file, *own = shlex.split(text)
    return flags.override(flags.load_file(file), [*own, *options.overrides])


def _changed(config: Config, dtype: str | None, batch: int | None, size: tuple[int, int] | None) -> Config:
    data, model = config.data, config.model
    if batch is not None:
        data = dataclasses.replace(data, batch_size=batch)
    if size is not None:
        data = dataclasses.replace(data, canvases=(size,))
    if dtype is not None:
        model = dataclasses.replace(model, dtype=dtype)
    return dataclasses.replace(config, data=data, model=model)


def check(options: argparse.Namespace) -> None:
    """Raises UsageError for a count below 1, a comparison of one config, and a file that cannot be written."""
    for name in ("batch", "repeats", "images_per_chip"):
        value = getattr(options, name, None)
        if isinstance(value, int) and value < 1:
            raise command.UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")
    if len(getattr(options, "compare", None) or "two") < 2:
        raise command.UsageError(f"--compare {options.compare[0]}: name at least two configs, or use --config")
    targets.check(options)


def refuse_overrides(options: argparse.Namespace, name: str) -> None:
    """Raises UsageError for --config.NAME=VALUE, given to a command without a config."""
    if options.overrides:
        raise command.UsageError(f"{options.overrides[0]}: {name} has no config; --help lists its options")


def several(kind: Callable[[str], T]) -> Callable[[str], list[T]]:
    """For argparse: a list with commas. Its error, and that of `kind`, is one for a value that is there twice."""

    def read(text: str) -> list[T]:
        values: list[Any] = [kind(part) for part in text.split(",")]
        for value in values:
            if values.count(value) > 1:
                raise argparse.ArgumentTypeError(f"{text!r} has a value twice")
        return values

    return read


def size(text: str) -> tuple[int, int]:
    """(height, width) from HEIGHTxWIDTH in pixels; raises argparse's error for any other text."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, as in 800x1216")
    return int(match[1]), int(match[2])


def side_or_size(text: str) -> tuple[int, int]:
    """`size`, or a square from its side in pixels."""
    return size(f"{text}x{text}" if text.isdecimal() else text)


def count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def dtype(text: str) -> str:
    if text not in DTYPES:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(DTYPES)}")
    return text
