"""Two processes with four devices each do what one process with eight does, stop together and end together; devices may
come and go; any number of processes finds the same AP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dyhead_jax import command, detectors, train
from dyhead_jax.config import Config, flags, load_file
from dyhead_jax.data import box_counts
from dyhead_jax.training import checkpoint, distributed, optim, steps
from tests.data.folders import write_split
from tests.evaluation.test_evaluate import Squares
from tests.tiny_detector import CANVAS, TinyDetector, leaves
from tests.training import distributed_evaluate, distributed_run

ROOT = Path(__file__).resolve().parents[2]
STEPS = 40

CONFIG = '''"""A run of the tiny detector."""

from dyhead_jax.config import CocoFolderConfig, Config, DataConfig, ModelConfig, OptimConfig, RunConfig


def get_config():
    return Config(
        model=ModelConfig(num_classes=2),
        data=DataConfig(
            source=CocoFolderConfig(root={root!r}),
            canvases=((8, 8),), short_side=(8,), long_side=8, batch_size=16, eval_batch_size=6, max_boxes=3,
        ),
        optim=OptimConfig(learning_rate=0.002, warmup_steps=2, ema=0.9, clip_norm=1.0),
        run=RunConfig(
            steps={steps}, eval_every=0, checkpoint_every=4, log_every=1, parallel="jit", figure_images=0,
            compilation_cache="off",
        ),
    )
'''


# The command line


def hosts(*arguments: str) -> distributed.Hosts | None:
    parser = command.parser("program", "")
    distributed.add_options(parser)
    return distributed.hosts(command.parse(parser, arguments))


def test_flags_of_hosts() -> None:
    found = hosts("--coordinator=10.0.0.1:1234", "--num_processes", "4", "--process_id=3")
    assert found == distributed.Hosts("10.0.0.1:1234", 4, 3)
    assert hosts() is None
    assert hosts("--distributed=off") is None
    assert hosts("--distributed=auto") == distributed.Hosts()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coordinator=a:1"], "--coordinator needs --num_processes too"),
        (["--coordinator=a:1", "--num_processes=2"], "needs --process_id too"),
        (["--coordinator=a:1", "--num_processes=2", "--process_id=2"], "must be below"),
        (["--coordinator=a:1", "--num_processes=two", "--process_id=0"], "whole number"),
        (["--coordinator=a", "--num_processes=2", "--process_id=0"], "HOST:PORT"),
        (["--coordinator", "--num_processes=2", "--process_id=0"], "HOST:PORT"),
        (["--distributed=yes"], "auto or off"),
        (["--distributed=auto", "--process_id=0"], "give one of the two"),
    ],
)
def test_wrong_flags_of_hosts_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(command.UsageError, match=message):
        hosts(*arguments)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [(KeyboardInterrupt(), 130, "interrupted"), (ValueError("a.json: broken"), 1, "a.json: broken")],
)
def test_a_process_that_ends_says_so_in_one_line_and_tells_the_others(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[Any] = []
    monkeypatch.setattr(distributed.os, "_exit", ended.append)

    class Others:
        fail = ended.append

    distributed._end(error, Others())  # type: ignore[arg-type]
    assert ended == [line, code]
    assert capsys.readouterr().err == f"error: process 0 of 1: {line}\n"


# Whole runs


class Runs:
    def __init__(self, folder: Path):
        rng = np.random.default_rng(0)
        for name, count in (("train", 37), ("val", 11)):  # 11 is a multiple of nothing
            boxes = [[[1.0, 1.0, *rng.uniform(2, 6, 2).tolist()]] * (1 + i % 3) for i in range(count)]
            write_split(folder / "data", name, [(8, 8)] * count, boxes)
        self.config = folder / "tiny.py"
        self.config.write_text(CONFIG.format(root=str(folder / "data"), steps=STEPS))
        self.cache = f"--config.run.compilation_cache={folder / 'cache'}"  # of processes of their own
        self.environment = dict(os.environ)
        for name in ("JAX_COMPILATION_CACHE_DIR", "TF_CPP_MIN_LOG_LEVEL"):
            self.environment.pop(name, None)

    def alone(self, folder: Path, *arguments: str) -> None:
        """One process with eight devices: this one."""
        line = [f"--config={self.config}", f"--workdir={folder}", *arguments]
        parsed = flags.parse(flags.parser("train.py", ""), line)
        assert parsed is not None
        config, options = parsed
        before = signal.getsignal(signal.SIGTERM)
        try:
            train.train(config, options.workdir)
        finally:
            signal.signal(signal.SIGTERM, before)

    def pair(self, folder: Path, *arguments: str, seconds: float = 0.0) -> "Processes":
        return self.start(2, 4, self.line(folder, seconds, *arguments))

    def single(self, devices: int, folder: Path, *arguments: str, seconds: float = 0.0) -> "Processes":
        """One process of its own."""
        return self.start(1, devices, self.line(folder, seconds, *arguments))

    def line(self, folder: Path, seconds: float, *arguments: str) -> list[str]:
        return [str(seconds), f"--config={self.config}", f"--workdir={folder}", self.cache, *arguments]

    def start(self, count: int, devices: int, arguments: list[str], module: str = "distributed_run") -> "Processes":
        """`count` processes of tests.training.`module`, each with so many devices."""
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        environment = self.environment | {"XLA_FLAGS": flags}
        return Processes(count, [sys.executable, "-um", f"tests.training.{module}", *arguments], environment)


class Processes:
    def __init__(self, count: int, program: list[str], environment: dict[str, str]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            together = [f"--coordinator=127.0.0.1:{free.getsockname()[1]}", f"--num_processes={count}"]
        self.processes = [
            subprocess.Popen(
                [*program, *together, f"--process_id={i}"] if count > 1 else program,
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(count)
        ]
        self.read = ""  # of process 0's output

    def wait_for(self, text: str) -> None:
        """Reads what process 0 prints until a line starts with `text`."""
        assert self.processes[0].stdout is not None
        for line in self.processes[0].stdout:
            self.read += line
            if line.startswith(text):
                return
        raise AssertionError(self.end())

    def end(self) -> list[tuple[int, str, str]]:
        ends = []
        for process in self.processes:
            try:
                out, error = process.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                process.kill()
                out, error = process.communicate()
                error += "\nTIMEOUT"
            ends.append((process.returncode, out, error))
        code, out, error = ends[0]
        ends[0] = code, self.read + out, error
        return ends


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def rows(folder: Path) -> dict[tuple[int, bool], dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], "eval/AP" in line): line for line in lines}


def state(folder: Path) -> dict[str, np.ndarray]:
    config: Config = load_file(folder / "config.json")
    model = TinyDetector()

    parameters = steps.survey(model, CANVAS)
    optimizer = optim.make_optimizer(config.optim, STEPS, parameters)
    like = steps.abstract_state(parameters, optimizer, config.seed, ema=config.optim.ema)
    with checkpoint.Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        found, _ = checkpoints.restore(STEPS, like)
    return leaves(found)


@pytest.fixture(scope="module")
def one(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing befell."""
    folder = tmp_path_factory.mktemp("one") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detectors, "build", detectors.build)
        distributed_run.tiny()
        runs.alone(folder)
    return folder


def assert_same_run(folder: Path, one: Path) -> None:
    """Every line of metrics and the last state, as far as the order of sums on devices allows. Losses of the same steps
    agree only where batches have the same images in them."""
    ours, wanted = rows(folder), rows(one)
    assert ours.keys() == wanted.keys()
    for key, row in wanted.items():
        for name, value in row.items():
            if name in ("train/images_per_second", "train/input_wait"):
                continue
            if name.removeprefix("train/") in box_counts.NAMES:  # of process 0 alone
                assert ours[key][name] <= value
                continue
            if name.startswith("eval/"):
                assert ours[key][name] == value, (key, name)
            else:
                np.testing.assert_allclose(ours[key][name], value, rtol=1e-6 if "loss" in name else 1e-5, err_msg=name)
    found = state(folder)
    for name, value in state(one).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.long
def test_two_processes_are_one_whatever_befalls_them(runs: Runs, one: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"

    killed = runs.pair(folder, seconds=0.1)
    killed.wait_for("step 6/")
    killed.processes[1].kill()
    begin = time.monotonic()
    [(code, _, error), (other, _, _)] = killed.end()
    assert time.monotonic() - begin < 60
    assert (code, other) == (1, -signal.SIGKILL), error
    assert "start all of them again to go on from the last checkpoint" in error
    assert error.count("error:") == 1

    # pmap from here, and to go on: how a run uses its devices may change.
    stopped = runs.pair(folder, "--config.run.parallel=pmap", seconds=0.25)
    stopped.wait_for("step 10/")
    stopped.processes[1].send_signal(signal.SIGTERM)
    [(code, out, error), (other, silent, other_error)] = stopped.end()
    assert (code, other) == (train.STOPPED, train.STOPPED), error + other_error
    assert "going on from step 4" in out or "going on from step 8" in out
    [last] = [line for line in out.splitlines() if line.startswith("stopped after step")]
    saved = int(last.split()[3].rstrip(","))
    assert 10 < saved < STEPS
    assert (folder / "checkpoints" / str(saved)).is_dir()
    assert "step" not in silent  # process 0 alone speaks; Gloo does, too

    finished = runs.pair(folder)
    [(code, out, error), (other, silent, other_error)] = finished.end()
    assert (code, other) == (0, 0), error + other_error
    assert f"going on from step {saved}" in out
    assert out.splitlines()[-1].startswith("AP ")
    assert "step" not in silent  # process 0 alone speaks; Gloo does, too

    assert_same_run(folder, one)


@pytest.mark.long
def test_a_run_goes_on_with_fewer_and_more_devices(runs: Runs, one: Path, tmp_path: Path) -> None:
    saved = 0
    for devices, parallel, last in ((8, "jit", 4), (2, "pmap", 14)):
        stopped = runs.single(devices, tmp_path, f"--config.run.parallel={parallel}", seconds=0.1)
        stopped.wait_for(f"step {last}/")
        stopped.processes[0].send_signal(signal.SIGTERM)
        [(code, out, error)] = stopped.end()
        assert code == train.STOPPED, error
        assert f"{parallel} on {devices} x" in out
        assert saved == 0 or f"going on from step {saved}" in out
        saved = int(next(line for line in out.splitlines() if line.startswith("stopped")).split()[3].rstrip(","))
        assert last < saved < STEPS
    [(code, out, error)] = runs.single(8, tmp_path).end()
    assert code == 0, error
    assert f"going on from step {saved}" in out
    assert_same_run(tmp_path, one)


@pytest.mark.long
def test_one_two_and_three_processes_find_the_same_ap(runs: Runs, tmp_path: Path) -> None:
    found = []
    for count in (1, 2, 3):
        folder = tmp_path / str(count)
        folder.mkdir()
        for code, _, error in runs.start(count, 1, [str(folder)], "distributed_evaluate").end():
            assert code == 0, error
        parts = [json.loads((folder / f"{i}.json").read_text()) for i in range(count)]
        assert [part["processes"] for part in parts] == [count] * count
        assert all(part["seen"] for part in parts)
        seen = [image_id for part in parts for image_id in part["seen"]]
        assert sorted(seen) == sorted(Squares(distributed_evaluate.IMAGES).image_ids)
        found += [(part["metrics"], part["results"]) for part in parts]
    assert 0.1 < found[0][0]["AP"] < 0.9
    assert len(found[0][1]) == distributed_evaluate.IMAGES
    assert all(one == found[0] for one in found[1:])


@pytest.mark.long
def test_an_error_of_one_ends_the_other(runs: Runs, tmp_path: Path) -> None:
    pair = runs.pair(tmp_path / "run", "--config.data.batch_size=12")  # not a multiple of eight devices
    for code, out, error in pair.end():
        assert code == 1
        assert "step" not in out
        assert "config.data.batch_size=12 is not a multiple of 8 devices" in error
        assert "Traceback" not in error
