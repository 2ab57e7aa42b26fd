"""Traces a window of steps for xprof (`xprof <workdir>/profile`, or TensorBoard's profile plugin)."""

from pathlib import Path
from typing import Any

import jax


class Profile:
    """Traces the steps `window` = (first, last), counted from 1, into a folder; () traces nothing.

    A context manager: leaving it ends a running trace.
    """

    def __init__(self, folder: Path, window: tuple[int, ...]):
        self._folder = folder
        self._window: tuple[int, ...] = window
        self._tracing = False

    def before(self, step: int) -> None:
        """Starts the trace at the first step of the window, or later if the run was resumed inside it."""
        if self._window and not self._tracing and self._window[0] <= step <= self._window[1]:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def after(self, step: int, values: Any) -> None:
        """Ends the trace after the last step of the window, once `values`, the step's results, are ready."""
        if self._tracing and step >= self._window[1]:
            jax.block_until_ready(values)
            self._end()

    def _end(self) -> None:
        self._window = ()
        self._tracing = False
        jax.profiler.stop_trace()
        print(f"traced into {self._folder}", flush=True)

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._tracing:
            self._end()
