"""Training images made of several: mosaic, pasted boxes and mixup.

All images are of the training part and go through the same random transforms. Which ones, and where they are put, comes
from the generator of the row, so that a row is the same on any host and after any resumption. Coordinates are those of
`transforms`: boxes (x1, y1, x2, y2) in pixels of the image, continuous.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dyhead_jax.data import transforms
from dyhead_jax.data.source import Example
from dyhead_jax.data.transforms import Placed, TrainTransform

FILL = 114  # grey where no image is, as in YOLOv5 and mmdetection
_OVERLAP = 0.3  # of a pasted box with another, over the smaller of the two, at most; as in Ultralytics
_TRIES = 10  # places that a box is tried at before it is not pasted
_WEIGHT = 32.0  # both parameters of mixup's beta distribution: near one half; as in Ultralytics


@dataclass(slots=True, frozen=True)
class Mixer:
    """Makes the image of a row. read: an example by its row of the split; rows: (n,) rows to take others from;
    transform: of each image; mosaic, copy_boxes, mixup: probabilities, fields of `config.DataConfig`."""

    read: Callable[[int], Example]
    rows: np.ndarray
    transform: TrainTransform
    mosaic: float
    copy_boxes: float
    mixup: float

    def __call__(self, row: int, canvas: tuple[int, int], rng: np.random.Generator) -> Placed:
        """The image `row` of the split with what is mixed into it; fits `canvas` (h, w).

        Its id, file name and scale are those of the image `row`; left_out counts lost boxes of all images.
        """
        if self.mosaic > 0 and rng.random() < self.mosaic:
            placed = self._mosaic(row, canvas, rng)
        else:
            placed = self.transform(self.read(row), canvas, rng)
        if self.copy_boxes > 0 and rng.random() < self.copy_boxes:
            placed = paste_boxes(placed, self._other(canvas, rng), rng)
        if self.mixup > 0 and rng.random() < self.mixup:
            placed = mixup(placed, self._other(canvas, rng), rng.beta(_WEIGHT, _WEIGHT))
        return placed

    def _other(self, canvas: tuple[int, int], rng: np.random.Generator) -> Placed:
        return self.transform(self.read(int(rng.choice(self.rows))), canvas, rng)

    def _mosaic(self, row: int, canvas: tuple[int, int], rng: np.random.Generator) -> Placed:
        """Four images around a point in the middle half of the canvas, each at half to all of its usual size."""
        centre_y, centre_x = (max(1, int(side * rng.uniform(0.25, 0.75))) for side in canvas)
        pieces = []
        for image in (row, *rng.choice(self.rows, 3).tolist()):
            zoom = rng.uniform(0.5, 1.0)
            height, width = (max(1, int(side * zoom)) for side in canvas)
            pieces.append(self.transform(self.read(image), (height, width), rng))
        return mosaic(pieces, canvas, (centre_y, centre_x), self.transform.min_box_side)


def mosaic(pieces: list[Placed], canvas: tuple[int, int], centre: tuple[int, int], min_box_side: float) -> Placed:
    """Four images on one canvas (h, w), each with a corner at `centre` (y, x), cut where the canvas ends: YOLOv4's.

    Order: above left, above right, below left, below right. Boxes whose centre is cut away, or that are left with a
    side under `min_box_side` pixels, are counted in left_out.
    """
    image = np.full((*canvas, 3), FILL, np.uint8)
    parts, left_out, too_small = [], 0, 0
    for number, piece in enumerate(pieces):
        height, width = piece.example.image.shape[:2]
        below, right = divmod(number, 2)
        rows = min(height, canvas[0] - centre[0] if below else centre[0])
        columns = min(width, canvas[1] - centre[1] if right else centre[1])
        # Below and to the right of the point an image begins at it; above and to the left it ends there.
        start = 0 if below else height - rows, 0 if right else width - columns
        part, lost = transforms.crop(piece.example, *start, rows, columns)
        part, small = transforms.drop_small(part, min_box_side)
        top = centre[0] if below else centre[0] - rows
        left = centre[1] if right else centre[1] - columns
        image[top : top + rows, left : left + columns] = part.image
        parts.append(replace(part, boxes=part.boxes + np.array([[left, top, left, top]], np.float32)))
        left_out += piece.left_out + lost + small
        too_small += piece.too_small
    return Placed(_with_boxes(parts[0], image, parts), pieces[0].scale, left_out, too_small)


def paste_boxes(placed: Placed, other: Placed, rng: np.random.Generator) -> Placed:
    """Pastes each box of `other`, with probability one half, at a random place: copy-paste for boxes without masks.

    Box and place are as they are in `other`, cut as a rectangle. It must not overlap any box that is there, crowd
    regions among them, by more than a third of the smaller one; where ten places do, it is not pasted. No box of
    `placed` is lost. Based on https://arxiv.org/abs/2012.07177.
    """
    image = placed.example.image.copy()
    height, width = image.shape[:2]
    boxes, labels = placed.example.boxes, placed.example.labels
    for box, label, crowd in zip(other.example.boxes, other.example.labels, other.example.crowd, strict=True):
        if crowd or rng.random() < 0.5:
            continue
        x1, y1 = np.floor(box[:2]).astype(int)
        x2, y2 = np.ceil(box[2:]).astype(int)
        patch = other.example.image[y1:y2, x1:x2]
        rows, columns = patch.shape[:2]
        for _ in range(_TRIES if rows <= height and columns <= width else 0):
            top, left = rng.integers(0, (height - rows + 1, width - columns + 1)).tolist()
            moved = box + np.array([left - x1, top - y1, left - x1, top - y1], np.float32)
            if overlap(moved, boxes).max(initial=0.0) <= _OVERLAP:
                image[top : top + rows, left : left + columns] = patch
                boxes, labels = np.concatenate([boxes, moved[None, :]]), np.append(labels, label)
                break
    crowd = np.concatenate([placed.example.crowd, np.zeros(len(boxes) - len(placed.example.crowd), bool)])
    return replace(placed, example=replace(placed.example, image=image, boxes=boxes, labels=labels, crowd=crowd))


def mixup(placed: Placed, other: Placed, weight: float) -> Placed:
    """The two images over each other, `placed` with `weight` and `other` with the rest, with the boxes of both.

    From the same top-left corner; the result is as large as the larger in each direction, filled with grey. Source:
    https://arxiv.org/abs/1902.04103 (weights of the losses are left as they are, as in Ultralytics and YOLOX).
    """
    sides = [np.maximum(a, b) for a, b in zip(placed.example.image.shape, other.example.image.shape, strict=True)]
    filled = []
    for example in (placed.example, other.example):
        image = np.full(sides, FILL, np.float32)
        image[: example.image.shape[0], : example.image.shape[1]] = example.image
        filled.append(image)
    image = np.rint(filled[0] * np.float32(weight) + filled[1] * np.float32(1 - weight)).astype(np.uint8)
    example = _with_boxes(placed.example, image, [placed.example, other.example])
    return Placed(example, placed.scale, placed.left_out + other.left_out, placed.too_small + other.too_small)


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(n,) the intersection of box (4,) with each of boxes (n, 4), over the area of the smaller of the two."""
    sides = np.minimum(box[None, 2:], boxes[:, 2:]) - np.maximum(box[None, :2], boxes[:, :2])
    areas = np.minimum(np.prod(box[2:] - box[:2]), np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    return np.prod(np.maximum(sides, 0), axis=1) / np.maximum(areas, 1e-9)


def _with_boxes(first: Example, image: np.ndarray, parts: list[Example]) -> Example:
    boxes = np.concatenate([part.boxes for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    crowd = np.concatenate([part.crowd for part in parts])
    return replace(first, image=image, boxes=boxes, labels=labels, crowd=crowd)
