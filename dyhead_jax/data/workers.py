"""The processes that load data: they leave signals to the training process and end when it does."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def undisturbed() -> Iterator[None]:
    """Processes that are started inside do not receive Ctrl-C and SIGTERM, which reach a terminal's or a scheduler's
    whole group of processes: the training process ends them, in its own time."""
    sys.warnoptions.append("ignore:resource_tracker")  # of a killed run; it removes the shared memory all the same
    resource_tracker.ensure_running()  # it would let the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        sys.warnoptions.remove("ignore:resource_tracker")
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(index: int, count: int) -> None:
    """Run in a worker process: it ends when the training process does, even when that is killed."""
    del index, count
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
