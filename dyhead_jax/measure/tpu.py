"""TPU programs compiled ahead of time, by the compiler in `libtpu`, on a machine that has no TPU.

Nothing runs: the results are the compiler's own figures. Its memory is what the chip will reserve. Its time is a
roofline estimate, mostly bytes moved over the memory's bandwidth, in which a gather or a scatter counts the tiles that
its rows touch. It is good for comparing forms of one computation, not for predicting the time of a step.
"""

import functools
import importlib.metadata
import importlib.util
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dyhead_jax.command import UsageError, one_line
from dyhead_jax.measure import hlo
from dyhead_jax.measure.multiply_adds import inner_jaxprs
from dyhead_jax.measure.timing import GIB
from dyhead_jax.ops import backend

SHORT = 4  # loops of at most this many rounds are unrolled completely where time is estimated
HBM = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}  # GiB a chip, by the first part of a topology's name
# libtpu must not ask a TPU machine for its metadata, two processes may compile at once, and nothing is logged: libtpu
# would log the absence of a TPU as an error.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


@dataclass(frozen=True)
class Compiled:
    """A program for one chip of a topology. arguments, outputs, aliased, temporaries: bytes of HBM; seconds: the
    compiler's estimate with each loop's body counted once; unknown: number of operations without an estimate, which
    `seconds` leaves out; compile_seconds: of the compilation; text: the optimised program."""

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    seconds: float
    unknown: int
    compile_seconds: float
    text: str

    @cached_property
    def module(self) -> hlo.Module:
        """The optimised program."""
        return hlo.parse(self.text)

    @property
    def memory(self) -> int:
        """Bytes of HBM that a chip needs while the program runs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries


def devices(topology: str) -> list[Any]:
    """The chips of a topology such as "v5e:16x16", in the order of their hosts. Raises UsageError where libtpu is not
    installed or does not know it."""
    if importlib.util.find_spec("libtpu") is None:
        raise UsageError('libtpu, the TPU compiler, is not installed: pip install "dyhead-jax[tpu]" on Python 3.12')
    if topology.partition(":")[0] not in HBM:
        raise UsageError(f"--topology={topology}: it must be one of {', '.join(HBM)}, a colon and its grid: v5e:16x16")
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
    jax.config.update("jax_platforms", "cpu")  # where there is a TPU it is left alone
    from jax.experimental import topologies

    # v4's two cores are one device on real machines, but two for the compiler unless it is told
    chip = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    try:
        chips = topologies.get_topology_desc(platform="tpu", topology_name=topology, **chip).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise UsageError(f"--topology={topology}: {one_line(error)}") from error
    return sorted(chips, key=lambda device: (device.process_index, device.id))


def hbm(topology: str) -> int:
    """Bytes of HBM of one chip of a topology."""
    return HBM[topology.partition(":")[0]] * GIB


def compile_lowered(lowered: Any) -> Compiled:
    """Compiles the result of `jax.jit(...).lower(...)`."""
    start = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    estimate = program.cost_analysis()["optimal_seconds"]
    unknown = max(0, math.ceil(-estimate))  # each of them enters the sum as -1 second
    return Compiled(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        seconds=estimate + unknown,
        unknown=unknown,
        compile_seconds=seconds,
        text=program.as_text(),
    )


class Chip:
    """One chip of a topology, for programs that run on one chip. A program is compiled only once: programs with the
    same text of their trace are the same."""

    def __init__(self, topology: str) -> None:
        mesh = Mesh(np.array(devices(topology)[:1]), ("chip",))
        self.sharding = NamedSharding(mesh, PartitionSpec())
        self.compiled: dict[str, Compiled] = {}

    def compile(self, function: Callable[..., Any], *arguments: Any) -> Compiled:
        """Compiles a function for these arguments, trees of arrays or of `jax.ShapeDtypeStruct`."""
        return self._compile(traced(function, *arguments))

    def estimate(self, function: Callable[..., Any], *arguments: Any, unroll: int = 3) -> tuple[float, bool]:
        """The compiler's estimate of seconds with each loop's body counted as often as it runs, and whether it is
        complete: False where some operation has no estimate.

        The compiler counts a loop's body once, so the program is compiled with its loops unrolled: short loops and
        loops within loops completely, the other ones, which must all have the same number of rounds, by `unroll` and by
        1; the difference gives the cost of a round. Unrolling by the number of rounds needs no difference and takes
        longer to compile. A body compiled by itself would cost too much, since it reads and writes in HBM what a loop
        keeps in the chip's faster memory. A loop whose length depends on the data (`while`) counts as one round.
        Raises ValueError if `unroll` does not divide the number of rounds, or if outer loops differ in theirs.
        """
        program = traced(function, *arguments)
        rounds = set(_rounds(program.jaxpr))
        if len(rounds) > 1 or any(count % unroll for count in rounds):
            raise ValueError(f"loops of {sorted(rounds)} rounds; all must have the same number, divisible by {unroll}")
        count = max(rounds, default=1)
        many = self._compile(unrolled(program, unroll))
        if count == unroll:
            return many.seconds, many.unknown == 0
        once = self._compile(unrolled(program, 1))
        seconds_a_round = (many.seconds - once.seconds) / (unroll - 1)
        return once.seconds + (count - 1) * seconds_a_round, many.unknown == once.unknown == 0

    def _compile(self, program: ClosedJaxpr) -> Compiled:
        key = str(program)
        if key not in self.compiled:
            shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self.sharding) for a in program.in_avals]
            self.compiled[key] = compile_lowered(jax.jit(jaxpr_as_fun(program)).lower(*shapes))
        return self.compiled[key]


def traced(function: Callable[..., Any], *arguments: Any) -> ClosedJaxpr:
    """The program of a function as it is traced for a TPU, whatever the backend here."""
    with backend.tracing_for("tpu"):
        # a new function, since `function` may have been traced for the backend here, and that trace is kept
        return jax.make_jaxpr(lambda *a: function(*a))(*arguments)


def unrolled(program: ClosedJaxpr, rounds: int) -> ClosedJaxpr:
    """The same program with each outermost `scan` unrolled by `rounds`; scans within a scan, and those of at most SHORT
    rounds, are unrolled completely."""

    def rewrite(jaxpr: Jaxpr, outermost: bool) -> Jaxpr:
        eqns = []
        for eqn in jaxpr.eqns:
            loop = eqn.primitive.name == "scan"
            params = {name: inside(value, outermost and not loop) for name, value in eqn.params.items()}
            if loop:
                length = params["length"]
                params["unroll"] = min(rounds, length) if outermost and length > SHORT else max(1, length)
            eqns.append(eqn.replace(params=params))
        return jaxpr.replace(eqns=eqns)

    def inside(value: Any, outermost: bool) -> Any:
        if isinstance(value, ClosedJaxpr):
            return value.replace(jaxpr=rewrite(value.jaxpr, outermost))
        if isinstance(value, Jaxpr):
            return rewrite(value, outermost)
        return tuple(inside(v, outermost) for v in value) if type(value) is tuple else value

    return program.replace(jaxpr=rewrite(program.jaxpr, True))


def _rounds(program: Jaxpr) -> Iterator[int]:
    """How often each of the outermost `scan` loops of more than SHORT rounds runs."""
    for eqn in program.eqns:
        if eqn.primitive.name == "scan":
            if eqn.params["length"] > SHORT:
                yield eqn.params["length"]
        else:
            for jaxpr in inner_jaxprs(eqn):
                yield from _rounds(jaxpr)


@functools.cache
def versions() -> dict[str, str]:
    """The date and the versions that an estimate depends on."""
    return {
        "date": str(date.today()),
        "jax": jax.__version__,
        "libtpu": importlib.metadata.version("libtpu"),
        "python": platform.python_version(),
    }
