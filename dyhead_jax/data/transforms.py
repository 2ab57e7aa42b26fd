"""Geometry of training and evaluation images, one at a time: pure functions of an Example and a numpy Generator.

`colour` changes pixels only, `mixing` makes one image of several.

Coordinates: boxes are (x1, y1, x2, y2) in pixels of the example's own image, continuous, the pixel in column 0 covers
0 <= x < 1; scales and sizes are (height, width). Images stay uint8.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from dyhead_jax.data import colour
from dyhead_jax.data.source import Example


@dataclass(slots=True)
class Placed:
    """A transformed example, which fits into its canvas from the top-left corner on.

    example: the image and its remaining boxes; scale: (y, x), resized size over original size, or over the size of a
    `random_crop`; left_out: boxes that were too small after the transforms, or whose centre a crop cut away; too_small:
    how many of them were too small.
    """

    example: Example
    scale: tuple[float, float]
    left_out: int
    too_small: int = 0


def resized_size(
    size: tuple[int, int], short_side: float, long_side: float, canvas: tuple[int, int], zoom: float = 1.0
) -> tuple[int, int]:
    """The (height, width) to resize to.

    COCO convention, rounded as in mmdetection's rescale_size: scale = min(short_side / min(h, w), long_side / max(h,
    w)), size = int(x * scale + 0.5), at least one pixel. Where the image would not fit `canvas`, the scale is lowered
    until it does; then `zoom` multiplies it. So the result always fits with zoom <= 1.
    """
    height, width = size
    scale = min(short_side / min(size), long_side / max(size), canvas[0] / height, canvas[1] / width)
    rows, columns = (max(1, int(x * scale * zoom + 0.5)) for x in size)
    if zoom <= 1:
        rows, columns = min(rows, canvas[0]), min(columns, canvas[1])
    return rows, columns


def resize(example: Example, size: tuple[int, int]) -> Example:
    """The example at `size` (height, width).

    Bilinear, as in both reference implementations. Where a side shrinks to less than half, pixels are averaged instead,
    since bilinear sampling would skip some.
    """
    height, width = example.image.shape[:2]
    if (height, width) == size:
        return example
    shrinks = size[0] * 2 < height or size[1] * 2 < width
    image = cv2.resize(example.image, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    factor = np.array([size[1] / width, size[0] / height] * 2, np.float32)
    return replace(example, image=image, boxes=example.boxes * factor[None, :])


def flip(example: Example) -> Example:
    """Mirrored left to right."""
    width = np.float32(example.image.shape[1])
    x1, y1, x2, y2 = example.boxes.T
    boxes = np.stack([width - x2, y1, width - x1, y2], axis=1)
    return replace(example, image=np.ascontiguousarray(example.image[:, ::-1]), boxes=boxes)


def crop(example: Example, top: int, left: int, height: int, width: int) -> tuple[Example, int]:
    """The part of the image from (top, left) on, at most (height, width), and the number of boxes lost.

    Boxes are clipped. A box whose centre is outside is left out; a crowd region only when no part of it is inside.
    """
    image = np.ascontiguousarray(example.image[top : top + height, left : left + width])
    boxes = example.boxes - np.array([left, top, left, top], np.float32)[None, :]
    limit = np.array([image.shape[1], image.shape[0]], np.float32)[None, :]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    kept = np.all((centre >= 0) & (centre < limit), axis=1)
    kept |= example.crowd & np.all((boxes[:, :2] < limit) & (boxes[:, 2:] > 0), axis=1)
    boxes = np.clip(boxes, 0, np.tile(limit, 2))
    return _keep(replace(example, image=image, boxes=boxes), kept)


def drop_small(example: Example, min_side: float) -> tuple[Example, int]:
    """The example without the boxes that have a side shorter than `min_side` pixels, and their number."""
    return _keep(example, np.min(example.boxes[:, 2:] - example.boxes[:, :2], axis=1) >= min_side)


def random_crop(example: Example, rng: np.random.Generator) -> tuple[Example, int]:
    """A random part of the image, and the number of boxes lost: those whose centre is outside.

    SSD's, as in torchvision's RandomIoUCrop: sides of 0.3 to 1 of the image's, an aspect ratio from 0.5 to 2, and at
    least one box whose centre is inside and whose IoU with the part is at least a drawn one of 0, .1, .3, .5, .7, .9.
    Without such a part in 40 tries, and without boxes, the image stays whole.
    """
    least = rng.choice((0.0, 0.1, 0.3, 0.5, 0.7, 0.9))
    boxes = example.boxes[~example.crowd]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    sides = np.array(example.image.shape[:2])
    for _ in range(40 if len(boxes) else 0):
        height, width = np.maximum(1, np.rint(sides * rng.uniform(0.3, 1.0, 2))).astype(int).tolist()
        top, left = rng.integers(0, sides - (height, width) + 1).tolist()
        if not 0.5 <= width / height <= 2:
            continue
        first, last = np.array([[left, top]]), np.array([[left + width, top + height]])
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = np.all((first <= centre) & (centre < last), axis=1)
        common = np.prod(np.maximum(np.minimum(boxes[:, 2:], last) - np.maximum(boxes[:, :2], first), 0), axis=1)
        if np.any(inside & (common / (areas + height * width - common) >= least)):
            return crop(example, top, left, height, width)
    return example, 0


@dataclass(slots=True, frozen=True)
class TrainTransform:
    """The random transforms of training. The fields are those of `config.DataConfig` with the same names."""

    short_side: tuple[int, ...]
    short_side_choice: bool
    long_side: int
    scale_jitter: tuple[float, float]
    color_jitter: float
    flip: float
    min_box_side: float
    random_crop: float = 0.0
    blur: float = 0.0
    noise: float = 0.0

    def __call__(self, example: Example, canvas: tuple[int, int], rng: np.random.Generator) -> Placed:
        """Crops, resizes, zooms (above 1 with a random crop to the canvas), flips and recolours; the result fits
        `canvas` (h, w). What is off draws no random number, so that switching it on is the only difference."""
        lost = 0
        if self.random_crop > 0 and rng.random() < self.random_crop:
            example, lost = random_crop(example, rng)
        if self.short_side_choice:
            short = float(rng.choice(self.short_side))
        else:
            short = rng.uniform(min(self.short_side), max(self.short_side))
        zoom = float(np.exp(rng.uniform(*np.log(self.scale_jitter))))
        flips = rng.random() < self.flip
        corner = rng.random(2)

        original = example.image.shape[:2]
        size = resized_size((original[0], original[1]), short, self.long_side, canvas, zoom)
        example = resize(example, size)
        height, width = min(size[0], canvas[0]), min(size[1], canvas[1])
        if (height, width) != size:
            top, left = (int(c * (s - part + 1)) for c, s, part in zip(corner, size, (height, width), strict=True))
            example, cut = crop(example, top, left, height, width)
            lost += cut
        if flips:
            example = flip(example)
        if self.color_jitter > 0:
            example = replace(example, image=colour.jitter(example.image, self.color_jitter, rng))
        if self.blur > 0:
            example = replace(example, image=colour.blur(example.image, self.blur, rng))
        if self.noise > 0:
            example = replace(example, image=colour.noise(example.image, self.noise, rng))
        example, small = drop_small(example, self.min_box_side)
        return Placed(example, (size[0] / original[0], size[1] / original[1]), lost + small, small)


@dataclass(slots=True, frozen=True)
class EvalTransform:
    """Resizes to the largest of `short_side`, and with `flip` mirrors left to right; every box is kept."""

    short_side: tuple[int, ...]
    long_side: int
    flip: bool = False

    def __call__(self, example: Example, canvas: tuple[int, int]) -> Placed:
        """The result fits `canvas` (h, w), whatever the aspect ratio."""
        height, width = example.image.shape[:2]
        size = resized_size((height, width), max(self.short_side), self.long_side, canvas)
        example = resize(example, size)
        return Placed(flip(example) if self.flip else example, (size[0] / height, size[1] / width), 0)


def _keep(example: Example, kept: np.ndarray) -> tuple[Example, int]:
    lost = int(kept.size - kept.sum())
    boxes, labels, crowd = example.boxes[kept], example.labels[kept], example.crowd[kept]
    return replace(example, boxes=boxes, labels=labels, crowd=crowd), lost
