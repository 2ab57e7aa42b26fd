"""Geometry and colour of training and evaluation images: pure functions of an Example and a numpy Generator.

Coordinates: boxes are (x1, y1, x2, y2) in pixels of the example's own image, continuous, the pixel in column 0 covers
0 <= x < 1; scales and sizes are (height, width). Images stay uint8.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from dyhead_jax.data.source import Example

_LUMA = np.array([0.299, 0.587, 0.114])  # of RGB, ITU-R BT.601


@dataclass(slots=True)
class Placed:
    """A transformed example, which fits into its canvas from the top-left corner on.

    example: the image and its remaining boxes; scale: (y, x), resized size over original size; left_out: boxes that
    were too small after the transforms, or whose centre a crop cut away.
    """

    example: Example
    scale: tuple[float, float]
    left_out: int


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


def jitter_color(example: Example, strength: float, rng: np.random.Generator) -> Example:
    """Brightness, contrast and saturation, each changed by a factor from 1 - strength to 1 + strength, in one pass.

    The three are one affine map of a pixel's colour: saturation mixes it with its own grey, contrast with the image's
    mean grey, brightness scales the result.
    """
    brightness, contrast, saturation = rng.uniform(max(0.0, 1 - strength), 1 + strength, 3)
    mean_gray = float(np.dot(_LUMA, cv2.mean(example.image)[:3]))
    mix = saturation * np.eye(3) + (1 - saturation) * np.tile(_LUMA[None, :], (3, 1))
    shift = np.full((3, 1), brightness * (1 - contrast) * mean_gray)
    image = cv2.transform(example.image, np.concatenate([brightness * contrast * mix, shift], axis=1))
    return replace(example, image=image)


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

    def __call__(self, example: Example, canvas: tuple[int, int], rng: np.random.Generator) -> Placed:
        """Resizes, zooms (above 1 with a random crop to the canvas), flips and recolours; the result fits `canvas`
        (h, w)."""
        if self.short_side_choice:
            short = float(rng.choice(self.short_side))
        else:
            short = rng.uniform(min(self.short_side), max(self.short_side))
        zoom = float(np.exp(rng.uniform(*np.log(self.scale_jitter))))
        flips = rng.random() < self.flip
        corner = rng.random(2)

        original = example.image.shape[:2]
        size = resized_size((original[0], original[1]), short, self.long_side, canvas, zoom)
        example, lost = resize(example, size), 0
        height, width = min(size[0], canvas[0]), min(size[1], canvas[1])
        if (height, width) != size:
            top, left = (int(c * (s - part + 1)) for c, s, part in zip(corner, size, (height, width), strict=True))
            example, lost = crop(example, top, left, height, width)
        if flips:
            example = flip(example)
        if self.color_jitter > 0:
            example = jitter_color(example, self.color_jitter, rng)
        example, small = drop_small(example, self.min_box_side)
        return Placed(example, (size[0] / original[0], size[1] / original[1]), lost + small)


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
