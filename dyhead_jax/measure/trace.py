"""A profile of a few calls of each program, by JAX's profiler, in which each program has its name."""

from collections.abc import Sequence
from pathlib import Path

import jax

from dyhead_jax.measure.timing import Program

CALLS = 3  # of each program, after those that are timed
HOW_TO_OPEN = """\
The profile is in {folder}. To open it: pip install xprof, xprof --logdir {folder}, and the Trace Viewer at the address
that it prints; without an installation, the file *.trace.json.gz below the folder in https://ui.perfetto.dev"""


def record(programs: Sequence[Program], folder: Path) -> None:
    """Calls each program `CALLS` times under the profiler. Raises ValueError if no profile was written."""
    with jax.profiler.trace(folder):
        for program in programs:
            for number in range(CALLS):
                with jax.profiler.StepTraceAnnotation(program.name, step_num=number):
                    jax.block_until_ready(program.call())
    if not list(folder.glob("plugins/profile/*/*.xplane.pb")):
        raise ValueError(f"{folder}: JAX's profiler wrote no profile")
