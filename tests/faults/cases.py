"""What may befall a run. Each case does it at moments drawn from `rng`, and raises AssertionError if anything is lost,
wrong or not said in one line."""

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dyhead_jax.train import STOPPED
from dyhead_jax.training import stored
from tests.faults.damage import flip, remove, shorten, silently_wrong
from tests.faults.runs import STEPS, Runs, assert_quiet, like

KILLS = 20


def kills(runs: Runs, rng: np.random.Generator) -> str:
    """SIGKILL at 20 moments: while a checkpoint is written, in the start, between steps."""
    folder, writing = runs.fresh("killed"), 0
    for i in range(KILLS):
        process = runs.start(folder, seconds=0.06)
        if i % 4 == 0:
            writing += process.wait_until(partial(is_writing, folder / "checkpoints"))
            time.sleep(rng.uniform(0, 0.02))
        elif i % 4 == 1:
            time.sleep(rng.uniform(0, 6))
        elif process.wait_for("step"):
            time.sleep(rng.uniform(0, 0.06 * STEPS / 2))
        process.send(signal.SIGKILL)
        if process.end() == 0:
            runs.assert_whole(folder)
            folder = runs.fresh("killed")
            continue
        assert_quiet(process, 0)
        for step in stored.steps_in(folder / "checkpoints"):
            stored.verify(folder / "checkpoints" / str(step))
    runs.finish(folder)
    runs.assert_whole(folder)
    assert writing, "no kill came while a checkpoint was written"
    return f"{KILLS} kills, {writing} of them while a checkpoint was written; to the bit"


def flips(runs: Runs, rng: np.random.Generator) -> str:
    """One flipped bit in the newest of two checkpoints, 60 times."""
    return silently_wrong(runs.whole, like(runs.whole), rng, [flip] * 60)


def cuts(runs: Runs, rng: np.random.Generator) -> str:
    """One file of the newest of two checkpoints shortened or gone, 30 times."""

    return silently_wrong(runs.whole, like(runs.whole), rng, [shorten, remove] * 15)


def damaged_newest(runs: Runs, rng: np.random.Generator) -> str:
    """A run whose newest checkpoint has a wrong bit goes on from the one before it, says so, and ends as it should."""
    folder = runs.fresh("damaged")
    stop(runs, folder, int(rng.integers(9, 16)))
    newest = max(stored.steps_in(folder / "checkpoints"))
    for path in (folder / "checkpoints" / str(newest) / "variables" / "d").iterdir():
        flip(path, rng)
    process = runs.start(folder, seconds=0.0)
    assert process.end() == 0, process.error
    assert process.error.count("warning: ") == 1, process.error
    assert f"checkpoints/{newest}" in process.error
    assert (folder / "checkpoints" / f"damaged_{newest}").is_dir()
    runs.assert_whole(folder)
    return process.error.strip()[:90]


def full_disk(runs: Runs, rng: np.random.Generator) -> str:
    """A disk that is full while the run begins, or writes its first, second or third checkpoint."""
    said = []
    for kib in (4, *rng.integers(60, 700, 3).tolist()):
        folder = runs.fresh("full")
        with small_disk(folder, f"size={kib}k") as (options, enlarge):
            process = runs.start(folder, seconds=0.1, **options)
            code = process.end()
            if code:
                assert code == 1, process.error
                assert_quiet(process)
                assert "No space left on device" in process.error or "File too large" in process.error, process.error
                said.append(process.error.strip()[-60:])
            enlarge()
            runs.finish(folder)
            runs.assert_whole(folder)
    assert said
    return said[-1]


def read_only(runs: Runs, rng: np.random.Generator) -> str:
    """A folder that cannot be written."""
    folder = runs.fresh("read_only")
    folder.mkdir()
    if mount(folder, "size=1m,ro"):
        try:
            processes = [runs.start(folder), runs.start(folder / "below")]
            codes = [process.end() for process in processes]
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    else:
        folder.chmod(0o555)
        processes = [runs.start(folder), runs.start(folder / "below")]
        codes = [process.end() for process in processes]
        folder.chmod(0o755)
    for process in processes:
        assert_quiet(process)
        assert str(folder) in process.error
    assert codes == [1, 1]
    return processes[0].error.strip()[-40:]


def signals(runs: Runs, rng: np.random.Generator) -> str:
    """Ctrl-C and SIGTERM, to the process or, as a terminal and a scheduler send them, to all of its group, in the start
    and between steps; with and without loading processes."""
    folder, ends = runs.fresh("signals"), []
    for i in range(12):
        number = (signal.SIGINT, signal.SIGTERM)[i % 2]
        process = runs.start(folder, f"--config.data.workers={(0, 2)[i // 2 % 2]}", seconds=0.1)
        if i // 4 == 0:
            time.sleep(rng.uniform(0.3, 6))  # Python itself starts in the first moments
        elif process.wait_for("step"):
            time.sleep(rng.uniform(0, 1.2))
        process.send(number, group=bool(rng.integers(2)))
        code = process.end()
        assert code in ((130, 0) if number == signal.SIGINT else (STOPPED, -signal.SIGTERM, 0)), (
            f"{code}: {process.error}"
        )
        assert_quiet(process)
        ends.append(code)
        if code == 0:
            runs.assert_whole(folder)
            folder = runs.fresh("signals")
    runs.finish(folder)
    runs.assert_whole(folder)
    return f"exit codes {', '.join(map(str, ends))}; to the bit"


def second_run(runs: Runs, rng: np.random.Generator) -> str:
    """A second run in the folder of one that goes on is refused by name, and harms nothing; after a kill it is not."""
    folder = runs.fresh("two")
    first = runs.start(folder, seconds=0.6)
    assert first.wait_for("step")
    second = runs.start(folder)
    assert second.end() == 1
    assert_quiet(second)
    assert f"process {first.popen.pid} on " in second.error, second.error
    assert first.popen.poll() is None, "the first run had ended before"
    first.send(signal.SIGKILL)
    first.end()
    runs.finish(folder)
    runs.assert_whole(folder)
    return second.error.strip()[-70:]


def workers(runs: Runs, rng: np.random.Generator) -> str:
    """A loading process that is killed ends the run with one line; those of a killed run end with it."""
    folder = runs.fresh("workers")
    process = runs.start(folder, "--config.data.workers=2", seconds=0.1)
    assert process.wait_for("step")
    time.sleep(rng.uniform(0, 0.5))
    os.kill(process.workers()[int(rng.integers(2))], signal.SIGKILL)
    assert process.end() == 1, process.error
    assert_quiet(process)
    said = process.error.strip()
    process = runs.start(folder, "--config.data.workers=2", seconds=0.1)
    assert process.wait_for("step")
    process.send(signal.SIGKILL)
    process.end()
    assert_quiet(process, 0)
    runs.finish(folder)
    runs.assert_whole(folder)
    return said[:80]


def memory(runs: Runs, rng: np.random.Generator) -> str:
    """2,000 steps and 50 evaluations: the memory of the process must not grow."""
    folder = runs.fresh("memory")
    many = [
        "--config.run.steps=2000",
        "--config.run.log_every=20",
        "--config.run.eval_every=40",
        "--config.run.checkpoint_every=100",
    ]
    process = runs.start(folder, *many, seconds=0.0, module="tests.faults.memory")
    assert process.end(limit=1_500) == 0, process.error  # 90 s on two idle cores
    [line] = [line for line in process.out.splitlines() if line.startswith("memory: ")]
    slope = float(line.split()[1])
    assert slope < MAX_SLOPE, line
    return line


MAX_SLOPE = 10.0  # MB in 1,000 steps


CASES = {
    case.__name__: case
    for case in (
        kills, flips, cuts, damaged_newest, full_disk, read_only, signals, second_run, workers, memory
    )
}  # fmt: skip


def is_writing(folder: Path) -> bool:
    return any(folder.glob("*orbax-checkpoint-tmp*"))


def stop(runs: Runs, folder: Path, step: int) -> None:
    process = runs.start(folder, seconds=0.1)
    assert process.wait_for(f"step {step}/"), process.error
    process.send(signal.SIGTERM)
    assert process.end() == STOPPED, process.error


def mount(folder: Path, options: str) -> bool:
    """Whether a file system in memory is there now; only root may."""
    line = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(line, capture_output=True).returncode == 0


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """A folder on a small disk, and what makes the disk large; where none can be mounted, options for a process whose
    files may only have 3 kB."""
    folder.mkdir()
    if not mount(folder, options):
        limit = (3000, 3000)
        yield {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)}, lambda: None
        return
    try:
        yield {}, lambda: subprocess.run(["mount", "-o", "remount,size=100m", str(folder)], check=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
