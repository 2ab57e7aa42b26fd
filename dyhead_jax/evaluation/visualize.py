"""Draws boxes: on one image, or predicted beside true boxes in a grid.

Coordinates: boxes are (x1, y1, x2, y2) in pixels of the picture they are drawn on, continuous, as in `types`. Pictures
are (h, w, 3) uint8 RGB NumPy arrays.
"""

import colorsys
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dyhead_jax.data.source import Split
from dyhead_jax.files import write_atomic

_SMALLEST_TEXT = 8  # pixels; smaller letters are unreadable


def color(label: int) -> tuple[int, int, int]:
    """The RGB colour of a class. Hues advance by the golden ratio, so that neighbouring labels differ clearly."""
    hue = (0.02 + int(label) * 0.61803398875) % 1.0
    lightness = (0.5, 0.62, 0.4)[int(label) // 12 % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None,
    class_names: Sequence[str],
) -> np.ndarray:
    """A copy of the image with boxes, class names and scores.

    image: (h, w, 3) uint8; boxes: (n, 4) x1 y1 x2 y2 in its pixels; labels: (n,) indices into class_names;
    scores: (n,), or None for true boxes. Line width and text size scale with the picture; text stays inside the picture
    and is left out where it does not fit. The box with the highest score is drawn last, on top.
    Raises ValueError for other shapes and for a label without a name.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is (h, w, 3) uint8, not {image.shape} {image.dtype}")
    boxes, labels = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(labels).reshape(-1)
    if len(labels) != len(boxes) or (scores is not None and len(scores) != len(boxes)):
        raise ValueError(f"{len(boxes)} boxes, {len(labels)} labels, {'no' if scores is None else len(scores)} scores")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(class_names):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, but {len(class_names)} class names")
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    line = max(1, round((height + width) / 600))
    font = _font(max(11, round((height + width) / 80)))
    order = range(len(boxes)) if scores is None else np.argsort(scores, kind="stable")
    for i in order:
        if not np.isfinite(boxes[i]).all():
            continue
        x1, y1 = (max(int(v), 0) for v in np.floor(boxes[i, :2]))
        x2, y2 = min(int(np.ceil(boxes[i, 2])), width) - 1, min(int(np.ceil(boxes[i, 3])), height) - 1
        if x2 < x1 or y2 < y1:
            continue  # entirely outside
        shade = color(labels[i])
        pen.rectangle((x1, y1, x2, y2), outline=shade, width=line)
        text = str(class_names[labels[i]])
        _label(pen, (x1, y1), (width, height), text if scores is None else f"{text} {scores[i]:.2f}", shade, font)
    return np.array(picture)


def _label(
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    size: tuple[int, int],
    text: str,
    shade: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    """Text on a background of the box's colour above the corner (x, y), moved to lie inside size (width, height)."""
    points = font.size
    text = " ".join(text.split())
    while True:
        ascent, descent = font.getmetrics()
        text_width, text_height = int(np.ceil(font.getlength(text))) + 4, ascent + descent
        if text_width <= size[0] and text_height <= size[1]:
            break
        points -= 1
        if points < _SMALLEST_TEXT:
            return
        font = _font(int(points))
    x = max(0, min(corner[0], size[0] - text_width))
    y = max(0, min(corner[1] - text_height, size[1] - text_height))
    pen.rectangle((x, y, x + text_width - 1, y + text_height - 1), fill=shade)
    bright = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] > 140
    pen.text((x + 2, y), text, fill=(0, 0, 0) if bright else (255, 255, 255), font=font)


@cache
def _font(points: int) -> ImageFont.FreeTypeFont:
    # DejaVu Sans comes with matplotlib and covers Latin, Greek, Cyrillic and Arabic; Pillow's font covers only ASCII.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), points)


def fit(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """The image scaled to a longer side of `side` pixels, and the scale factor for its boxes."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)), scale


def grid(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] = (), *, gap: int = 6) -> np.ndarray:
    """Arranges pictures in a grid on white, each centred in its cell, with an optional title above each column.

    rows: (h, w, 3) uint8 pictures of any size; rows may differ in length. Returns one (h, w, 3) uint8 picture.
    """
    if not any(len(row) for row in rows):
        raise ValueError("a grid needs at least one picture")
    columns = max(len(row) for row in rows)
    heights = [max((picture.shape[0] for picture in row), default=0) for row in rows]
    widths = [max((row[i].shape[1] for row in rows if i < len(row)), default=0) for i in range(columns)]
    head = 24 if titles else 0
    height, width = head + gap + sum(h + gap for h in heights), gap + sum(w + gap for w in widths)
    canvas = np.full((height, width, 3), 255, np.uint8)
    top = head + gap
    for row, row_height in zip(rows, heights, strict=True):
        left = gap
        for picture, column_width in zip(row, widths, strict=False):
            y = top + (row_height - picture.shape[0]) // 2
            x = left + (column_width - picture.shape[1]) // 2
            canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
            left += column_width + gap
        top += row_height + gap
    if titles:
        picture = Image.fromarray(canvas)
        pen = ImageDraw.Draw(picture)
        left = gap
        for title, column_width in zip(titles, widths, strict=False):
            pen.text((left, gap), title, fill=(0, 0, 0), font=_font(14))
            left += column_width + gap
        canvas = np.array(picture)
    return canvas


def held_out(
    split: Split,
    results: Iterable[Mapping[str, Any]],
    *,
    count: int = 9,
    score: float = 0.3,
    side: int = 320,
    pairs: int = 3,
) -> np.ndarray:
    """A grid of the first `count` images of a split, in pairs: predicted boxes on the left, true ones on the right.

    results: COCO results of the split (see `split.to_results`); those scored below `score` are left out. side: longer
    side of a picture, in pixels. pairs: per row. Crowd regions are drawn as true boxes named "<class> (crowd)".
    """
    count = min(count, len(split))
    shown = {int(split.image_ids[i]): [] for i in range(count)}
    for result in results:
        if result["score"] >= score and result["image_id"] in shown:
            shown[result["image_id"]].append(result)
    label_of = {category: label for label, category in enumerate(split.category_ids)}
    truth_names = [*split.class_names, *(f"{name} (crowd)" for name in split.class_names)]
    tiles = []
    for i in range(count):
        example = split[i]
        small, scale = fit(example.image, side)
        detections = shown[example.image_id]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (result["bbox"] for result in detections)]
        predicted = draw(
            small,
            np.array(corners, np.float64).reshape(-1, 4) * scale,
            np.array([label_of[result["category_id"]] for result in detections], int),
            np.array([result["score"] for result in detections]),
            split.class_names,
        )
        crowd = np.where(example.crowd, len(split.class_names), 0)
        true = draw(small, example.boxes * scale, example.labels + crowd, None, truth_names)
        tiles += [predicted, true]
    rows = [tiles[i : i + 2 * pairs] for i in range(0, len(tiles), 2 * pairs)]
    return grid(rows, ["predicted", "true"] * min(pairs, count))


def save(image: np.ndarray, path: str | Path) -> None:
    """Writes a .png, .jpg or .webp file atomically."""
    path = Path(path)
    buffer = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    extension = Image.registered_extensions().get(path.suffix.lower())
    if extension is None:
        raise ValueError(f"{path}: pictures are saved as .png, .jpg or .webp")
    Image.fromarray(image).save(buffer, format=extension, **options)
    write_atomic(path, buffer.getvalue())
