"""Pictures of drawn shapes, of which `shapes.Shapes` consists.

A picture has 1 to 10 shapes of six kinds, with sides uniform from 8 to 100 pixels and any rotation, stretched and
textured; they may overlap one another and the border. The background has colour clouds, stripes, noise and stray lines.
At least a share `VISIBLE` of every shape lies inside the picture, and at least `VISIBLE` of that is not covered, so
that each annotation can be seen.

Coordinates: x1 y1 x2 y2 in pixels, continuous, the pixel in column 0 covers 0 <= x < 1.
"""

from dataclasses import dataclass

import cv2
import numpy as np

NAMES = ("circle", "square", "triangle", "star", "cross", "ring")
VISIBLE = 0.65
MIN_SIDE, MAX_SIDE = 8.0, 100.0
MAX_SHAPES = 10
_FINE = 4  # supersampling of the masks, per axis


@dataclass(slots=True)
class Picture:
    """A picture and its annotations.

    image: (size, size, 3) uint8 RGB; boxes: (n, 4) float32 x1 y1 x2 y2, the tight extent of each shape inside the
    picture; labels: (n,) int32 into NAMES; masks: n arrays (size, size) float32, the coverage of each whole shape.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: list[np.ndarray]


def draw(rng: np.random.Generator, size: int) -> Picture:
    """One picture of size x size pixels."""
    canvas = _background(rng, size)
    owner = np.full((size, size), -1, np.int64)  # which shape each pixel shows
    shown = np.zeros(0, np.int64)  # pixels that each shape shows
    needed: list[float] = []  # pixels that it must go on showing
    boxes, labels, masks = [], [], []
    for _ in range(rng.integers(1, MAX_SHAPES + 1)):
        for _attempt in range(6):
            label = int(rng.integers(len(NAMES)))
            contours = _contours(rng, label, size)
            region, coverage = _coverage(contours, size)
            inside = coverage >= 0.5
            whole = _area(contours)
            below = owner[region][inside]
            covered = np.bincount(below[below >= 0], minlength=len(masks))
            if inside.sum() < VISIBLE * whole or np.any(shown - covered < needed):
                continue
            owner[region][inside] = len(masks)
            shown = np.append(shown - covered, inside.sum())
            needed.append(VISIBLE * inside.sum())
            part = canvas[region]
            part += coverage[:, :, None] * (_fill(rng, part, inside) - part)
            outline = _clip(contours[0], size)
            boxes.append(np.concatenate([outline.min(0), outline.max(0)]))
            labels.append(label)
            masks.append(np.zeros((size, size), np.float32))
            masks[-1][region] = coverage
            break
    image = _camera(rng, canvas)
    return Picture(image, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int32), masks)


def _contours(rng: np.random.Generator, label: int, size: int) -> list[np.ndarray]:
    """The outline of a shape as closed polygons (p, 2), x y in pixels; the second one of a ring is its hole."""
    side = rng.uniform(MIN_SIDE, min(MAX_SIDE, 0.7 * size))
    contours = [contour.copy() for contour in _UNIT[NAMES[label]]]
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    stretch = np.array([1.0, rng.uniform(0.7, 1.0)])
    turned = [(contour * stretch) @ np.array([[cos, sin], [-sin, cos]]) for contour in contours]
    extent = turned[0].max(0) - turned[0].min(0)
    centre = rng.uniform(0.0, size, 2)
    # The longer side of the box is `side`, whatever the rotation.
    return [contour * side / extent.max() + centre for contour in turned]


def _unit_shapes() -> dict[str, list[np.ndarray]]:
    def ngon(angles: np.ndarray, radii: float | np.ndarray = 1.0) -> np.ndarray:
        return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.reshape(radii, (-1, 1))

    around = np.arange(64) * (2 * np.pi / 64)
    arm = 0.36
    cross = [(arm, arm), (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm)]
    return {
        "circle": [ngon(around)],
        "square": [np.array([(-1.0, -1), (1, -1), (1, 1), (-1, 1)])],
        "triangle": [ngon(np.arange(3) * (2 * np.pi / 3))],
        "star": [ngon(np.arange(10) * (np.pi / 5), np.where(np.arange(10) % 2, 0.42, 1.0))],
        "cross": [np.array(cross + [(-x, -y) for x, y in cross], np.float64)],
        "ring": [ngon(around), ngon(around, 0.55)],
    }


_UNIT = _unit_shapes()


def _area(contours: list[np.ndarray]) -> float:
    areas = [abs(cv2.contourArea(contour.astype(np.float32))) for contour in contours]
    return areas[0] - sum(areas[1:])


def _clip(polygon: np.ndarray, size: int) -> np.ndarray:
    """A polygon (p, 2) cut to the picture (Sutherland and Hodgman, 1974): its extent is that of the part inside."""
    corners = polygon.tolist()
    for axis, sign, border in ((0, 1, 0), (1, 1, 0), (0, -1, size), (1, -1, size)):
        kept = []
        for corner, following in zip(corners, corners[1:] + corners[:1], strict=True):
            depth, next_depth = sign * (corner[axis] - border), sign * (following[axis] - border)
            if depth >= 0:
                kept.append(corner)
            if depth * next_depth < 0:
                share = depth / (depth - next_depth)
                kept.append([a + share * (b - a) for a, b in zip(corner, following, strict=True)])
        corners = kept
    return np.clip(np.array(corners), 0, size)  # rounding may put a cut beyond the border


def _coverage(contours: list[np.ndarray], size: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """The part of the picture that a shape touches, and its coverage there, float32 in [0, 1].

    It is drawn four times finer and averaged; OpenCV's own smoothing would draw it too wide.
    """
    points = np.concatenate(contours)
    x1, y1 = np.clip(np.floor(points.min(0)).astype(int), 0, size - 1)
    x2, y2 = np.clip(np.ceil(points.max(0)).astype(int), [x1 + 1, y1 + 1], size)
    fine = np.zeros(((y2 - y1) * _FINE, (x2 - x1) * _FINE), np.uint8)
    fixed = [np.round(((c - (x1, y1)) * _FINE - 0.5) * 16).astype(np.int32) for c in contours]
    cv2.fillPoly(fine, fixed, 255, shift=4)
    coverage = cv2.resize(fine, (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA) / np.float32(255)
    return (slice(y1, y2), slice(x1, x2)), coverage


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) float32: clouds between two colours, sometimes stripes, a few stray lines and dots."""
    first, second = rng.uniform(20, 235, (2, 3)).astype(np.float32)
    clouds = _clouds(rng, size, size, int(rng.integers(2, 9)))
    canvas = first + clouds[:, :, None] * (second - first)
    if rng.random() < 0.4:
        canvas += _stripes(rng, size, size)[:, :, None] * rng.uniform(8, 30)
    for _ in range(rng.integers(0, 7)):
        color = rng.uniform(0, 255, 3).tolist()
        ends = rng.integers(0, size, (2, 2)).tolist()
        if rng.random() < 0.7:
            cv2.line(canvas, ends[0], ends[1], color, int(rng.integers(1, 3)), cv2.LINE_AA)
        else:
            cv2.circle(canvas, ends[0], int(rng.integers(1, 3)), color, -1, cv2.LINE_AA)
    return canvas


def _fill(rng: np.random.Generator, canvas: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Paint for a shape, (h, w, 3) float32: plain, clouded, striped or speckled.

    canvas: (h, w, 3) float32, the part of the picture below the shape; inside: (h, w) bool, the shape. The colour is
    redrawn up to 20 times while it is close to the mean colour below.
    """
    height, width = inside.shape
    below = canvas[inside].mean(0)
    color = rng.uniform(0, 255, 3)
    for _ in range(20):
        if np.linalg.norm(color - below) > 70:
            break
        color = rng.uniform(0, 255, 3)
    paint = np.broadcast_to(color.astype(np.float32), canvas.shape)
    kind = rng.random()
    if kind < 0.25:
        paint = paint + (_clouds(rng, height, width, 6)[:, :, None] - 0.5) * np.float32(rng.uniform(20, 80))
    elif kind < 0.5:
        paint = paint + _stripes(rng, height, width)[:, :, None] * np.float32(rng.uniform(10, 35))
    elif kind < 0.65:
        paint = paint + rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(5, 20))
    return paint


def _clouds(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    coarse = rng.random((cells, cells), np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 24)
    along = np.arange(max(height, width), dtype=np.float32) * np.float32(2 * np.pi / period)
    phase = np.float32(np.cos(angle)) * along[None, :width] + np.float32(np.sin(angle)) * along[:height, None]
    return np.sin(phase)


def _camera(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Blur, noise and rounding to uint8."""
    if rng.random() < 0.3:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.8))
    noise = rng.standard_normal(canvas.shape, np.float32)
    return np.clip(canvas + noise * np.float32(rng.uniform(1, 10)), 0, 255).astype(np.uint8)
