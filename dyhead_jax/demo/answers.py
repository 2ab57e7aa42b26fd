"""What the server answers: the objects in an uploaded picture, and what the attentions read for a point of it.

Coordinates: boxes x1 y1 x2 y2 and points x y in pixels of the upright picture, continuous.
"""

import threading
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from dyhead_jax.data import images
from dyhead_jax.data.pictures import color
from dyhead_jax.evaluation.trained_model import InferenceModel
from dyhead_jax.inference.model import Model
from dyhead_jax.look.record import KINDS, Record, Recorder
from dyhead_jax.look.taps import Taps, at_cell, cell_at, checked_level, compose, level_of, to_picture

LOWEST_SCORE = 0.05  # below it there are mostly duplicates; the page hides more


class Answers:
    """Answers for one model. One picture at a time goes through it, so that uploads at once need no more memory.

    The two methods take the bytes of an image file, and raise DataError for what is not one.
    """

    def __init__(self, loaded: InferenceModel):
        self._model = Model(loaded)
        self._record = lru_cache(maxsize=2)(self._new_record)  # a second click does not run the network again
        self._recorder = Recorder(loaded)
        self._one_at_a_time = threading.Lock()
        self.class_names = loaded.class_names

    def about(self) -> dict[str, Any]:
        """What the page knows of the model from the start."""
        classes = [{"name": name, "color": list(color(label))} for label, name in enumerate(self.class_names)]
        return {"classes": classes, "step": self._model.step, "lowest_score": LOWEST_SCORE}

    def detect(self, encoded: bytes) -> dict[str, Any]:
        """The size of the upright picture, its objects, best first, and the milliseconds that the model took."""
        with self._one_at_a_time:
            image = _decode(encoded)
            start = time.perf_counter()
            found = self._model(image, LOWEST_SCORE)
            took = time.perf_counter() - start
        return {
            "width": found.width,
            "height": found.height,
            "boxes": found.boxes.astype(float).round(2).tolist(),
            "scores": found.scores.astype(float).round(4).tolist(),
            "labels": found.labels.tolist(),
            "milliseconds": round(1000 * took, 1),
        }

    def taps(
        self, encoded: bytes, point: tuple[float, float], level: int | None, box: Sequence[float] | None
    ) -> dict[str, Any]:
        """Where each block samples for the cell of `level` at `point`; level None: by the size of `box` (`level_of`).

        Samples are [x, y, weight]; "beside" counts those beside their map or the picture, which are left out, and
        "left_out" the lightest ones of a composition. Raises RecordError for a point or level that is not there.
        """
        with self._one_at_a_time:
            record = self._record(encoded)
        level = level_of(record, box) if level is None else checked_level(record, level)
        cell = cell_at(record, level, point)
        blocks = []
        for block in record.blocks:
            samples = {kind: at_cell(block, kind, level, cell, record.sizes) for kind in KINDS}
            blocks.append({kind: _in_picture(taps, record) for kind, taps in samples.items() if len(taps.level)})
        composed = compose(record.blocks, ["mid"], level, cell, record.sizes)[-1]
        own = _in_picture(composed.taps, record)
        own["beside"] += composed.outside
        return {
            "level": level,
            "strides": list(record.strides),
            "kinds": KINDS,
            "blocks": blocks,
            "composed": own | {"left_out": composed.left_out},
        }

    def _new_record(self, encoded: bytes) -> Record:
        return self._recorder(_decode(encoded))


def _decode(encoded: bytes) -> np.ndarray:
    return images.decode(encoded, "the picture", upright=True)


def _in_picture(taps: Taps, record: Record) -> dict[str, Any]:
    height, width = record.image.shape[:2]
    points = to_picture(taps, record)
    shown = taps.inside & (points >= 0).all(1) & (points[:, 0] < width) & (points[:, 1] < height)
    samples = np.concatenate([points, taps.weight[:, None]], axis=1)[shown]
    return {"samples": samples.round(3).tolist(), "beside": int((~shown).sum())}
