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
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from dyhead_jax.measure import compilations, xla_count
from dyhead_jax.measure.multiply_adds import multiply_adds

SHORTEST = 0.02  # seconds of a repeat: long compared with the clock's resolution and the dispatch of a call
MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Setting:
    """What a program is measured on. batch: images; size: (height, width) of the map or the images; dtype: of the
    activations."""

    batch: int
    size: tuple[int, int]
    dtype: str

    def __str__(self) -> str:
        return f"{self.batch}x{self.size[0]}x{self.size[1]}, {self.dtype}"


@dataclass
class Program:
    """A compiled function with its arguments. compile_s: seconds of lowering and compilation; flops: two for each
    multiply-add of its products; moved: bytes of arguments and results, the least that it must move; temporaries,
    arguments, results, aliased: bytes of buffers, aliased those that are argument and result; calls: in a repeat;
    seconds: of a call, for each repeat; executable: what was compiled; compilations: before it ran, 0 if JAX's
    compilation cache had the program; recompilations: while it was timed; setting: what it runs on, if it matters."""

    name: str
    call: Callable[[], Any]
    compile_s: float
    flops: float
    moved: float
    temporaries: float
    calls: int = 1
    seconds: list[float] = field(default_factory=list)
    executable: Any = None
    arguments: float = float("nan")
    results: float = float("nan")
    aliased: float = 0.0
    compilations: int = 1
    recompilations: int = 0
    setting: Setting | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """The interquartile range as a fraction of the median."""
        return spread(self.seconds)

    @cached_property
    def count(self) -> xla_count.Count | None:
        """What XLA counts in it, None where that is not known."""
        return None if self.executable is None else xla_count.of(self.executable)

    @property
    def memory(self) -> float:
        """Bytes that the device must hold while the program runs: arguments, results and temporaries."""
        return self.arguments + self.results - self.aliased + self.temporaries


def compiled(name: str, function: Callable[..., Any], *arguments: Any) -> Program:
    """Compiles a function that `jax.jit` takes for these arguments."""
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    with compilations.counted() as count:
        program = lowered.compile()
    seconds = time.perf_counter() - start
    memory: Any = program.memory_analysis()
    sizes = [
        float("nan") if memory is None else float(getattr(memory, f"{kind}_size_in_bytes"))
        for kind in ("temp", "argument", "output", "alias")
    ]
    trace = jax.make_jaxpr(function)(*arguments)
    return Program(
        name=name,
        call=lambda: program(*arguments),
        compile_s=seconds,
        flops=2.0 * sum(multiply_adds(trace, ()).values()),
        moved=float(sum(x.size * x.dtype.itemsize for x in (*trace.in_avals, *trace.out_avals))),
        temporaries=sizes[0],
        executable=program,
        arguments=sizes[1],
        results=sizes[2],
        aliased=sizes[3],
        compilations=count.compiled,
    )


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile; of fewer than four values the least and the largest."""
    if len(values) < 4:
        return min(values), max(values)
    low, _, high = statistics.quantiles(values, n=4)
    return low, high


def spread(values: Sequence[float]) -> float:
    """The distance of the quartiles as a fraction of the median."""
    low, high = quartiles(values)
    return (high - low) / statistics.median(values)


def with_gradients(function: Callable[..., Any], argnums: Sequence[int]) -> Callable[..., Any]:
    """Forward + backward of a function of arrays: the gradients of the sum of squares of all that it returns."""

    def objective(*arguments: Any) -> jax.Array:
        leaves = jax.tree.leaves(function(*arguments))
        return sum((jnp.sum(jnp.square(y.astype(jnp.float32))) for y in leaves), jnp.float32(0))

    return jax.grad(objective, argnums=tuple(argnums))


def run_in_turn(
    programs: Sequence[Program], repeats: int, warmup: int = 2, each_round: Callable[[], Any] = lambda: None
) -> None:
    """Fills `seconds` of each program: `warmup` calls that do not count, then in each round one repeat of each, and a
    call of `each_round`."""
    for program in programs:
        with compilations.counted() as count:
            for _ in range(max(warmup, 1)):
                start = time.perf_counter()
                jax.block_until_ready(program.call())
                last = time.perf_counter() - start
        program.calls = max(1, round(SHORTEST / max(last, 1e-7)))
        program.recompilations += count.compiled
    for _ in range(repeats):
        for program in programs:
            with compilations.counted() as count:
                start = time.perf_counter()
                for _ in range(program.calls):
                    result = program.call()
                jax.block_until_ready(result)
                program.seconds.append((time.perf_counter() - start) / program.calls)
            program.recompilations += count.compiled
        each_round()


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
