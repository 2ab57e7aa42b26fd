"""Files and folders that are written whole or not at all, and JSON that is read whole or not at all."""

import contextlib
import fcntl
import glob
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def parse_json(text: str) -> Any:
    """What the JSON text holds.

    Raises ValueError for an object that has a key twice, of which Python would keep the last, for what is not JSON, and
    for an integer of 4,300 digits; RecursionError for a thousand levels.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"an object has the key {twice[:60]!r} twice")
    return found


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` to the file `path` as `atomic` does."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError inside that names no file, as that of a write to a full disk, names the file `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, for a writer that takes a path; when the block ends it becomes `path`.

    The temporary file is hidden and has the ending of `path`. It is synced to disk before it replaces `path` in one
    step, so that a kill or a power failure leaves the old file or the new one. When the block raises, `path` is as it
    was and the temporary file is removed; a kill leaves it behind. Of two writers at once the last one wins, and both
    files are whole.
    """
    stem = path.stem[:40]  # the name of `path` may be as long as the file system allows
    temporary = path.with_name(f".{stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        with naming(temporary):
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename == str(temporary):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a hidden, empty folder beside `path` to fill; when the block ends it becomes the folder `path`.

    Its files are synced to disk first. When the block raises, it is removed; a kill leaves it behind until the next
    call for the same path. A `path` that is there already stays: of two writers at once the first to end wins.
    """
    start = f".incomplete-{path.name}-"
    for left in path.parent.glob(f"{glob.escape(start)}" + "[0-9a-f]" * 8):
        _remove_if_abandoned(left)
    hidden, lock = _locked_folder(path.parent, start)
    try:
        yield hidden
        for file in hidden.rglob("*"):
            if file.is_file():
                _sync(file)
        try:
            os.rename(hidden, path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        os.close(lock)


def _locked_folder(parent: Path, start: str) -> tuple[Path, int]:
    """A new folder and the descriptor of a lock on it, which ends with this process."""
    while True:
        folder = parent / f"{start}{secrets.token_hex(4)}"
        folder.mkdir()
        lock = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # else another process took it for abandoned before it was locked
            return folder, lock
        os.close(lock)


def _remove_if_abandoned(folder: Path) -> None:
    """Removes a folder of `_locked_folder` whose process has ended."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass  # its process is at work
    finally:
        os.close(lock)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
