"""Runs of the tiny detector in processes of their own, for the harness and its short form."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from dyhead_jax.config import load_file
from dyhead_jax.training import checkpoint, optim, steps
from tests.data.folders import write_split
from tests.tiny_detector import CANVAS, TinyDetector, leaves

ROOT = Path(__file__).resolve().parents[2]
STEPS = 24
CLOCK = ("train/images_per_second", "train/input_wait")
TIMEOUT = 300

CONFIG = '''"""A run of the tiny detector."""

from dyhead_jax.config import CocoFolderConfig, Config, DataConfig, ModelConfig, OptimConfig, RunConfig


def get_config():
    return Config(
        model=ModelConfig(num_classes=2),
        data=DataConfig(
            source=CocoFolderConfig(root={root!r}),
            canvases=((8, 8),), short_side=(8,), long_side=8, batch_size=4, eval_batch_size=4, max_boxes=3,
        ),
        optim=OptimConfig(learning_rate=0.002, warmup_steps=2, ema=0.9, clip_norm=1.0),
        run=RunConfig(
            steps={steps}, eval_every=10, checkpoint_every=4, max_to_keep=2, log_every=1, parallel="single",
            figure_images=0, compilation_cache={cache!r},
        ),
    )
'''


class Process:
    """A run that has started. `out` and `error` grow while it goes on."""

    def __init__(self, line: list[str], environment: dict[str, str], **options: Any):
        self.popen = subprocess.Popen(
            line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True, **options,
        )  # fmt: skip
        self.out = self.error = ""
        self._lines: queue.Queue[str] = queue.Queue()
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_out, self._read_error)]
        for reader in self._readers:
            reader.start()

    def _read_out(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as stream:
            for line in stream:
                self.out += line
                self._lines.put(line)

    def _read_error(self) -> None:
        assert self.popen.stderr is not None
        with self.popen.stderr as stream:
            for line in stream:
                self.error += line

    def wait_for(self, text: str) -> bool:
        """Whether a line that starts with `text` came before the run ended."""
        until = time.monotonic() + TIMEOUT
        while time.monotonic() < until:
            try:
                if self._lines.get(timeout=0.02).startswith(text):
                    return True
            except queue.Empty:
                if self.popen.poll() is not None:
                    return False
        raise AssertionError(f"no line {text!r} in {TIMEOUT} s\n{self.out[-500:]}\n{self.error[-2000:]}")

    def wait_until(self, true: Any) -> bool:
        """Whether `true()` became true before the run ended."""
        until = time.monotonic() + TIMEOUT
        while self.popen.poll() is None and time.monotonic() < until:
            if true():
                return True
            time.sleep(0.001)
        return False

    def send(self, number: int, group: bool = False) -> None:
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, number) if group else self.popen.send_signal(number)

    def end(self, limit: float = TIMEOUT) -> int:
        """Waits for the end, `limit` seconds at most; nothing of the group may be left then. Returns the exit code."""
        try:
            self.popen.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(self.popen.pid, signal.SIGKILL)
            raise AssertionError(f"still there after {limit} s\n{self.out[-500:]}\n{self.error[-2000:]}") from None
        for reader in self._readers:
            reader.join(TIMEOUT)  # a worker that is left holds the pipe open
            assert not reader.is_alive(), f"processes are left\n{self.error}"
        return self.popen.returncode

    def workers(self) -> list[int]:
        """Process ids of the loading processes that have come up."""
        found = subprocess.run(["ps", "-o", "pid=,args=", "-g", str(self.popen.pid)], capture_output=True, text=True)
        lines = [line.split(None, 1) for line in found.stdout.splitlines()]
        return [int(pid) for pid, words in lines if "spawn_main" in words]


class Runs:
    def __init__(self, folder: Path):
        self.folder = folder
        rng = np.random.default_rng(0)
        for name, count in (("train", 13), ("val", 5)):
            boxes = [[[1.0, 1.0, *rng.uniform(2, 6, 2).tolist()]] * (1 + i % 3) for i in range(count)]
            write_split(folder / "data", name, [(8, 8)] * count, boxes)
        self.config = folder / "tiny.py"
        self.config.write_text(CONFIG.format(root=str(folder / "data"), steps=STEPS, cache=str(folder / "cache")))
        flags = "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0"
        self.environment = os.environ | {
            "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }  # fmt: skip
        for name in ("JAX_COMPILATION_CACHE_DIR", "TF_CPP_MIN_LOG_LEVEL"):
            self.environment.pop(name, None)
        self.whole = folder / "whole"
        self.finish(self.whole)

    def start(
        self, folder: Path, *arguments: str, seconds: float = 0.03, module: str = "tests.faults.program", **options: Any
    ) -> Process:
        program = [sys.executable, "-um", module, str(seconds)]
        line = [*program, f"--config={self.config}", f"--workdir={folder}", *arguments]
        return Process(line, self.environment, **options)

    def finish(self, folder: Path, *arguments: str) -> str:
        """Runs to the end; returns what was printed."""
        process = self.start(folder, *arguments, seconds=0.0)
        code = process.end()
        assert code == 0, f"exit code {code}\n{process.error}"
        assert process.out.splitlines()[-1].startswith("AP "), process.out
        assert_quiet(process, 0)
        return process.out

    def assert_whole(self, folder: Path) -> None:
        """The run in the folder has ended as one that nothing befell, to the bit."""
        assert rows(folder) == rows(self.whole)
        ours, wanted = state(folder), state(self.whole)
        assert ours.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_array_equal(ours[name], value, err_msg=name)

    def fresh(self, name: str) -> Path:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder


def assert_quiet(process: Process, lines: int = 1) -> None:
    """Standard error has at most so many lines, warnings about damage aside, and no traceback."""
    found = [line for line in process.error.splitlines() if not line.startswith("warning: ")]
    assert "Traceback" not in process.error, process.error
    assert len(found) <= lines, process.error


def rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what a clock gave."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in found]


def like(folder: Path) -> Any:
    """Shapes of the state of a run."""
    config = load_file(folder / "config.json")
    parameters = steps.survey(TinyDetector(), CANVAS)
    optimizer = optim.make_optimizer(config.optim, STEPS, parameters)
    return steps.abstract_state(parameters, optimizer, config.seed, ema=config.optim.ema)


def state(folder: Path, step: int = STEPS) -> dict[str, np.ndarray]:
    with checkpoint.Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        return leaves(checkpoints.restore(step, like(folder))[0])
