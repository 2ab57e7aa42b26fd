"""What a run has come to, from its metrics.jsonl and the record of its processes."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dyhead_jax.compare.runs import Run
from dyhead_jax.evaluation import average_precision

SPEED, DEVICE_BYTES = "train/images_per_second", "train/device_bytes"


@dataclass(frozen=True)
class Result:
    """Of a finished run.

    scores: AP and its kin at the last step. curve: (n, 3) float64 of each evaluation: step, seconds of training up to
    it, AP. step_seconds: median. seconds: of its processes from start to end. host_bytes: their largest resident set;
    device_bytes: the most in use at once on a device, None where devices do not say.
    """

    scores: dict[str, float]
    curve: np.ndarray
    step_seconds: float
    seconds: float
    host_bytes: int
    device_bytes: float | None


def read(run: Run) -> Result | None:
    """None unless the run is finished."""
    rows, config = run.rows, run.candidate.config
    scores = average_precision.scores_at(rows, config.run.steps)
    record = run.record
    if scores is None or record.code != 0:
        return None
    device = [row[DEVICE_BYTES] for row in rows if row.get(DEVICE_BYTES) is not None]
    return Result(
        scores=scores,
        curve=curve(rows, config.data.batch_size),
        step_seconds=step_seconds(rows, config.data.batch_size),
        seconds=record.seconds,
        host_bytes=record.bytes,
        device_bytes=max(device, default=None),
    )


def step_seconds(rows: Sequence[dict[str, Any]], batch_size: int) -> float:
    """The median over the logged intervals, NaN if there is none with a speed."""
    speeds = [row[SPEED] for row in rows if row.get(SPEED)]
    return batch_size / statistics.median(speeds) if speeds else math.nan


def curve(rows: Sequence[dict[str, Any]], batch_size: int) -> np.ndarray:
    """(n, 3): step, seconds and AP of each evaluation.

    The seconds are those of training steps with the waiting for their images: the logged intervals, each with its own
    speed, one without a speed (it compiled) with the median. Compiling, evaluating and saving do not count.
    """
    usual = step_seconds(rows, batch_size)
    steps, seconds = [0], [0.0]
    for row in rows:
        if SPEED in row and row["step"] > steps[-1]:
            each = batch_size / row[SPEED] if row[SPEED] else usual
            seconds.append(seconds[-1] + (row["step"] - steps[-1]) * each)
            steps.append(row["step"])
    points = {row["step"]: row["eval/AP"] for row in rows if row.get("eval/AP") is not None}
    at = np.array(sorted(points), np.float64)
    return np.stack([at, np.interp(at, steps, seconds), [points[step] for step in at]], axis=1)
