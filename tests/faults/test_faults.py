"""The short form of the harness: damage to files, and that each case is there. `make faults` runs the whole of it."""

import numpy as np
import pytest

from dyhead_jax.training.checkpoint import Checkpoints
from dyhead_jax.training.steps import TrainState
from tests.faults import cases, damage
from tests.faults.runs import Runs


def small(step: int) -> TrainState:
    weights = np.random.default_rng(step).normal(size=(40, 50)).astype(np.float32)
    return TrainState(np.int32(step), {"a": weights, "b": weights[0]}, {}, {"m": weights + 1}, average=None)


def test_no_flipped_bit_or_cut_file_is_silently_wrong(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in (1, 2):
            checkpoints.save(small(step), {"class_names": ["cat", "dog"]}, data_state={"step": step})
    damages = [damage.flip] * 12 + [damage.shorten, damage.remove] * 2
    said = damage.silently_wrong(tmp_path, small(1), np.random.default_rng(0), damages)
    assert "named" in said


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.long
@pytest.mark.parametrize("name", ["damaged_newest", "full_disk", "second_run"])
def test_runs_come_through(name, runs):
    said = cases.CASES[name](runs, np.random.default_rng(0))  # raises AssertionError if anything is lost or wrong
    assert said
