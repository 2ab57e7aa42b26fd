"""Times programs setting by setting, each beside its own yardstick and ceilings, and reports all of them at once."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from dyhead_jax.command import one_line
from dyhead_jax.files import write_atomic
from dyhead_jax.measure import picture, timing, trace
from dyhead_jax.measure.report import Group, Report
from dyhead_jax.measure.timing import Setting


@dataclass(frozen=True)
class Job:
    """A function that `jax.jit` takes, with its arguments."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    setting: Setting


@dataclass(frozen=True)
class Case:
    """Programs that take turns. setting: of the yardstick, a plain 3x3 convolution of `channels` channels at the map
    size `at`; jobs: makes their arguments, when it is their turn and no sooner."""

    setting: Setting
    channels: int
    at: tuple[int, int]
    jobs: Callable[[], Iterable[Job]]


def measure(title: str, cases: list[Case], options: argparse.Namespace) -> Report:
    """Times the cases one after another, so that the device holds the arrays of one at a time. Prints the report, and
    writes what --json, --plot and --trace ask for. A program for which the device has no memory is named in it."""
    report = Report(title, [])
    with tqdm(total=len(cases) * options.repeats, unit="round", leave=False, disable=None) as bar:
        for case in cases:
            report.groups.append(_timed(case, options.repeats, bar))
            if options.trace is not None:
                bar.set_description("trace")
                trace.record(report.groups[-1].programs, _trace_folder(options.trace, case, len(cases)))
            for program in report.groups[-1].programs:
                program.call = _released  # its arguments
    report.device_peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    print(report.text())
    if options.json is not None:
        result = {"command": shlex.join(sys.argv[1:]), "options": asked(options), **report.json()}
        write_atomic(options.json, (json.dumps(result, indent=1) + "\n").encode())
    if options.plot is not None:
        picture.draw(report, options.plot)
    if options.trace is not None:
        print(trace.HOW_TO_OPEN.format(folder=options.trace))
    return report


def _timed(case: Case, repeats: int, bar: Any) -> Group:
    setting, dtype = case.setting, jnp.dtype(case.setting.dtype)
    bar.set_description(f"compile for {setting}")
    unit = timing.yardstick(case.channels, case.at, setting.batch, dtype)
    tops = timing.ceilings(dtype)
    for program in (unit, *tops):
        program.setting = setting
    group = Group(unit, tops, [])
    try:
        jobs = list(case.jobs())
    except jax.errors.JaxRuntimeError as error:
        jobs = []
        group.failed.append(("its arguments", setting, _no_memory(error)))
    for job in jobs:
        bar.set_description(f"compile {job.name} for {job.setting}")
        try:
            program = timing.compiled(job.name, job.function, *job.arguments)
            jax.block_until_ready(program.call())
        except jax.errors.JaxRuntimeError as error:
            group.failed.append((job.name, job.setting, _no_memory(error)))
            continue
        program.setting = job.setting
        group.programs.append(program)
    bar.set_description(f"time {setting}")
    # the yardstick's many short calls come between the large copy, which empties the caches, and the first program
    timing.run_in_turn([*tops, unit, *group.programs], repeats, each_round=bar.update)
    return group


def exit_code(report: Report) -> int:
    """1 if a program did not fit."""
    return int(any(group.failed for group in report.groups))


def asked(options: argparse.Namespace) -> dict[str, Any]:
    """The options that the numbers depend on, as JSON."""
    files = ("json", "plot", "trace", "debug", "run")
    return {name: value for name, value in sorted(vars(options).items()) if name not in files}


def _no_memory(error: Exception) -> str:
    """The message of an error that is about memory; raises any other one."""
    text = one_line(error)
    if not text.startswith("RESOURCE_EXHAUSTED"):
        raise error
    return text


def _trace_folder(folder: Path, case: Case, cases: int) -> Path:
    s = case.setting
    return folder if cases == 1 else folder / f"{s.batch}x{s.size[0]}x{s.size[1]}_{s.dtype}"


def _released() -> None:
    raise RuntimeError("the program's arguments were released after it was timed")
