"""Numbers of an experiment that follow from its data: what `configs/photos.py` asks for, each with its reason.

Lengths are in pixels; a size is (height, width). Sides of canvases are multiples of 32, the stride of the last map of
the backbones.
"""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from dyhead_jax.data.source import DataError

MULTIPLE = 32
SMALL = 20.0  # pixels that the smallest twentieth of the objects should span in the network's input
LEAST_SIDE = 256  # of a canvas, its longer side
LEAST_STEPS = 400
PASSES = 10  # over the images, for sets that are not small


@dataclass(frozen=True)
class Fit:
    """canvases: (height, width) each; long_side: the longest of their sides, to which images are resized; max_boxes:
    room for the boxes of an image; batch_size: images a step; steps; reasons: one line for each choice."""

    canvases: tuple[tuple[int, int], ...]
    long_side: int
    max_boxes: int
    batch_size: int
    steps: int
    reasons: tuple[str, ...]


def fit(
    sizes: np.ndarray,
    boxes: np.ndarray,
    image_of: np.ndarray,
    *,
    largest_side: int,
    memory: float,
    bytes_per_pixel: float,
) -> Fit:
    """The numbers for a set of photographs.

    sizes: (n, 2) of the images; boxes: (k, 4) x1 y1 x2 y2 to train on, image_of: (k,) the row of each one's image.
    largest_side: of a canvas, at most; memory: bytes that the temporaries of a training step may take; bytes_per_pixel:
    what they take for each pixel of a batch. Raises DataError where there is no box.
    """
    if not len(boxes):
        raise DataError("the training images have no box, so nothing can be fitted to them")
    reasons = []
    side = _side(sizes, boxes, image_of, largest_side, reasons)
    canvases = _canvases(sizes, side, reasons)
    area = max(height * width for height, width in canvases)
    batch = 8
    while batch > 1 and batch * area * bytes_per_pixel > memory:
        batch //= 2
    gibibytes = batch * area * bytes_per_pixel / 2**30
    reasons.append(f"batch {batch}: about {gibibytes:.1f} GiB of temporaries; {memory / 2**30:.0f} are free for them")
    trained = len(np.unique(image_of))
    steps = max(LEAST_STEPS, math.ceil(PASSES * trained / batch))
    passes = steps * batch / trained
    reasons.append(f"{steps} steps: each of the {trained} images with boxes is seen {passes:.0f} times")
    most = int(np.bincount(image_of).max())
    room = max(16, -(-most // 16) * 16)
    reasons.append(f"room for {room} boxes: an image has up to {most}")
    return Fit(canvases, max(max(canvas) for canvas in canvases), room, batch, steps, tuple(reasons))


def _side(sizes: np.ndarray, boxes: np.ndarray, image_of: np.ndarray, largest: int, reasons: list[str]) -> int:
    """The longer side of the canvases: small objects span SMALL pixels, but nothing is enlarged."""
    longer = sizes.max(axis=1)
    spans = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    small = float(np.quantile(spans / longer[image_of], 0.05))
    full = -(-int(np.median(longer)) // MULTIPLE) * MULTIPLE
    wanted = SMALL / small
    side = int(min(max(round(wanted / MULTIPLE) * MULTIPLE, LEAST_SIDE), full, largest))
    text = f"longer side {side}: a twentieth of the objects span under {100 * small:.1f} %, {side * small:.0f} pixels"
    if side == largest and wanted > largest:
        text += f"; {SMALL:.0f} would need {wanted:.0f}, more than the {largest} that this machine is good for"
    elif side == full and wanted > full:
        text += "; the photographs have no more"
    reasons.append(text)
    return side


def _canvases(sizes: np.ndarray, side: int, reasons: list[str]) -> tuple[tuple[int, int], ...]:
    """A canvas for upright, one for wide and one for nearly square images, of those that a tenth of the images need."""
    kinds = Counter()
    ratios: dict[str, list[float]] = {"wide": [], "square": [], "upright": []}
    for height, width in sizes:
        kind = "square" if max(height, width) < 1.1 * min(height, width) else "wide" if width > height else "upright"
        kinds[kind] += 1
        ratios[kind].append(min(height, width) / max(height, width))
    canvases = []
    for kind, count in kinds.most_common():
        if canvases and count < len(sizes) / 10:
            continue
        short = min(side, math.ceil(side * float(np.median(ratios[kind])) / MULTIPLE) * MULTIPLE)
        canvases.append({"wide": (short, side), "upright": (side, short), "square": (side, side)}[kind])
    texts = ", ".join(f"{height}x{width}" for height, width in canvases)
    shares = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    reasons.append(f"canvas {texts} (height x width): {shares}")
    return tuple(dict.fromkeys(canvases))
