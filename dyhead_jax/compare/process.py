"""One training in a process of its own: its output in a file, its time and memory, and SIGTERM handed on to it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyhead_jax.compare import CompareError

POLL = 0.2  # seconds


def machine() -> dict[str, str]:
    """`timing.machine` of the trainings: a process of its own asks, since this one must not take their devices."""
    ask = "import json; from dyhead_jax.measure import timing; print(json.dumps(timing.machine()))"
    done = subprocess.run([sys.executable, "-c", ask], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise CompareError("JAX finds no device to train on; its own words are above")
    return json.loads(done.stdout)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus the number of the signal that ended it), the seconds that it lived, and
    the largest resident set that it or a process that it waited for had, in bytes."""

    code: int
    seconds: float
    bytes: int


class Processes:
    """Runs trainings, one at a time. Made in the main thread: from then on SIGTERM does not end this process; it is
    handed on to the training, which saves its step and ends, and `stopped` says so."""

    def __init__(self) -> None:
        self.stopped = False
        self._child: subprocess.Popen[bytes] | None = None
        signal.signal(signal.SIGTERM, self._stop)

    def run(self, arguments: Sequence[str], log: Path, while_it_runs: Callable[[], None]) -> Ended:
        """Runs Python with these arguments and appends the command line and all output to the file `log`. Calls
        `while_it_runs` a few times a second. An exception here, as of Ctrl-C, ends it as SIGTERM does, and waits."""
        if self.stopped:
            return Ended(-signal.SIGTERM, 0.0, 0)
        start = time.monotonic()
        with log.open("ab") as file:
            file.write(f"$ python {shlex.join(arguments)}\n".encode())
            file.flush()
            child = subprocess.Popen([sys.executable, *arguments], stdout=file, stderr=subprocess.STDOUT)
        self._child = child
        try:
            if self.stopped:  # before it was known here
                child.terminate()
            while True:
                pid, status, usage = os.wait4(child.pid, os.WNOHANG)
                if pid:
                    break
                while_it_runs()
                time.sleep(POLL)
        except BaseException:
            child.terminate()
            child.wait()
            raise
        finally:
            self._child = None
        child.returncode = os.waitstatus_to_exitcode(status)
        unit = 1 if sys.platform == "darwin" else 1024
        return Ended(child.returncode, time.monotonic() - start, usage.ru_maxrss * unit)

    def _stop(self, *_: Any) -> None:
        self.stopped = True
        if self._child is not None:
            with suppress(ProcessLookupError):
                self._child.terminate()
