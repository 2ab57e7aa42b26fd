"""TensorBoard, Weights & Biases and MLflow get what metrics.jsonl gets; a resumed run goes on in the same record."""

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
import types
from contextlib import closing

import pytest

from dyhead_jax.config import RunConfig
from dyhead_jax.training import trackers
from dyhead_jax.training.metrics import Metrics

RUN = """
import sys
from pathlib import Path
from dyhead_jax.config import RunConfig
from dyhead_jax.training.metrics import Metrics
from dyhead_jax.training.trackers import open_trackers

folder, name = Path(sys.argv[1]), sys.argv[2]
for start, steps in ((0, (1, 2)), (2, (3,))):
    shown = open_trackers(RunConfig(**{name: True}), folder, start, {"optim": {"learning_rate": 0.1}})
    with Metrics(folder / "metrics.jsonl", resume_step=start, trackers=shown) as metrics:
        for step in steps:
            metrics.write(step, {"train/loss": 1.5 / step, "eval/AP": float("nan")})
"""


def run(name, folder):
    """Two runs, the second resuming the first, in a process of their own."""
    folder.mkdir()
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "JAX_PLATFORMS": "cpu"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", RUN, str(folder), name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "trackers.json").read_text())


def test_tensorboard_gets_every_value(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, key, value, step):
            written.append((key, value, step))

        def flush(self): ...

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    shown = trackers.open_trackers(RunConfig(tensorboard=True), tmp_path, 4, {})
    with Metrics(tmp_path / "metrics.jsonl", resume_step=4, trackers=shown) as metrics:
        metrics.write(5, {"train/loss": 1.5})
    assert written == [(str(tmp_path / "tensorboard"), 5), ("train/loss", 1.5, 5), "closed"]


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboardX"), ("wandb",) * 2, ("mlflow",) * 2])
def test_an_absent_program_names_its_extra(name, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(trackers.TrackerError, match=rf"dyhead-jax\[{name}\]"):
        trackers.open_trackers(RunConfig(**{name: True}), tmp_path, 0, {})
    assert not list(tmp_path.iterdir())


def test_a_broken_list_of_records_is_named(tmp_path, monkeypatch):
    path = tmp_path / "trackers.json"
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace())
    for make in (lambda: path.write_text("[]"), lambda: path.write_text("[" * 100_000), lambda: os.mkfifo(path)):
        path.unlink(missing_ok=True)
        make()
        with pytest.raises(trackers.TrackerError, match=r"trackers\.json is broken"):
            trackers.open_trackers(RunConfig(wandb=True), tmp_path, 0, {})


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason='needs the extra: pip install -e ".[mlflow]"')
def test_mlflow_without_a_server(tmp_path):
    known = run("mlflow", tmp_path / "run")
    with closing(sqlite3.connect(tmp_path / "run" / "mlflow.db")) as base:
        metrics = base.execute("select key, step, value, run_uuid from metrics order by step").fetchall()
        assert metrics == [("train/loss", step, 1.5 / step, known["mlflow"]) for step in (1, 2, 3)]  # AP: no number
        assert base.execute("select key, value from params").fetchall() == [("optim.learning_rate", "0.1")]
        assert base.execute("select name, status from runs").fetchall() == [("run", "FINISHED")]


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason='needs the extra: pip install -e ".[mlflow]"')
def test_a_record_that_mlflow_has_not_is_named(tmp_path):
    (tmp_path / "trackers.json").write_text('{"mlflow": "gone"}')
    code = (
        "import sys; from pathlib import Path; from dyhead_jax.config import RunConfig\n"
        "from dyhead_jax.training.trackers import open_trackers\n"
        "open_trackers(RunConfig(mlflow=True), Path(sys.argv[1]), 0, {})"
    )
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    last = done.stderr.splitlines()[-1]
    assert "TrackerError" in last
    assert f"{tmp_path / 'trackers.json'} names run gone" in last


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason='needs the extra: pip install -e ".[wandb]"')
def test_wandb_offline(tmp_path):
    known = run("wandb", tmp_path / "run")
    files = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{known['wandb']}/run-{known['wandb']}.wandb"))
    assert len(files) >= 1  # a resumed run within one second shares the folder
    assert all(b"train/loss" in file.read_bytes() for file in files)
