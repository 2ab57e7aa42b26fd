"""Runs with several processes, one per host: starting them, keeping them in step, ending them together.

Every process runs the same program on its own devices. Only process 0 writes logs, metrics, figures and the config; all
processes write checkpoints, into one shared folder. Values that decide the control flow are broadcast from process 0
(`broadcast`): a process that enters a collective operation alone waits forever.
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

HEARTBEAT_SECONDS = 55  # JAX's time-out; the watchdog's is shorter


class DistributedError(ValueError):
    """The processes cannot run together; the message says why."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """How this process finds the others. All None: JAX reads it from the environment (TPU pods, Slurm).

    coordinator: "address:port" of process 0; process_id: of this process, counted from 0.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `hosts` reads."""
    group = parser.add_argument_group("several hosts")
    # nargs="?": a missing value gets the error of `hosts`
    group.add_argument("--distributed", nargs="?", const="", metavar="auto", help="read the rest from the environment")
    group.add_argument("--coordinator", nargs="?", const="", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num_processes", nargs="?", const="", metavar="N", help="number of processes")
    group.add_argument("--process_id", nargs="?", const="", metavar="I", help="index of this process, from 0")


def hosts(options: argparse.Namespace) -> Hosts | None:
    """The hosts given by `--coordinator=HOST:PORT --num_processes=N --process_id=I` or `--distributed=auto`; None for a
    single process. Raises UsageError."""
    names = ("coordinator", "num_processes", "process_id")
    if options.distributed not in (None, "auto", "off"):
        raise UsageError(f"--distributed={options.distributed}: it must be auto or off")
    given = [name for name in names if getattr(options, name) is not None]
    if options.distributed == "auto":
        if given:
            raise UsageError(f"--distributed=auto reads --{given[0]} from the environment; give one of the two")
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
        raise UsageError(f"--process_id={own}: it must be below --num_processes={count}")
    if not options.coordinator.rpartition(":")[2].isdecimal() or ":" not in options.coordinator:
        raise UsageError(f"--coordinator={options.coordinator}: it must be the HOST:PORT of process 0")
    return Hosts(options.coordinator, count, own)


@contextmanager
def initialized(hosts: Hosts | None) -> Iterator[None]:
    """Connects to the other processes; inside, `jax.devices()` lists the devices of all. To be entered first.

    An error inside ends this process at once with one line and exit code 1 (Ctrl-C: 130), because a normal exit would
    wait for the others; their watchdogs then end them too. Only process 0 keeps its standard output.
    """
    if hosts is None:
        yield
        return
    _initialize(hosts)
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, open until the process ends
    watchdog = Watchdog(jax.process_index(), jax.process_count())
    try:
        yield
    except BaseException as error:  # also Ctrl-C
        _end(error, watchdog)
    watchdog.succeed()
    jax.distributed.shutdown()


def is_first() -> bool:
    """Whether this is process 0, which writes the logs and files."""
    return jax.process_index() == 0


def broadcast(value: int) -> int:
    """The value of process 0, on every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def check_same(what: str, digest: bytes) -> None:
    """Raises DistributedError if the `digest` of `what` differs between this process and process 0."""
    if jax.process_count() == 1:
        return
    own = np.frombuffer(digest[:16], np.int32)
    if not np.array_equal(multihost_utils.broadcast_one_to_all(own), own):
        raise DistributedError(f"{what} of process {jax.process_index()} differs from that of process 0")


@contextmanager
def first_before_others() -> Iterator[None]:
    """Process 0 runs the block first, then the others do, so they find what it wrote to a shared folder."""
    if jax.process_count() == 1:
        yield
        return
    if not is_first():
        multihost_utils.sync_global_devices("process 0 is done")
    yield
    if is_first():
        multihost_utils.sync_global_devices("process 0 is done")


class StopRequest:
    """Polls for SIGTERM, which schedulers send before they take a machine away.

    With several processes, JAX's preemption service receives the signal and picks one step at which all of them stop.
    """

    def __init__(self) -> None:
        self._signalled = False
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._on_signal)

    def at(self, step: int) -> bool:
        """Whether to stop after `step`; the same on all processes. Call it at every step, in order."""
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
    """Prints one line (for a bug or with --debug also a traceback) and exits without waiting for the others."""
    known = ValueError | OSError | ImportError | KeyboardInterrupt | jax.errors.JaxRuntimeError
    if "--debug" in sys.argv or not isinstance(error, known):
        traceback.print_exception(error)
    line = one_line(error)[:300]
    if isinstance(error, jax.errors.JaxRuntimeError):
        line = (
            "a step failed, most likely because another process has ended; start all of them again to go on from"
            f" the last checkpoint ({line})"
        )
    elif isinstance(error, KeyboardInterrupt):
        line = "interrupted"
    elif not isinstance(error, ValueError | OSError):
        line = f"{type(error).__name__}: {line}"
    print(f"error: process {jax.process_index()} of {jax.process_count()}: {line}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    watchdog.fail(line)
    os._exit(130 if isinstance(error, KeyboardInterrupt) else 1)
