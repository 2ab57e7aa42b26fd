"""The three containers that modules exchange, and the axis legend.

Axis letters, used in docstrings and variable names throughout:

    b images of a batch     h, w rows and columns of a map     c channels
    l pyramid level, 0 is the finest                           n anchors or points of all levels, fine to coarse
    m padded ground-truth boxes                                d padded detections
    g deformable groups     k kernel taps, row-major           q classes

Coordinates: a box is (x1, y1, x2, y2) in pixels of the padded network input, float32, continuous: the pixel in column 0
covers 0 <= x < 1, and the width of a box is x2 - x1. A size is (height, width). An offset is (dy, dx).
"""

import jax
from flax import struct


@struct.dataclass
class GroundTruth:
    """Boxes of a batch, padded to a fixed number so that shapes are static.

    boxes: (b, m, 4) float32; labels: (b, m) int32, contiguous from 0; mask: (b, m) bool, True for real boxes;
    crowd: (b, m) bool, True for crowd regions, which training ignores.
    sizes: (b, 2) int32 (height, width) of each image inside its canvas, or None if images fill it.
    """

    boxes: jax.Array
    labels: jax.Array
    mask: jax.Array
    crowd: jax.Array
    sizes: jax.Array | None = None


@struct.dataclass
class Batch:
    """The input of a train step. images: (b, h, w, 3) uint8 RGB, each image in the top-left corner of its canvas."""

    images: jax.Array
    ground_truth: GroundTruth


@struct.dataclass
class Detections:
    """Detections of a batch, fixed size, best first. boxes: (b, d, 4); scores: (b, d), 0 where empty; labels: (b, d)
    int32, -1 where empty."""

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
