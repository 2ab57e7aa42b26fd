"""Detects in every process that another process of the run has ended, then ends its own with one line that says so.

When a process dies, the others wait forever in a collective operation. JAX would also end them, after its heartbeat
time-out, but by an abort with a C++ stack trace. If process 0 is killed that abort is immediate and cannot be avoided:
process 0 hosts the key-value store that all messages go through.
"""

import contextlib
import os
import sys
import threading
import time
from typing import Any

import jax

POLL_SECONDS = 1.0
SILENT_SECONDS = 40.0  # a process silent for longer is lost; parsing a large JSON can block one for ten seconds

_DONE = "done"
_FAILED = "failed "


class Watchdog:
    """A thread that sends a heartbeat to the other processes once a second and listens to theirs.

    Call `succeed` before a normal exit and `fail` before an exit with an error, which then ends the others.
    """

    def __init__(self, own: int, count: int):
        from jax._src.distributed import global_state  # JAX has no public access to the store; Orbax does the same

        self._store: Any = global_state.client
        self._own, self._count = own, count
        self._ending = threading.Event()
        self._beat = 0
        self._seen: dict[int, tuple[str, float]] = {i: ("", time.monotonic()) for i in range(count)}
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def succeed(self) -> None:
        """Stops watching and tells the others that this process ended normally."""
        self._stop(_DONE)

    def fail(self, reason: str) -> None:
        """Tells the others that this process ends with an error; process 0, which hosts the store, waits for them."""
        self._stop(_FAILED + reason)
        if self._own == 0:
            time.sleep(3 * POLL_SECONDS)

    def _stop(self, message: str) -> None:
        self._ending.set()
        self._thread.join()
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # no process is left
            self._say(message)

    def _say(self, message: str) -> None:
        self._store.key_value_set(f"watchdog/{self._own}", message, allow_overwrite=True)

    def _run(self) -> None:
        while not self._ending.wait(POLL_SECONDS):
            self._beat += 1
            try:
                self._say(str(self._beat))
                lost = self._listen()
            except jax.errors.JaxRuntimeError:
                lost = "process 0 does not answer"
            if lost is not None and not self._ending.is_set():
                self._end(lost)

    def _listen(self) -> str | None:
        """What is wrong with another process, or None."""
        now = time.monotonic()
        for key, message in self._store.key_value_dir_get("watchdog/"):
            process = int(key.rpartition("/")[2])
            if message.startswith(_FAILED):
                return f"process {process} has ended: {message.removeprefix(_FAILED)}"
            if self._seen[process][0] != message or message == _DONE:
                self._seen[process] = message, now
        for process, (_, since) in self._seen.items():
            if process != self._own and now - since > SILENT_SECONDS:
                return f"process {process} has ended or hangs: no sign of life for {now - since:.0f} seconds"
        return None

    def _end(self, lost: str) -> None:
        print(
            f"error: process {self._own} of {self._count} ends, because {lost}; start all of them again to go on from"
            " the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        if self._own == 0:
            time.sleep(3 * POLL_SECONDS)  # so that the others notice too while the store is up
        os._exit(1)
