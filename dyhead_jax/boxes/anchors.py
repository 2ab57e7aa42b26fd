"""Anchor boxes and points of a pyramid, ordered by row, then column, then anchor of the cell.

Coordinates: pixels of the padded input. Cell (i, j) of a level with stride s has its reference point at
((j + center_offset) * s, (i + center_offset) * s).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

Sizes = Sequence[tuple[int, int]]


def points(sizes: Sizes, strides: Sequence[int], center_offset: float = 0.5) -> list[np.ndarray]:
    """Reference points (h * w, 2) as (x, y), float32, for each level of size (h, w)."""
    levels = []
    for (h, w), stride in zip(sizes, strides, strict=True):
        y, x = np.mgrid[:h, :w].astype(np.float32)
        levels.append(((np.stack([x, y], axis=-1) + center_offset) * stride).reshape(-1, 2).astype(np.float32))
    return levels


def cell_anchors(side: float, scales: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """Anchors (a, 4) around the origin; a runs over ratios (height / width), then scales. Areas (side * scale)^2."""
    root = np.sqrt(np.asarray(ratios, np.float64))[:, None]
    scale = np.asarray(scales, np.float64)[None, :] * side
    half = np.stack([scale / root, scale * root], axis=-1).reshape(-1, 2) / 2
    return np.concatenate([-half, half], axis=-1).astype(np.float32)


def anchors(
    sizes: Sizes,
    strides: Sequence[int],
    scales: Sequence[float] = (8.0,),
    ratios: Sequence[float] = (1.0,),
    center_offset: float = 0.5,
) -> list[np.ndarray]:
    """Anchor boxes (h * w * a, 4), float32, for each level; scales are in strides."""
    levels = []
    for level, stride in zip(points(sizes, strides, center_offset), strides, strict=True):
        cell = cell_anchors(stride, scales, ratios)
        levels.append((np.tile(level, 2)[:, None, :] + cell[None]).reshape(-1, 4))
    return levels


def octaves(base: float, per_octave: int = 3) -> tuple[float, ...]:
    """Scales base * 2^(i / per_octave), as in RetinaNet."""
    return tuple(base * 2 ** (i / per_octave) for i in range(per_octave))


def repeat_levels(values: ArrayLike, sizes: Sizes) -> np.ndarray:
    """Values (l, ...), one of each level, to (n, ...), one of each cell."""
    return np.repeat(values, [h * w for h, w in sizes], axis=0)
