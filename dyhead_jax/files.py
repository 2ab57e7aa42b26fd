"""Files and folders that are written whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
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

    Its files are synced to disk first. When the block raises, it is removed; a kill leaves it behind. A `path` that
    is there already stays: of two writers at once the first to end wins.
    """
    hidden = path.with_name(f".incomplete-{path.name}-{secrets.token_hex(4)}")
    hidden.mkdir()
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


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
