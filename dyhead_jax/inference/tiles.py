"""Large pictures in overlapping tiles, so that small objects are not shrunk away: Slicing Aided Hyper Inference.

Coordinates: boxes are (x1, y1, x2, y2) in pixels of the whole picture, continuous. Source: Akyon et al. 2022 (SAHI).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dyhead_jax.inference.batches import Boxes

COVERED = 0.5  # of its own area: where so much of a box that a tile's border cuts lies in a whole one, it is a part
_NEAR = 0.01  # of the tile's side: how close to its border a box ends that the border may have cut


class Tile(NamedTuple):
    """A window of a picture, in pixels: columns x1 to x2, rows y1 to y2."""

    x1: int
    y1: int
    x2: int
    y2: int


def make_tiles(height: int, width: int, side: int, overlap: float) -> list[Tile]:
    """The whole picture, followed by square tiles of `side` pixels if it is larger than one.

    Neighbours overlap by at least this part of their side; together they cover the picture, evenly spaced.
    Raises ValueError for a side below 1 and for an overlap that is not from 0 to below 1.
    """
    if side < 1:
        raise ValueError(f"tiles of {side} pixels: give a side of 1 or more")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap {overlap}: it must be from 0 to below 1")
    rows, columns = _starts(height, side, overlap), _starts(width, side, overlap)
    whole = [Tile(0, 0, width, height)]
    if len(rows) == len(columns) == 1:
        return whole
    return whole + [Tile(x, y, min(x + side, width), min(y + side, height)) for y in rows for x in columns]


def merge(parts: Sequence[Boxes], tiles: Sequence[Tile], threshold: float) -> Boxes:
    """The boxes of all tiles of a picture, each object once, best first.

    parts: of each tile, in its own pixels. Of boxes of one class with an IoU above `threshold` the best is kept. What a
    border between tiles cuts off is only a part of an object: such boxes come after all others, and also give way to a
    kept box of their class that covers half of them.
    """
    whole = tiles[0]
    boxes = np.concatenate(
        [part.boxes + np.array([t.x1, t.y1, t.x1, t.y1], np.float32) for part, t in zip(parts, tiles, strict=True)]
    )
    cut = np.concatenate([_is_cut(part.boxes, tile, whole) for part, tile in zip(parts, tiles, strict=True)])
    scores, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("scores", "labels"))
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept: list[int] = []
    for i in np.lexsort((-scores, cut)).tolist():
        rivals = [k for k in kept if labels[k] == labels[i]]
        corner, end = np.maximum(boxes[rivals, :2], boxes[i, :2]), np.minimum(boxes[rivals, 2:], boxes[i, 2:])
        shared = np.prod(np.clip(end - corner, 0, None), axis=1)
        suppressed = shared > threshold * (areas[rivals] + areas[i] - shared)
        if cut[i]:
            suppressed |= shared > COVERED * areas[i]
        if not suppressed.any():
            kept.append(i)
    order = np.array(sorted(kept, key=lambda i: -scores[i]), np.int64)
    return Boxes(boxes[order], scores[order], labels[order])


def _starts(length: int, side: int, overlap: float) -> list[int]:
    if length <= side:
        return [0]
    count = math.ceil((length - side) / max(1.0, side * (1 - overlap))) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def _is_cut(boxes: np.ndarray, tile: Tile, whole: Tile) -> np.ndarray:
    """(n,) bool: the boxes that end at an inner border of the picture. boxes: in the tile's pixels."""
    width, height = tile.x2 - tile.x1, tile.y2 - tile.y1
    near = max(2.0, _NEAR * max(width, height))
    inner = np.array([tile.x1 > 0, tile.y1 > 0, tile.x2 < whole.x2, tile.y2 < whole.y2])
    distance = np.stack([boxes[:, 0], boxes[:, 1], width - boxes[:, 2], height - boxes[:, 3]], axis=1)
    return np.any((distance < near) & inner[None], axis=1)
