"""A server on a free port, with answers that need no model."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dyhead_jax.data import images
from dyhead_jax.demo.server import Server

KINDS = {"mid": "own level", "low": "finer level", "high": "coarser level"}


class FixedAnswers:
    """Two objects in every picture, and nine samples around every point."""

    def __init__(self):
        self.asked: list[Any] = []

    def about(self) -> dict[str, Any]:
        classes = [{"name": "</script><b>cat</b>", "color": [200, 0, 0]}, {"name": "dog", "color": [0, 0, 200]}]
        return {"classes": classes, "step": 3, "lowest_score": 0.05}

    def detect(self, encoded: bytes) -> dict[str, Any]:
        height, width = images.decode(encoded, "the picture", upright=True).shape[:2]
        boxes = [[0, 0, width / 2, height / 2], [1, 1, 5, 5], [2, 2, 6, 6]]
        scores = [0.9, 0.5, 0.2]
        sizes = {"width": width, "height": height}
        return {**sizes, "boxes": boxes, "scores": scores, "labels": [0, 1, 1], "milliseconds": 12.5}

    def taps(self, encoded: bytes, point: Any, level: Any, box: Any) -> dict[str, Any]:
        self.asked.append((point, level, box))
        if level == 9:
            raise ZeroDivisionError
        around = [[point[0] + dx, point[1] + dy, 0.5] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        blocks = [{"mid": {"samples": around, "beside": 2}, "high": {"samples": around[:4], "beside": 0}}] * 2
        composed = {"samples": around[:5], "beside": 0, "left_out": 7}
        return {"level": level or 0, "strides": [8, 16], "kinds": KINDS, "blocks": blocks, "composed": composed}


@contextmanager
def serving(answers: Any) -> Iterator[Server]:
    with Server(answers, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
