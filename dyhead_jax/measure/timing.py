"""How time is measured: all programs are compiled first, then run in turns, with ceilings measured beside them.

The programs of a run take turns, so that other work on the machine slows all of them alike. A repeat is as many calls
as last `SHORTEST` together, with one wait at the end; a program's time is the median of its repeats, its spread their
interquartile range. A ratio is the median of the ratios of repeats of the same round.
"""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import jax
import jax.numpy as jnp

from dyhead_jax.measure.multiply_adds import multiply_adds

SHORTEST = 0.02  # seconds of a repeat: long compared with the clock's resolution and the dispatch of a call
MIB, GIB = 2**20, 2**30


@dataclass
class Program:
    """A compiled function with its arguments. compile_s: seconds of lowering and compilation; flops: two for each
    multiply-add of its products; moved: bytes of arguments and results, the least that it must move; temporaries:
    bytes of other buffers; calls: in a repeat; seconds: of a call, for each repeat; executable: what was compiled."""

    name: str
    call: Callable[[], Any]
    compile_s: float
    flops: float
    moved: float
    temporaries: float
    calls: int = 1
    seconds: list[float] = field(default_factory=list)
    executable: Any = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """The interquartile range as a fraction of the median."""
        if len(self.seconds) < 4:
            return (max(self.seconds) - min(self.seconds)) / self.median
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / self.median


def compiled(name: str, function: Callable[..., Any], *arguments: Any) -> Program:
    """Compiles a function that `jax.jit` takes for these arguments."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory: Any = program.memory_analysis()
    trace = jax.make_jaxpr(function)(*arguments)
    return Program(
        name=name,
        call=lambda: program(*arguments),
        compile_s=seconds,
        flops=2.0 * sum(multiply_adds(trace, ()).values()),
        moved=float(sum(x.size * x.dtype.itemsize for x in (*trace.in_avals, *trace.out_avals))),
        temporaries=float(memory.temp_size_in_bytes) if memory is not None else float("nan"),
        executable=program,
    )


def with_gradients(function: Callable[..., Any], argnums: Sequence[int]) -> Callable[..., Any]:
    """Forward + backward of a function of arrays: the gradients of the sum of squares of all that it returns."""

    def objective(*arguments: Any) -> jax.Array:
        leaves = jax.tree.leaves(function(*arguments))
        return sum((jnp.sum(jnp.square(y.astype(jnp.float32))) for y in leaves), jnp.float32(0))

    return jax.grad(objective, argnums=tuple(argnums))


def run_in_turn(programs: Sequence[Program], repeats: int, warmup: int = 2) -> None:
    """Fills `seconds` of each program: `warmup` calls that do not count, then in each round one repeat of each."""
    for program in programs:
        for _ in range(max(warmup, 1)):
            start = time.perf_counter()
            jax.block_until_ready(program.call())
            last = time.perf_counter() - start
        program.calls = max(1, round(SHORTEST / max(last, 1e-7)))
    for _ in range(repeats):
        for program in programs:
            start = time.perf_counter()
            for _ in range(program.calls):
                result = program.call()
            jax.block_until_ready(result)
            program.seconds.append((time.perf_counter() - start) / program.calls)


def ratio(program: Program, unit: Program) -> float:
    """The median ratio of repeats of the same round."""
    return statistics.median(a / b for a, b in zip(program.seconds, unit.seconds, strict=True))


def compare(first: Program, second: Program) -> str:
    """One line: how many times as long as the first the second takes, with the quartiles of the paired ratios."""
    ratios = sorted(b / a for a, b in zip(first.seconds, second.seconds, strict=True))
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return f"{second.name} / {first.name}: {middle:.3f} (quartiles {low:.3f} to {high:.3f} of {len(ratios)} pairs)"


def yardstick(channels: int, size: tuple[int, int], batch: int, dtype: Any) -> Program:
    """A plain 3x3 convolution (batch, h, w, channels) -> channels, forward."""
    x = jax.random.normal(jax.random.key(0), (batch, *size, channels), dtype)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, channels, channels), dtype)
    numbers = ("NHWC", "HWIO", "NHWC")
    plain = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers)  # noqa: E731
    return compiled("lax.conv 3x3 (yardstick)", plain, x, kernel)


def ceilings(dtype: Any) -> list[Program]:
    """What the device can do: a square matrix product, and a copy (one read and one write) of 128 MiB."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(2), (n, n), dtype)
    b = jnp.zeros((32 * MIB,), jnp.float32)
    return [compiled(f"matmul {n}", lambda a: a @ a, a), compiled("copy 128 MiB", lambda b: b + 1, b)]


@dataclass
class Report:
    """A finished run. title: what was measured; unit: the yardstick; tops: `ceilings`; programs: those compared."""

    title: str
    unit: Program
    tops: list[Program]
    programs: list[Program]

    def text(self) -> str:
        """The table for a terminal."""
        matmul, copy = self.tops
        lines = [
            f"{self.title}",
            "  ".join(f"{key} {value}" for key, value in machine().items()),
            f"yardstick {self.unit.name}: {_ms(self.unit.median)}, spread {self.unit.spread:.0%};"
            f"  ceilings: {matmul.name} {matmul.flops / matmul.median / 1e9:.0f} GFLOP/s,"
            f" {copy.name} {copy.moved / copy.median / 1e9:.1f} GB/s",
            f"{'':34}{'median':>12}{'spread':>8}{'yardsticks':>12}{'of matmul':>11}{'of copy':>9}"
            f"{'temporaries':>13}{'compile':>10}",
        ]
        for p in self.programs:
            lines.append(
                f"{p.name:34}{_ms(p.median):>12}{p.spread:>8.0%}{ratio(p, self.unit):>11.2f}x"
                f"{p.flops / p.median / (matmul.flops / matmul.median):>11.0%}"
                f"{p.moved / p.median / (copy.moved / copy.median):>9.0%}"
                f"{p.temporaries / MIB:>9.0f} MiB{p.compile_s:>8.1f} s"
            )
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        """The same with every repeat, in seconds, bytes and floating-point operations."""
        return {
            "title": self.title,
            "machine": machine(),
            "programs": [
                {
                    "name": p.name,
                    "median_s": p.median,
                    "spread": p.spread,
                    "yardsticks": ratio(p, self.unit),
                    "repeats_s": p.seconds,
                    "calls_per_repeat": p.calls,
                    "flops": p.flops,
                    "least_bytes": p.moved,
                    "temporary_bytes": p.temporaries,
                    "compile_s": p.compile_s,
                }
                for p in (self.unit, *self.tops, *self.programs)
            ],
        }


def machine() -> dict[str, str]:
    """The date, versions and hardware of a run."""
    device = jax.devices()[0]
    return {
        "date": str(date.today()),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "python": platform.python_version(),
        "device": f"{jax.device_count()} x {device.device_kind}",
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
