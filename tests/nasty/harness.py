"""Runs a command of this package in this process, and says what is wrong with how it ended.

Whatever it is given, a command ends with exit code 0, or with lines `error: ...` that name the file; it prints no
traceback and nothing of a library's own, takes no more time and memory than its limits, starts no program and writes
nowhere but where it was told to.
"""

import io
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dyhead_jax import command

SECONDS = 60.0  # for a command on a few small files, when many others run beside it
CPU_SECONDS = 10.0
BYTES = 1_200_000_000  # more than the process had at most before
_LIBTIFF = re.compile(r"(TIFF|_TIFF|LZW|ZIP|Fax|JPEGLib|PackBits|OJPEG)\w*: ")  # prints by itself; see docs/promises.md
_LINES = ("error: ", "warning: ", "note: ", "drawing ")  # the last of the drawn shapes
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
_OWN = ("__pycache__", ".jax_cache", "/dev/")


class Hang(BaseException):
    """A command took too long; no `except Exception` may swallow that."""


@dataclass
class Ended:
    """How a command ended. code: None for an error that was no one-line error; seconds: of the processor; grown: bytes
    above what the process had at most before; acted: what it did beside its work."""

    code: int | None
    out: str
    err: str
    seconds: float
    grown: int
    acted: list[str] = field(default_factory=list)

    def fault(self, names: Sequence[str]) -> str | None:
        """What is wrong, None if nothing is. names: an error must have one of them."""
        if self.code is None or "Traceback (most recent call last)" in self.err + self.out:
            return f"traceback: {self.err.strip().splitlines()[-1:]}\n{self.err[-3000:]}"
        if self.acted:
            return f"acted: {self.acted[:4]}"
        if self.seconds > CPU_SECONDS:
            return f"took {self.seconds:.1f} s"
        if self.grown > BYTES:
            return f"took {self.grown / 1e6:.0f} MB"
        lines = [line for line in self.err.splitlines() if not _LIBTIFF.match(line)]
        if strange := [line for line in lines if not line.startswith(_LINES)]:
            return f"on standard error: {strange[:3]}"
        errors = [line for line in lines if line.startswith("error: ")]
        if self.code not in (0, 1, 2) or bool(errors) != (self.code > 0):
            return f"exit code {self.code} with {errors[:2]}"
        if nameless := [line for line in errors if not any(name in line for name in names)]:
            return f"names no file: {nameless[0][:300]}"
        if long := [line for line in errors if len(line) > 1500]:
            return f"a line of {len(long[0])} characters: {long[0][:100]}"
        return None


_watched: list[str] | None = None
_allowed: tuple[str, ...] = ()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    if event in _STARTS:
        if "fc-list" not in str(arguments):  # by which Matplotlib finds fonts
            _watched.append(f"{event} {str(arguments)[:200]}")
    elif event == "open" and isinstance(arguments[0], str | bytes) and isinstance(arguments[2], int):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            _note_change(event, arguments[0])
    elif event in _CHANGES:
        for path in arguments[: 2 if event in ("os.rename", "os.symlink", "os.link") else 1]:
            if isinstance(path, str | bytes | os.PathLike):
                _note_change(event, path)


def _note_change(event: str, path: Any) -> None:
    assert _watched is not None
    whole = os.path.abspath(os.fsdecode(path))
    if not whole.startswith(_allowed) and not any(part in whole for part in _OWN):
        _watched.append(f"{event} {whole}")


_hooked = False


@contextmanager
def watched(allowed: Sequence[Path]) -> Iterator[list[str]]:
    """Yields a list that takes what the block does to files outside the folders `allowed`, and what it starts."""
    global _watched, _allowed, _hooked
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked = True
    _watched, _allowed = [], tuple(str(path) for path in allowed)
    try:
        yield _watched
    finally:
        _watched = None


@contextmanager
def _captured() -> Iterator[list[str]]:
    """Yields a list that has standard output and standard error at the end, what libraries in C print included."""
    before, saved = (sys.stdout, sys.stderr), (os.dup(1), os.dup(2))
    texts: list[str] = []
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        before[0].flush()
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout = io.TextIOWrapper(os.fdopen(os.dup(1), "wb"), "utf-8", "strict")
        sys.stderr = io.TextIOWrapper(os.fdopen(os.dup(2), "wb"), "utf-8", "backslashreplace", write_through=True)
        try:
            yield texts
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.close()
            sys.stdout, sys.stderr = before
            for number, old in zip((1, 2), saved, strict=True):
                os.dup2(old, number)
                os.close(old)
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode("utf-8", "replace"))


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises Hang in a block that takes longer."""

    def stop(*_: Any) -> None:
        raise Hang

    before, left = signal.signal(signal.SIGALRM, stop), signal.getitimer(signal.ITIMER_REAL)[0]
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, 1.0)
        signal.signal(signal.SIGALRM, before)


def _show_warning(*arguments: Any) -> None:
    """As Python does, and pytest does not."""
    sys.stderr.write(warnings.formatwarning(*arguments[:4]))


def run(main: Callable[[], int | None], *arguments: object, folder: Path, allowed: Sequence[Path] = ()) -> Ended:
    """Calls the main function of a command. folder: the current one of the command; allowed: where it may write."""
    argv, cwd, path = sys.argv, os.getcwd(), list(sys.path)
    code: int | None = None
    raised, begin, most = "", time.process_time(), _most_bytes()
    with _captured() as texts, watched(allowed) as acted, warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        sys.argv = ["command", *map(str, arguments)]
        os.chdir(folder)
        try:
            with limited(SECONDS):
                command.run(main)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except Hang:
            raised = f"Traceback (most recent call last): hangs\n{traceback.format_exc()}"
        except BaseException:
            raised = traceback.format_exc()
        finally:
            os.chdir(cwd)
            sys.argv, sys.path[:] = argv, path
    seconds = time.process_time() - begin
    return Ended(code, texts[0], texts[1] + raised, seconds, _most_bytes() - most, acted)


def _most_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
