"""The command: what it refuses, and a whole comparison in processes of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dyhead_jax import command
from dyhead_jax.compare import __main__ as compare
from tests.test_fork import RUN

ROOT = Path(__file__).resolve().parents[2]
STEPS = 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: CONFIG, --workdir"),
        (["demo_shapes", "--workdir=w", "--seeds=0"], "--seeds is 0; it must be at least 1"),
        (["demo_shapes", "--workdir=w", "--evaluations=0"], "--evaluations is 0"),
        (["demo_shapes", f"--workdir={__file__}"], "is a file"),
        (["demo_shapes", "--workdir=w", "--out=absent/table.md"], "--out=absent/table.md: there is no such folder"),
        (["demo_shapes", "--workdir=w", "--seed=3"], "'--seed=3' is not an option"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    with pytest.raises(command.UsageError, match=message):
        compare._main()
    assert list(tmp_path.iterdir()) == []


class Comparison:
    """Two tiny configs with two seeds each."""

    def __init__(self, folder: Path):
        self.folder = folder / "runs"
        file = folder / "tiny.py"
        file.write_text(RUN)
        self.common = [f"--config.run.steps={STEPS}", "--config.run.parallel=single"]
        self.configs = [str(file), f"twin={file} --config.run.log_every=2"]
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # tiny programs too
            "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1",
        }

    def start(self, *arguments) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=self.folder.parent,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def compare(self, *arguments) -> subprocess.Popen:
        line = ["dyhead_jax.compare", *self.configs, *self.common, "--seeds=2", "--evaluations=2"]
        return self.start(*line, f"--workdir={self.folder}", *arguments)

    def programs(self) -> set[str]:
        return {path.name for path in (self.folder / "cache").iterdir() if path.name.endswith("-cache")}


def losses(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row and row["step"] % 2 == 0}


@pytest.mark.long
def test_two_configs_with_two_seeds_stopped_on_the_way(tmp_path):
    """They differ in what is logged: one's runs are those of the other, of which none is stopped."""
    comparison = Comparison(tmp_path)
    folder = comparison.folder
    first, metrics = comparison.compare(), folder / "tiny" / "seed0" / "metrics.jsonl"
    while first.poll() is None and not (metrics.is_file() and metrics.read_text().count("\n") > 1):
        time.sleep(0.005)
    first.send_signal(signal.SIGTERM)
    out, _ = first.communicate(timeout=400)
    assert first.returncode == 75, out
    assert "stopped; the same command goes on from there" in out
    assert 0 < int(next((folder / "tiny" / "seed0" / "checkpoints").iterdir()).name) < STEPS
    assert "`tiny` (0 of 2 seeds)" in (folder / "table.md").read_text()

    second, of_first_seeds = comparison.compare(f"--out={tmp_path / 'copy.md'}"), None
    record = folder / "twin" / "seed0.json"
    while second.poll() is None and of_first_seeds is None:
        time.sleep(0.05)
        if record.is_file():
            of_first_seeds = comparison.programs()
    out, _ = second.communicate(timeout=400)
    assert second.returncode == 0, out
    assert comparison.programs() == of_first_seeds
    assert sum(name.startswith("jit_step_fn-") for name in of_first_seeds) == 1

    text = (folder / "table.md").read_text()
    assert (tmp_path / "copy.md").read_text() == text
    assert f"{STEPS} steps of 2 images, 2 seeds each." in text
    assert "- `twin`: run.log_every 2 (first: 1)" in text
    tiny, twin = json.loads((folder / "table.json").read_text())["rows"]
    assert tiny["finished"] == twin["finished"] == [0, 1]
    assert twin["gain"] == [0.0, 0.0, 0.0]
    assert all(row["host_bytes"] > 2**27 and row["step_seconds"] > 0 for row in (tiny, twin))
    for seed in ("0", "1"):
        assert tiny["seeds"][seed]["scores"] == twin["seeds"][seed]["scores"]
        curves = [[[step, ap] for step, _, ap in row["seeds"][seed]["curve"]] for row in (tiny, twin)]
        assert curves[0] == curves[1]
        assert [step for step, _ in curves[0]] == [STEPS / 2, STEPS]
        assert losses(folder / "tiny" / f"seed{seed}") == losses(folder / "twin" / f"seed{seed}")
    assert losses(folder / "tiny" / "seed0")[STEPS] != losses(folder / "tiny" / "seed1")[STEPS]


@pytest.mark.long
def test_a_run_that_fails_is_named_with_its_log(tmp_path):
    comparison = Comparison(tmp_path)
    comparison.configs = [comparison.configs[0] + " --config.data.source.root=/proc/absent"]
    process = comparison.compare("--seeds=1")
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 1
    log = comparison.folder / "tiny_root=_proc_absent" / "seed0.log"
    assert out.splitlines()[-1] == f"error: 1 of 1 runs failed: tiny root=/proc/absent, seed 0 ({log})"
    assert "Traceback" not in out
    assert "error: " in log.read_text()
    assert "(0 of 1 seeds, seed 0 failed)" in (comparison.folder / "table.md").read_text()
