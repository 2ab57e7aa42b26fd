"""Files and folders that are written whole or not at all."""

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from dyhead_jax import files


def test_a_failed_atomic_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file_and_not_the_temporary_one(tmp_path):
    def write(number: int, name: str | None) -> None:
        with files.atomic(tmp_path / "file.txt"):
            raise OSError(number, os.strerror(number), name)

    for name, wanted in ((None, str(tmp_path / "file.txt")), ("/other", "/other")):
        with pytest.raises(OSError, match="No space left") as error:
            write(errno.ENOSPC, name)
        assert error.value.filename == wanted


def test_a_writer_that_raises_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes(b"old")

    def write() -> None:
        with files.atomic(path) as temporary:
            temporary.write_bytes(b"ne")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_has_the_ending(tmp_path):
    """NumPy would add one of its own."""
    path = tmp_path / "arrays.npz"
    with files.atomic(path) as temporary:
        assert not path.exists()
        np.savez(temporary, a=np.arange(3))
    assert list(tmp_path.iterdir()) == [path]
    assert np.load(path)["a"].tolist() == [0, 1, 2]


def test_what_is_written_is_synced_before_it_counts(tmp_path, monkeypatch):
    path, calls = tmp_path / "file", []
    monkeypatch.setattr(files.os, "fsync", lambda number: calls.append(os.fstat(number).st_size))
    replace = files.os.replace
    monkeypatch.setattr(files.os, "replace", lambda *names: (calls.append("replace"), replace(*names)))
    files.write_atomic(path, b"four")
    assert calls == [4, "replace"]


def test_two_writers_at_once_leave_a_whole_file(tmp_path):
    path = tmp_path / "file"
    with files.atomic(path) as first, files.atomic(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"  # the outer block ends last
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_whole_or_absent(tmp_path):
    path = tmp_path / "set"

    def stop() -> None:
        with files.atomic_folder(path) as folder:
            (folder / "a").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert list(tmp_path.iterdir()) == []
    with files.atomic_folder(path) as folder:
        (folder / "below").mkdir()
        (folder / "below" / "a").write_text("2")
        assert not path.exists()
    assert list(tmp_path.iterdir()) == [path]
    with files.atomic_folder(path) as folder:  # a second writer, which ends later
        (folder / "b").write_text("3")
    assert list(tmp_path.iterdir()) == [path]
    assert (path / "below" / "a").read_text() == "2"
    assert path.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_kill_leaves_no_folder(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from dyhead_jax import files\n"
        "with files.atomic_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'a').write_text('1')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path / "set"], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "set").exists()


def test_a_folder_that_a_kill_left_behind_is_removed_and_that_of_another_writer_stays(tmp_path):
    left = tmp_path / ".incomplete-set-0123abcd"
    (left / "below").mkdir(parents=True)
    (tmp_path / ".incomplete-other-0123abcd").mkdir()
    with files.atomic_folder(tmp_path / "set") as first:
        assert not left.exists()
        with files.atomic_folder(tmp_path / "set") as second:
            assert first.is_dir()
            (second / "file").write_text("second")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".incomplete-other-0123abcd", "set"]
    assert (tmp_path / "set" / "file").read_text() == "second"
