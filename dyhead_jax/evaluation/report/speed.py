"""How long the model takes for an image, measured while it is evaluated."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

INCLUDED = (
    "the copy of the pixels to the device, the network, and the selection of boxes; not reading and resizing pictures"
)


class TimedDetect:
    """A `split.Detect` that waits for its results and keeps the seconds of each call by the shape of its images."""

    def __init__(self, detect: Callable[[Any, Any], Any]):
        self._detect = detect
        self._seconds: dict[tuple[int, ...], list[float]] = defaultdict(list)

    def __call__(self, images: Any, sizes: Any) -> Any:
        import jax  # a report on a file of detections does without

        start = time.perf_counter()
        detections = jax.block_until_ready(self._detect(images, sizes))
        self._seconds[np.shape(images)].append(time.perf_counter() - start)
        return detections

    def summary(self, passes: int) -> dict[str, Any] | None:
        """The milliseconds of an image over all canvases, and of each canvas; None when nothing could be measured.

        The first batch of each canvas, which compiles, is left out; canvases with no other are only counted. passes:
        how often the model sees an image (scales, mirror images).
        """
        canvases = []
        total = images = 0.0
        for (batch, height, width, _), seconds in sorted(self._seconds.items()):
            if len(seconds) < 2:
                continue
            mean = float(np.mean(seconds[1:])) / batch
            total += mean * batch * len(seconds)
            images += batch * len(seconds)
            canvases.append(
                {
                    "height": height,
                    "width": width,
                    "batch": batch,
                    "batches": len(seconds) - 1,
                    "ms_per_image": 1000 * mean,
                }
            )
        if not canvases:
            return None
        unmeasured = len(self._seconds) - len(canvases)
        return {
            "ms_per_image": 1000 * passes * total / images,
            "passes": passes,
            "includes": INCLUDED,
            "canvases": canvases,
            "canvases_of_one_batch": unmeasured,
        }
