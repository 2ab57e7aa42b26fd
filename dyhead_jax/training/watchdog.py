"""Notices in every process when another one of a run has ended, and ends its own with a line that says so.

A process that dies leaves the others waiting in a collective operation, which has no end of its own. JAX would end them
too, after a heartbeat time-out of its own, but by an abort with a stack trace of C++. That abort comes, and at once,
when process 0 is killed: process 0 keeps the store by which all of this goes.
"""

import contextlib
import os
import sys
import threading
import time
from typing import Any

import jax

POLL_SECONDS = 1.0
SILENT_SECONDS = 40.0  # a process that says nothing for so long is lost; a large JSON may hold one up for ten

_DONE = "done"
_FAILED = "failed "


class Watchdog:
    """Tells the other processes once a second that this one lives, and listens to them. A thread.

    `finish` before leaving in peace; `fail` before leaving with an error, which then ends the others.
    """

    def __init__(self, own: int, count: int):
        from jax._src.distributed import global_state  # the one place of this store; Orbax takes it from there too

        self._store: Any = global_state.client
        self._own, self._count = own, count
        self._ending = threading.Event()
        self._beat = 0
        self._seen: dict[int, tuple[str, float]] = {i: ("", time.monotonic()) for i in range(count)}
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Stops watching; the others see that this process has ended well."""
        self._stop(_DONE)

    def fail(self, reason: str) -> None:
        """Tells the others that this process ends with an error. Process 0, which keeps the store, gives them time."""
        self._stop(_FAILED + reason)
        if self._own == 0:
            time.sleep(3 * POLL_SECONDS)

    def _stop(self, message: str) -> None:
        self._ending.set()
        self._thread.join()
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # when nobody is left to be told
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
        """What is wrong with some other process, or None."""
        now = time.monotonic()
        for key, message in self._store.key_value_dir_get("watchdog/"):
            process = int(key.rpartition("/")[2])
            if message.startswith(_FAILED):
                return f"process {process} has ended: {message.removeprefix(_FAILED)}"
            if self._seen[process][0] != message or message == _DONE:
                self._seen[process] = message, now
        for process, (_, since) in self._seen.items():
            if process != self._own and now - since > SILENT_SECONDS:
                return f"process {process} has ended or hangs: nothing heard of it for {now - since:.0f} seconds"
        return None

    def _end(self, lost: str) -> None:
        print(
            f"error: process {self._own} of {self._count} ends, since {lost}; start all of them again to go on from the"
            " last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        if self._own == 0:
            time.sleep(3 * POLL_SECONDS)  # the others notice by themselves, as long as the store is there
        os._exit(1)
