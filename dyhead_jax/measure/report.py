"""What a run measured: one table for people, and for programs a JSON object with every repeat."""

import contextlib
import importlib.metadata
import math
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax

from dyhead_jax.measure import tables
from dyhead_jax.measure.timing import MIB, Program, Setting, machine, ratio

LEGEND = """\
yardsticks: median ratio to the yardstick in the same rounds. products: the multiply-adds of matrix products and
convolutions, as two operations each. XLA: the compiler's count of the optimised program, loops as often as they run:
operations (sampling, norms and activations too, but not exp, tanh, rsqrt and their like) and bytes that fusions read
and write (caches aside); + where it leaves something out (kernels of libraries, loops of unknown length). Gop/s, GB/s:
these a second, and as a share of the ceilings. memory: arguments, results and temporaries, by the compiler.
compiled: programs that XLA compiled for the row, 0 if they came from JAX's compilation cache."""
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "GLIBC_TUNABLES", "OMP_NUM_THREADS", "JAX_COMPILATION_CACHE_DIR")


@dataclass
class Group:
    """Programs that took turns. unit: the yardstick; tops: `ceilings`; programs: those compared; failed: name, setting
    and reason of those that the device had no memory for."""

    unit: Program
    tops: list[Program]
    programs: list[Program]
    failed: list[tuple[str, Setting, str]] = field(default_factory=list)

    def ceilings(self) -> tuple[float, float]:
        """Operations and bytes a second that the device can do."""
        matmul, copy = self.tops
        return matmul.flops / matmul.median, copy.moved / copy.median


@dataclass
class Report:
    """A finished run. title: what was measured; groups: one for each setting."""

    title: str
    groups: list[Group]
    device_peak: float | None = None  # bytes: the most that the device held since the process began, None if not told

    def programs(self) -> Iterator[tuple[Program, Group]]:
        for group in self.groups:
            for program in group.programs:
                yield program, group

    def text(self) -> str:
        """The table for a terminal, in Markdown."""
        lines = [self.title, "  ".join(f"{key} {value}" for key, value in machine().items())]
        lines += [f"{name}={os.environ[name]}" for name in FLAGS if name in os.environ]
        swept = columns_of([p.setting for p, _ in self.programs()])
        for group in self.groups:
            setting = f"{group.unit.setting}: " if swept else ""
            operations, moved = group.ceilings()
            matmul, copy = group.tops
            lines.append(
                f"{setting}yardstick {group.unit.name} {_ms(group.unit.median)} ms, spread {group.unit.spread:.0%};"
                f" ceilings {matmul.name} {operations / 1e9:.0f} GFLOP/s, {copy.name} {moved / 1e9:.1f} GB/s"
            )
        lines += ["", self.table(), "", LEGEND]
        if self.device_peak is not None:
            lines.append(f"The device held at most {self.device_peak / MIB:.0f} MiB.")
        for program, _ in self.programs():
            if program.recompilations:
                lines.append(f"{program.name} ({program.setting}) compiled {program.recompilations} more while timed")
        for name, setting, reason in (entry for group in self.groups for entry in group.failed):
            lines.append(f"not timed, since it does not fit: {name} ({setting}): {reason}")
        return "\n".join(lines)

    def table(self) -> str:
        swept = columns_of([p.setting for p, _ in self.programs()])
        head = ["program", *swept, "median, ms", "spread", "images/s", "yardsticks", "products, Gop", "XLA, Gop"]
        rows = [[*head, "Gop/s (of matmul)", "XLA, GB", "GB/s (of copy)", "memory, MiB", "compile, s", "compiled"]]
        for p, group in self.programs():
            cells = [p.name, *(cell(p.setting) for cell in swept.values())]
            cells += [_ms(p.median), f"{p.spread:.0%}", number(p.setting.batch / p.median if p.setting else math.nan)]
            cells += [f"{ratio(p, group.unit):.2f}", number(p.flops / 1e9), *_counted(p, group)]
            cells += [f"{p.memory / MIB:.0f}", f"{p.compile_s:.1f}", str(p.compilations)]
            rows.append(cells)
        return tables.aligned(rows)

    def json(self) -> dict[str, Any]:
        """Everything, in seconds, bytes and operations."""
        return {
            "title": self.title,
            "machine": machine(),
            "environment": environment(),
            "device_peak_bytes": self.device_peak,
            "programs": [
                entry(p, group, role)
                for group in self.groups
                for role, programs in (
                    ("yardstick", [group.unit]),
                    ("ceiling", group.tops),
                    ("program", group.programs),
                )
                for p in programs
            ],
            "failed": [
                {"name": name, **_setting(setting), "reason": reason}
                for group in self.groups
                for name, setting, reason in group.failed
            ],
        }


def entry(p: Program, group: Group, role: str) -> dict[str, Any]:
    """A program as JSON. xla_...: XLA's count (`xla_count`), null where it has none."""
    count = p.count
    return {
        "name": p.name,
        "role": role,
        **_setting(p.setting),
        "median_s": p.median,
        "spread": p.spread,
        "yardsticks": ratio(p, group.unit),
        "repeats_s": p.seconds,
        "calls_per_repeat": p.calls,
        "flops": p.flops,
        "least_bytes": p.moved,
        "xla_operations": None if count is None else count.operations,
        "xla_transcendentals": None if count is None else count.transcendentals,
        "xla_bytes": None if count is None else count.moved,
        "xla_missing": None if count is None else count.missing,
        "temporary_bytes": p.temporaries,
        "argument_bytes": p.arguments,
        "result_bytes": p.results,
        "memory_bytes": p.memory,
        "compile_s": p.compile_s,
        "compilations": p.compilations,
        "recompilations": p.recompilations,
    }


def columns_of(settings: list[Setting | None]) -> dict[str, Callable[[Any], str]]:
    """The parts of a setting in which these differ: heading -> how a cell is written."""
    cells: dict[str, Callable[[Any], str]] = {
        "batch": lambda s: str(s.batch),
        "size": lambda s: f"{s.size[0]}x{s.size[1]}",
        "dtype": lambda s: s.dtype,
    }
    return {name: cell for name, cell in cells.items() if len({cell(s) for s in settings if s is not None}) > 1}


def environment() -> dict[str, Any]:
    """What else a time may depend on: versions, the backend, and flags of the environment."""
    found = {}
    for name in ("dyhead-jax", "flax", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # this one, when it runs from its sources
            found[name] = importlib.metadata.version(name)
    return {
        "system": platform.platform(),
        "backend": jax.default_backend(),
        "backend_version": jax.devices()[0].client.platform_version,
        "versions": found,
        "flags": {name: os.environ[name] for name in FLAGS if name in os.environ},
    }


def number(value: float) -> str:
    """Three digits or more; with an exponent below a thousandth."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def share(value: float, most: float) -> str:
    """As a percentage, with a digit after the point below ten."""
    percent = 100 * value / most
    return f"{percent:.1f}%" if percent < 9.95 else f"{percent:.0f}%"


def _counted(p: Program, group: Group) -> Iterator[str]:
    """XLA's operations and bytes, each with its rate and its share of a ceiling."""
    values = (None, None) if p.count is None else (p.count.operations, p.count.moved)
    for value, most in zip(values, group.ceilings(), strict=True):
        if value is None or p.count is None:
            yield from ("-", "-")
        else:
            yield number(value / 1e9) + "+" * bool(p.count.missing)
            yield f"{number(value / p.median / 1e9)} ({share(value / p.median, most)})"


def _setting(setting: Setting | None) -> dict[str, Any]:
    if setting is None:
        return {"batch": None, "height": None, "width": None, "dtype": None}
    return {"batch": setting.batch, "height": setting.size[0], "width": setting.size[1], "dtype": setting.dtype}


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"
