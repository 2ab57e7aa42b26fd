"""Pictures of any size through a detector of fixed shapes: resized, padded and batched as in evaluation, and back.

Coordinates: boxes are (x1, y1, x2, y2) in pixels of the given picture, continuous; sizes are (height, width).
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dyhead_jax.config import DataConfig
from dyhead_jax.data.schedule import choose_canvases, eval_batches
from dyhead_jax.data.source import NO_IMAGE, Example
from dyhead_jax.data.transforms import EvalTransform
from dyhead_jax.evaluation.split import check_finite, to_results
from dyhead_jax.types import Detections

Detect = Callable[[np.ndarray, np.ndarray], Detections]
"""(images (b, h, w, 3) uint8 of one canvas (h, w), sizes (b, 2) int32 inside it) -> Detections in pixels of these."""


class Boxes(NamedTuple):
    """Of one picture, best first: boxes (n, 4) float32 inside the picture, scores (n,) float32, labels (n,) int32."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class PictureBatch(NamedTuple):
    """Pictures on one canvas. images: (b, h, w, 3) uint8; sizes: (b, 2) int32, 1 x 1 in a padding row; rows: (b,) int64
    index of each picture, NO_IMAGE in a padding row; scales: (b, 2) float32 (y, x), resized over original size."""

    images: np.ndarray
    sizes: np.ndarray
    rows: np.ndarray
    scales: np.ndarray


def detect_pictures(
    detect: Detect, pictures: Sequence[np.ndarray], data: DataConfig, num_classes: int, batch_size: int
) -> list[Boxes]:
    """The boxes of each picture, (h, w, 3) uint8 RGB of any size; the same as evaluation finds with these batches.

    Raises EvaluationError for an infinite value and for a label that is not below num_classes, and NotFiniteError,
    which says for how many pictures, where the network's result is not a number.
    """
    found: list[Boxes] = [_gather([])] * len(pictures)
    broken = np.zeros(len(pictures), bool)

    def collect(batch: PictureBatch, detections: Detections) -> None:
        scores = np.asarray(detections.scores)
        nan = np.asarray(np.isnan(scores).any(axis=1))
        broken[batch.rows[nan & (batch.rows != NO_IMAGE)]] = True
        detections = dataclasses.replace(detections, scores=np.where(nan[:, None], 0, scores))  # type: ignore[arg-type]
        originals = np.array([pictures[row].shape[:2] if row != NO_IMAGE else (1, 1) for row in batch.rows])
        results = to_results(detections, batch.rows, batch.scales, range(num_classes), originals)
        for row in batch.rows[batch.rows != NO_IMAGE].tolist():
            found[row] = _gather([result for result in results if result["image_id"] == row])

    pending = None
    for batch in make_batches(pictures, data, batch_size):
        launched = batch, detect(batch.images, batch.sizes)  # the device computes while the previous one is fetched
        if pending is not None:
            collect(*pending)
        pending = launched
    if pending is not None:
        collect(*pending)
    check_finite(broken, range(len(pictures)), "number {} of them, from 0")
    return found


def make_batches(pictures: Sequence[np.ndarray], data: DataConfig, batch_size: int) -> Iterator[PictureBatch]:
    """Pictures that share a canvas go together, each resized as in evaluation and put in its canvas's top-left corner.

    Every batch has `batch_size` rows, so that a program is compiled once for a canvas.
    """
    if not pictures:
        return
    sizes = np.array([picture.shape[:2] for picture in pictures])
    canvas_of = choose_canvases(sizes, data.canvases, max(data.short_side), data.long_side)
    transform = EvalTransform(tuple(data.short_side), data.long_side)
    for number, rows in eval_batches(canvas_of, len(data.canvases), batch_size):
        canvas = data.canvases[number]
        batch = PictureBatch(
            images=np.zeros((batch_size, *canvas, 3), np.uint8),
            sizes=np.ones((batch_size, 2), np.int32),
            rows=np.where(rows < 0, NO_IMAGE, rows),
            scales=np.ones((batch_size, 2), np.float32),
        )
        for place, row in enumerate(rows.tolist()):
            if row < 0:
                continue
            placed = transform(_example(pictures[row]), canvas)
            height, width = placed.example.image.shape[:2]
            batch.images[place, :height, :width] = placed.example.image
            batch.sizes[place] = height, width
            batch.scales[place] = placed.scale
        yield batch


def _example(picture: np.ndarray) -> Example:
    return Example(
        image=picture,
        image_id=0,
        file_name="",
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int32),
        crowd=np.zeros(0, bool),
    )


def _gather(results: list[dict]) -> Boxes:
    corners = [[x, y, x + width, y + height] for x, y, width, height in (result["bbox"] for result in results)]
    return Boxes(
        np.array(corners, np.float32).reshape(-1, 4),
        np.array([result["score"] for result in results], np.float32),
        np.array([result["category_id"] for result in results], np.int32),
    )
