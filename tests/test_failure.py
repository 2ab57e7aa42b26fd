"""A step that is not finite leaves what runs it again; a window of steps leaves a trace."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from dyhead_jax import command, detectors, failure, train
from dyhead_jax.config import OptimConfig
from dyhead_jax.data import coco_json
from dyhead_jax.training import optim
from tests.training import distributed_run
from tests.training.test_distributed import Runs


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr(detectors, "build", detectors.build)
    distributed_run.tiny()
    return Runs(tmp_path)


def test_a_loss_that_is_nan_is_kept_with_its_images(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = coco_json.load

    def load(path: Path, **options: object) -> coco_json.Index:
        index = whole(path, **options)  # type: ignore[arg-type]
        if "train" in path.name:
            index.labels[:] = 1
            index.boxes[index.starts[20]] = [1, 1, np.inf, 4]  # one image of 37, which the flip turns into NaN or inf
        return index

    monkeypatch.setattr(coco_json, "load", load)
    with pytest.raises(train.TrainError, match=r"the loss is (nan|inf|-inf) at step \d+; .*images \d+, ") as error:
        runs.alone(tmp_path / "run")
    assert " 120" in str(error.value)
    [dump] = (tmp_path / "run" / "failures").iterdir()
    step = int(dump.name.removeprefix("step_"))
    assert f"at step {step};" in str(error.value)
    assert os.listdir(dump / "checkpoints") == [str(step - 1)]
    number, metrics, bad = failure.replay(dump)
    assert number == step
    assert not np.isfinite(metrics["loss"])
    assert list(bad) == [120]
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["failure", str(dump)])
    with pytest.raises(SystemExit) as ended:
        command.run(failure._main)
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert f"step {step}: grad_norm" in out
    assert "image 120 alone: loss_box" in out
    next(dump.glob("batch_*")).unlink()
    with pytest.raises(failure.FailureError, match="0 batch files"):
        failure.replay(dump)


@pytest.mark.long
def test_a_window_of_steps_is_traced_and_the_rate_is_scaled(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config.run.profile_steps=(3,4)", "--config.run.steps=6", "--config.optim.base_batch_size=8"]
    runs.alone(tmp_path / "run", *arguments)
    assert [*(tmp_path / "run" / "profile").rglob("*.xplane.pb")]
    out = capsys.readouterr().out
    assert "batch 16 = 8 devices x 2 images; learning rate 0.004 (0.002 x 16 / 8)" in out


def test_linear_scaling() -> None:
    config = OptimConfig(learning_rate=0.01, base_batch_size=16)
    assert optim.scaled(config, 64).learning_rate == pytest.approx(0.04)
    assert optim.scaled(OptimConfig(learning_rate=0.01), 64).learning_rate == 0.01


def _dump(folder: Path, **changes: np.ndarray | None) -> None:
    arrays: dict[str, np.ndarray | None] = {"images": np.zeros((2, 8, 8, 3), np.uint8), "image_ids": np.arange(2)}
    arrays |= {"boxes": np.zeros((2, 3, 4)), "labels": np.zeros((2, 3), int), "mask": np.zeros((2, 3), bool)}
    arrays |= {"crowd": np.zeros((2, 3), bool)} | changes
    kept = {name: array for name, array in arrays.items() if array is not None}
    np.savez_compressed(folder / "batch_0-of-1.npz", **kept)  # type: ignore[arg-type]


def test_a_damaged_dump_is_named(tmp_path: Path) -> None:
    _dump(tmp_path)
    batch, ids = failure.load_batch(tmp_path)
    assert (batch.images.shape, ids.tolist()) == ((2, 8, 8, 3), [0, 1])
    whole = (tmp_path / "batch_0-of-1.npz").read_bytes()
    for broken in (whole[:-40], whole[:60] + b"x" + whole[61:], b""):
        (tmp_path / "batch_0-of-1.npz").write_bytes(broken)
        with pytest.raises(ValueError, match=r"batch_0-of-1\.npz is broken"):
            failure.load_batch(tmp_path)
    for change in ({"labels": None}, {"boxes": np.zeros((2, 3))}, {"mask": np.zeros((1, 3), bool)}):
        _dump(tmp_path, **change)
        with pytest.raises(failure.FailureError, match=rf"batch_0-of-1\.npz has no {next(iter(change))} with"):
            failure.load_batch(tmp_path)
    wrong = {"images": (np.zeros((2, 8, 8, 3)), "images are float64"), "mask": (np.zeros((2, 3)), "mask are float64")}
    wrong |= {"boxes": (np.zeros((2, 3, 5)), r"boxes have the shape \(2, 3, 5\), not \(2, 3, 4\)")}
    wrong |= {"crowd": (np.zeros((2, 2), bool), "crowd have the shape")}
    for name, (array, message) in wrong.items():
        _dump(tmp_path, **{name: array})
        with pytest.raises(failure.FailureError, match=rf"batch_0-of-1\.npz: {message}"):
            failure.load_batch(tmp_path)
    _dump(tmp_path)
    (tmp_path / "batch_0-of-1.npz").rename(tmp_path / "batch_x-of-y.npz")
    with pytest.raises(failure.FailureError, match="0 batch files"):
        failure.load_batch(tmp_path)
