"""Programs of JAX and PyTorch, checked against one reference and timed in turns."""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.command import one_line
from dyhead_jax.measure import timing
from dyhead_jax.measure.timing import Program, with_gradients
from dyhead_jax.ops import backend

WHATS = ("forward", "forward+backward")
KERNELS = 12  # shown of a trace
TRACED = 3  # calls
Results = Callable[[Any], list[np.ndarray]]
Maker = Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]


@dataclass(frozen=True)
class Precision:
    """dtype: of the maps; products: a name of `jax.default_matmul_precision`; tolerances: of results and of gradients,
    the norm of the difference to the reference over the reference's; torchvision: what runs beside it, by name the
    dtype of the tensors and that inside of the operator. Under autocast torchvision's operator is float32 inside."""

    dtype: str
    products: str
    tolerances: tuple[float, float]
    torchvision: dict[str, tuple[str, str]]


PRECISIONS = {
    "bfloat16": Precision(
        "bfloat16",
        "default",
        (2e-2, 5e-2),
        {
            "torchvision": ("bfloat16", "bfloat16"),
            "torchvision, float32 inside": ("bfloat16", "float32"),
            "torchvision in float16": ("float16", "float16"),
        },
    ),
    "float32": Precision("float32", "highest", (1e-4, 2e-3), {"torchvision": ("float32", "float32")}),
    "tf32": Precision("float32", "default", (3e-3, 1e-2), {"torchvision": ("float32", "float32")}),
    "float16": Precision("float16", "default", (3e-3, 1e-2), {"torchvision": ("float16", "float16")}),
}


class Rows:
    """The lines of a part: each is written as soon as it is known."""

    def __init__(self, path: Path, part: str):
        self.path, self.part = path, part

    def add(self, **row: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": self.part, **row}) + "\n")
        print(*(f"{name}={value}" for name, value in row.items() if not isinstance(value, list | dict)), flush=True)

    @contextmanager
    def guarded(self, **fields: Any) -> Iterator[None]:
        """An error inside becomes a line, so that it costs one case and not the part."""
        try:
            yield
        except Exception as error:
            self.add(**fields, failed=short(error))


@dataclass
class Candidate:
    """What is timed. calls: by a name of WHATS, a program; results: what makes arrays of its result, by the same."""

    name: str
    programs: dict[str, Program]
    results: dict[str, Results]
    ours: bool = True


def short(error: BaseException) -> str:
    """The type of an error and the beginning of its message."""
    return f"{type(error).__name__}: {one_line(error)}"[:300]


def compile_together(makers: dict[str, Maker], products: str) -> dict[str, Program | Exception]:
    """Traces for a GPU and compiles, on all cores at once. makers: by name, what makes a function and its arguments."""

    def one(name: str) -> Program | Exception:
        try:  # both contexts are of one thread
            with backend.tracing_for("gpu"), jax.default_matmul_precision(products):
                function, arguments = makers[name]()
                return timing.compiled(name, function, *arguments)
        except Exception as error:
            return error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(makers, pool.map(one, makers), strict=True))


def candidates_of_forms(
    rows: Rows,
    fields: dict[str, Any],
    functions: dict[str, Callable[..., Any]],
    argnums: Sequence[int],
    arguments: tuple[Any, ...],
    results: dict[str, Results],
    products: str,
) -> list[Candidate]:
    """A candidate for each of our forms. functions: forward, by form; arguments: of all of them."""
    makers: dict[str, Maker] = {}
    for form, function in functions.items():
        makers[f"{form} {WHATS[0]}"] = lambda f=function: (f, arguments)
        makers[f"{form} {WHATS[1]}"] = lambda f=function: (with_gradients(f, argnums), arguments)
    programs = compile_together(makers, products)
    found = []
    for form in functions:
        candidate = Candidate(form, {}, results)
        for what in WHATS:
            program = programs[f"{form} {what}"]
            if isinstance(program, Exception):
                rows.add(**fields, name=form, what=what, failed=short(program))
            else:
                candidate.programs[what] = program
        found.append(candidate)
    return found


def candidates_of_torchvision(
    rows: Rows, fields: dict[str, Any], kind: str, arguments: tuple[Any, ...], precision: Precision
) -> list[Candidate]:
    """A candidate for each way in which torchvision runs in a precision. kind: "operator" or "block"; arguments: of the
    function of that name in `pytorch`, float32."""
    found = []
    for name, (dtype, inside) in precision.torchvision.items():
        try:
            from gpu import pytorch

            pytorch.allow_tf32(precision.products != "highest")
            computation = getattr(pytorch, kind)(*arguments, dtype, inside)
        except Exception as error:  # no PyTorch, or one that does not fit this machine
            rows.add(**fields, name=name, failed=short(error))
            continue
        calls = (computation.run, computation.run_with_gradients)
        nothing = {"compile_s": 0.0, "flops": float("nan"), "moved": float("nan"), "temporaries": float("nan")}
        programs = {w: Program(f"{name} {w}", call, **nothing) for w, call in zip(WHATS, calls, strict=True)}
        back = (computation.back, computation.back_gradients)
        results = {w: lambda x, b=b: b(x.tensors) for w, b in zip(WHATS, back, strict=True)}
        found.append(Candidate(name, programs, results, ours=False))
    return found


def reference(
    kind: str,
    exact: tuple[Any, ...],
    forward: Callable[..., Any],
    argnums: Sequence[int],
    arguments: tuple[Any, ...],
    results: dict[str, Results],
) -> tuple[str, dict[str, list[np.ndarray]]]:
    """What all results are compared with, by a name of WHATS, and its name: torchvision's in float32, or where there
    is none our form "gather". exact: for `pytorch`; forward, arguments: ours."""
    try:
        from gpu import pytorch

        pytorch.allow_tf32(False)
        computation = getattr(pytorch, kind)(*exact, "float32", "float32")
        values, gradients = computation.run().tensors, computation.run_with_gradients().tensors
        found = (computation.back(values), computation.back_gradients(gradients))
        return "torchvision in float32", dict(zip(WHATS, found, strict=True))
    except Exception:
        functions = {"forward": forward, "forward+backward": with_gradients(forward, argnums)}
        makers: dict[str, Maker] = {w: lambda f=f: (f, arguments) for w, f in functions.items()}
        programs = compile_together(makers, "highest")
        return "gather in float32", {w: results[w](raised(programs[w]).call()) for w in WHATS}


def raised(program: Program | Exception) -> Program:
    if isinstance(program, Exception):
        raise program
    return program


def ceilings(matmul: int, copy: int, precision: Precision) -> list[Program]:
    """A square matrix product, and a copy of so many bytes."""
    a = jax.random.normal(jax.random.key(2), (matmul, matmul), jnp.dtype(precision.dtype))
    b = jnp.zeros((copy // 4,), jnp.float32)
    makers: dict[str, Maker] = {"matmul": lambda: (lambda a: a @ a, (a,)), "copy": lambda: (lambda b: b + 1, (b,))}
    return [raised(program) for program in compile_together(makers, precision.products).values()]


def rates(tops: Sequence[Program]) -> tuple[float, float]:
    """Operations and bytes a second of timed `ceilings`."""
    matmul, copy = tops
    return matmul.flops / matmul.median, copy.moved / copy.median


def numbers(program: Program, tops: Sequence[Program], work: Program | None) -> dict[str, Any]:
    """What a line says about a timed program. work: the program whose arithmetic and bytes count."""
    row: dict[str, Any] = {
        "median_s": program.median,
        "spread": program.spread,
        "repeats_s": program.seconds,
        "calls_per_repeat": program.calls,
    }
    if program.executable is not None:
        row |= {"compile_s": program.compile_s, "temporary_bytes": program.temporaries}
    if work is not None:
        flops, rate = rates(tops)
        row |= {"flops": work.flops, "least_bytes": work.moved, "flops_per_s": flops, "bytes_per_s": rate}
        row["floor_s"] = max(work.flops / flops, work.moved / rate)
    return row


def compare(
    rows: Rows,
    fields: dict[str, Any],
    candidates: Sequence[Candidate],
    expected: tuple[str, dict[str, list[np.ndarray]]],
    precision: Precision,
    tops: list[Program],
    repeats: int,
) -> list[Candidate]:
    """Checks all results, times all programs in turns, and writes a line for each. Returns the candidates without the
    programs that failed."""
    errors, (base, wanted) = {}, expected
    for candidate in candidates:
        for what in list(candidate.programs):
            try:
                result = candidate.results[what](candidate.programs[what].call())
                errors[candidate.name, what] = difference(result, wanted[what])
            except Exception as error:  # not supported in this dtype, or no memory
                rows.add(**fields, name=candidate.name, what=what, failed=short(error))
                del candidate.programs[what]
    timing.run_in_turn([*tops, *(p for c in candidates for p in c.programs.values())], repeats)
    for what, tolerance in zip(WHATS, precision.tolerances, strict=True):
        work = next((c.programs[what] for c in candidates if c.name == "gather" and what in c.programs), None)
        theirs = [c.programs[what] for c in candidates if not c.ours and what in c.programs]
        fastest = min(theirs, key=lambda program: program.median, default=None)
        for candidate in candidates:
            if what not in candidate.programs:
                continue
            program, error = candidate.programs[what], errors[candidate.name, what]
            row = {"ours": candidate.ours, "error": error, "equal": bool(error <= tolerance), "reference": base}
            if candidate.ours and fastest is not None:
                row |= {"torchvision_over_ours": timing.ratio(fastest, program), "torchvision": fastest.name}
            rows.add(**fields, name=candidate.name, what=what, **row, **numbers(program, tops, work))
    return list(candidates)


def difference(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The largest norm of a difference, over the norm of what is wanted. NaN where one is NaN."""
    norm = lambda x: float(np.linalg.norm(np.ravel(x).astype(np.float64)))  # noqa: E731
    each = [norm(a - b) / max(norm(b), 1e-30) for a, b in zip(found, wanted, strict=True)]
    return float(np.max(each))


def trace(rows: Rows, fields: dict[str, Any], name: str, call: Callable[[], Any], keep: Path | None = None) -> None:
    """A line with the kernels of a few calls that took longest. keep: where the profile, for xprof, is to lie."""
    with rows.guarded(**fields, name=name, what="trace"), tempfile.TemporaryDirectory() as folder:
        profiling = jax.profiler.ProfileOptions()
        profiling.python_tracer_level = 0
        with jax.profiler.trace(folder, profiler_options=profiling):
            for _ in range(TRACED):
                result = call()
            jax.block_until_ready(result)
        [file] = Path(folder).rglob("*.xplane.pb")
        counts, seconds = kernels(file)
        longest = [
            {"kernel": kernel[:120], "calls": counts[kernel] / TRACED, "seconds": total / TRACED}
            for kernel, total in seconds.most_common(KERNELS)
        ]
        rows.add(**fields, name=name, what="trace", busy_s=sum(seconds.values()) / TRACED, kernels=longest)
        if keep is not None:
            shutil.copy(file, keep)


def kernels(file: Path) -> tuple[Counter[str], Counter[str]]:
    """How often each kernel of a profile ran, and its seconds; without a GPU the operations of the CPU."""
    planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    counts, seconds = Counter[str](), Counter[str]()
    for plane in devices or [plane for plane in planes if plane.name == "/host:CPU"]:
        for line in plane.lines:
            if devices and "Stream" not in line.name:  # summaries of the streams
                continue
            for event in line.events:
                counts[event.name] += 1
                seconds[event.name] += event.duration_ns / 1e9
    return counts, seconds
