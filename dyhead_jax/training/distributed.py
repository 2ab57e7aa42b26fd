"""Several processes, one a host: their start, what they agree on, and that none outlives another.

Each process runs the same program on its own devices. Process 0 alone writes logs, metrics, figures and the config; all
write checkpoints, into one folder that all see. What decides the control flow is taken from process 0 by `agreed`, as a
process that alone enters a collective operation waits for ever.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dyhead_jax.command import UsageError, one_line
from dyhead_jax.training.watchdog import Watchdog

HEARTBEAT_SECONDS = 55  # of JAX; the watchdog's are shorter


class DistributedError(ValueError):
    """Processes that cannot work together; the message says why."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """How this process finds the others. None everywhere: from the environment, as on TPU pods and under Slurm.

    coordinator: "address:port" of process 0; num_processes; process_id: of this one, from 0.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `hosts` reads."""
    group = parser.add_argument_group("several hosts")
    # an absent value gets this module's own error
    group.add_argument("--distributed", nargs="?", const="", metavar="auto", help="find the others by the environment")
    group.add_argument("--coordinator", nargs="?", const="", metavar="HOST:PORT", help="of process 0")
    group.add_argument("--num_processes", nargs="?", const="", metavar="N", help="how many there are")
    group.add_argument("--process_id", nargs="?", const="", metavar="I", help="of this one, from 0")


def hosts(options: argparse.Namespace) -> Hosts | None:
    """The hosts that `--coordinator=HOST:PORT --num_processes=N --process_id=I` or `--distributed=auto` name, None for
    one process. Raises UsageError."""
    names = ("coordinator", "num_processes", "process_id")
    if options.distributed not in (None, "auto", "off"):
        raise UsageError(f"--distributed={options.distributed}: it may be auto or off")
    given = [name for name in names if getattr(options, name) is not None]
    if options.distributed == "auto":
        if given:
            raise UsageError(f"--distributed=auto takes --{given[0]} from the environment; give one of the two")
        return Hosts()
    if not given:
        return None
    missing = [name for name in names if name not in given]
    if missing:
        raise UsageError(f"--{given[0]} needs --{missing[0]} too")
    numbers = {}
    for name in ("num_processes", "process_id"):
        text = getattr(options, name)
        if not text.isdecimal():
            raise UsageError(f"--{name}={text}: it must be a whole number")
        numbers[name] = int(text)
    count, own = numbers["num_processes"], numbers["process_id"]
    if own >= count:
        raise UsageError(f"--process_id={own} of --num_processes={count}: it must be below")
    if not options.coordinator.rpartition(":")[2].isdecimal() or ":" not in options.coordinator:
        raise UsageError(f"--coordinator={options.coordinator}: it must be HOST:PORT, of process 0")
    return Hosts(options.coordinator, count, own)


@contextmanager
def together(hosts: Hosts | None) -> Iterator[None]:
    """Joins the other processes; inside, `jax.devices()` are those of all. Call it before anything uses a device.

    An error inside ends this process at once, with its one line and exit code 1, since an ordinary exit would wait
    for the others: these lose it, and end likewise. Standard output is process 0's alone.
    """
    if hosts is None:
        yield
        return
    _initialize(hosts)
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, lives as long as the process
    watchdog = Watchdog(jax.process_index(), jax.process_count())
    try:
        yield
    except BaseException as error:  # also Ctrl-C
        _end(error, watchdog)
    watchdog.finish()
    jax.distributed.shutdown()


def is_first() -> bool:
    """Whether this is process 0, the one that writes."""
    return jax.process_index() == 0


def agreed(value: int) -> int:
    """Process 0's value, on all."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def check_same(what: str, digest: bytes) -> None:
    """Raises DistributedError when a process has another `digest` of `what` than process 0."""
    if jax.process_count() == 1:
        return
    own = np.frombuffer(digest[:16], np.int32)
    if not np.array_equal(multihost_utils.broadcast_one_to_all(own), own):
        raise DistributedError(f"{what} of process {jax.process_index()} is not that of process 0")


@contextmanager
def first_before_others() -> Iterator[None]:
    """Process 0 goes through the block, then the others do: what it leaves in a shared folder they find."""
    if jax.process_count() == 1:
        yield
        return
    if not is_first():
        multihost_utils.sync_global_devices("the first is through")
    yield
    if is_first():
        multihost_utils.sync_global_devices("the first is through")


class StopRequest:
    """SIGTERM, which schedulers send before they take a machine away, as a question to ask at each step.

    With several processes JAX's preemption service takes the signal and tells all of them of one step to stop at.
    """

    def __init__(self) -> None:
        self._signalled = False
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._on_signal)

    def at(self, step: int) -> bool:
        """Whether to stop after `step`: the same answer on all processes. To be asked at every step, in order."""
        if jax.process_count() == 1:
            return self._signalled
        return multihost_utils.reached_preemption_sync_point(step)

    def _on_signal(self, *_: Any) -> None:
        self._signalled = True


def _initialize(hosts: Hosts) -> None:
    try:
        jax.distributed.initialize(
            hosts.coordinator,
            hosts.num_processes,
            hosts.process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        where = hosts.coordinator or "the environment"
        raise DistributedError(f"the processes did not find each other by {where}: {one_line(error)[:300]}") from error


def _end(error: BaseException, watchdog: Watchdog) -> None:
    """Prints one line (of a bug, or with --debug, the traceback) and ends this process without waiting for others."""
    if "--debug" in sys.argv or not isinstance(error, ValueError | OSError | ImportError | jax.errors.JaxRuntimeError):
        traceback.print_exception(error)
    line = one_line(error)[:300]
    if isinstance(error, jax.errors.JaxRuntimeError):
        line = (
            "a step failed, most likely since another process has ended; start all of them again to go on from the"
            f" last checkpoint ({line})"
        )
    elif not isinstance(error, ValueError | OSError):
        line = f"{type(error).__name__}: {line}"
    print(f"error: process {jax.process_index()} of {jax.process_count()}: {line}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    watchdog.fail(line)
    os._exit(1)
