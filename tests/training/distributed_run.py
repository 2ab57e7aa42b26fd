"""train.py with the tiny detector, as a program for tests of several processes: SECONDS_A_STEP --config=... ..."""

import sys
import time

import dyhead_jax.train  # noqa: F401  before JAX, which would set how much XLA says

# isort: split
import jax
import jax.numpy as jnp

from dyhead_jax import command, detectors, train
from dyhead_jax.data import pipeline
from dyhead_jax.training import watchdog
from dyhead_jax.types import Detections
from tests.tiny_detector import TinyDetector


class TinyBoxes(TinyDetector):
    """With boxes that have an area."""

    def detect(self, images: jax.Array, image_sizes: jax.Array) -> Detections:
        found = super().detect(images, image_sizes)
        corner, size = jnp.split(jnp.abs(found.boxes), 2, axis=-1)
        return found.replace(boxes=jnp.concatenate([corner, corner + size], -1))


def tiny() -> None:
    """Every detector is the tiny one from now on."""
    detectors.build = lambda model, axis_name=None: TinyBoxes(axis_name=axis_name)


def slow(seconds: float) -> None:
    """Signals have to find a run that is still going on."""
    whole = pipeline.TrainIterator.__next__

    def wait(self):
        time.sleep(seconds)
        return whole(self)

    pipeline.TrainIterator.__next__ = wait


if __name__ == "__main__":
    tiny()
    slow(float(sys.argv.pop(1)))
    watchdog.SILENT_SECONDS = 20.0
    command.run(train.main)
