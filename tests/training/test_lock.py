"""One run at a time in a folder; the lock ends with its process."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest

from dyhead_jax.training import lock

HOLDER = """
import sys, time
from pathlib import Path
from dyhead_jax.training import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(lock.LockError, match=rf"run: another run is going on there: process {holder.pid} on \S"):
            lock.held(folder).__enter__()
        holder.send_signal(signal.SIGKILL)
    assert (folder / lock.FILE).exists()
    with lock.held(folder):
        assert json.loads((folder / lock.FILE).read_text())["process"] == os.getpid()
        (folder / "config.json").touch()
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_lock_file_with_anything_in_it_is_no_traceback(tmp_path):
    with lock.held(tmp_path):
        for content in (b"[" * 1000, b"\xff", b"[]", b"{}", b""):
            (tmp_path / lock.FILE).write_bytes(content)
            with pytest.raises(lock.LockError, match="another run is going on there: a process that has not written"):
                lock.held(tmp_path).__enter__()


def test_a_folder_into_which_nothing_came_is_removed(tmp_path):
    with lock.held(tmp_path / "a" / "run"):
        pass
    assert not (tmp_path / "a" / "run").exists()


def test_a_lock_file_that_was_removed_meanwhile_is_made_again(tmp_path, monkeypatch):
    """The run before ended between opening and locking."""
    flock, calls = fcntl.flock, []

    def removed(number, operation):
        if not calls:
            (tmp_path / lock.FILE).unlink()
        calls.append(number)
        return flock(number, operation)

    monkeypatch.setattr(fcntl, "flock", removed)
    with lock.held(tmp_path), pytest.raises(lock.LockError):
        lock.held(tmp_path).__enter__()
    assert len(calls) == 3


def test_where_there_are_no_locks_that_is_said(tmp_path, monkeypatch, capsys):
    def unsupported(number, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with lock.held(tmp_path / "run"):
        assert "this file system has no locks" in capsys.readouterr().out
