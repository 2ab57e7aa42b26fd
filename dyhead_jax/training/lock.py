"""One run at a time in a workdir: a lock that ends with its process, however that ends."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dyhead_jax.files import naming

FILE = ".lock"

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class LockError(ValueError):
    """Another run is going on in the folder; the message names its host and process id."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, which is created if missing, and removed again if nothing came into it.

    The file `.lock` holds host and process id, and is removed at the end; what counts is the lock of the operating
    system (flock), which a killed process loses. Raises LockError. Where the system has no locks that is said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    number = _locked(path)
    try:
        yield
    finally:
        with suppress(OSError):  # a folder that was deleted, or can no longer be written
            path.unlink()
        os.close(number)
        with suppress(OSError):  # not empty
            folder.rmdir()


def _locked(path: Path) -> int:
    """The open, locked file. It is opened again if the run before removed it in the meantime."""
    while True:
        with naming(path):
            number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _try(number, path):
                raise LockError(f"{path.parent}: another run is going on there: {_holder(number)}")
            if _is(number, path):
                os.ftruncate(number, 0)
                with naming(path):
                    os.pwrite(number, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode(), 0)
                return number
        except BaseException:
            os.close(number)
            raise
        os.close(number)


def _try(number: int, path: Path) -> bool:
    """Whether this process has the lock now, or there are no locks."""
    try:
        import fcntl  # not on Windows
    except ImportError:
        print(f"note: {path}: no locks on this system; take care that no second run uses the folder")
        return True
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        print(f"note: {path}: this file system has no locks; take care that no second run uses the folder")
    return True


def _is(number: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(number), path.stat())
    return False


def _holder(number: int) -> str:
    try:
        found = json.loads(os.pread(number, 1000, 0))
        return f"process {int(found['process'])} on {found['host']}"
    except (ValueError, TypeError, KeyError, RecursionError):
        return "a process that has not written its name yet"
