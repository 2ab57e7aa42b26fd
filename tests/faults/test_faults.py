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


@pytest.mark.long
def test_runs_come_through(tmp_path):
    runs = Runs(tmp_path)
    for case in (cases.damaged_newest, cases.full_disk, cases.second_run):
        case(runs, np.random.default_rng(0))
