"""Pictures for people: boxes drawn on an image, images in a grid, files.

Coordinates: boxes are (x1, y1, x2, y2) in pixels of the picture they are drawn on, continuous, as in `types`. Pictures
are (h, w, 3) uint8 RGB NumPy arrays.
"""

import colorsys
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dyhead_jax.data import fonts
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
    and is left out where it does not fit. The box with the highest score is drawn last, on top. A name that no font can
    show becomes "class <label>" (see `fonts`).
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
    points = max(11, round((height + width) / 80))
    names = fonts.readable(class_names)
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
        text = names[labels[i]]
        _label(pen, (x1, y1), (width, height), text if scores is None else f"{text} {scores[i]:.2f}", shade, points)
    return np.array(picture)


def _label(
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    size: tuple[int, int],
    text: str,
    shade: tuple[int, int, int],
    points: int,
) -> None:
    """Text on a background of the box's colour above the corner (x, y), moved to lie inside size (width, height)."""
    text = " ".join(text.split()) or " "
    while True:
        parts = fonts.runs(text, points)
        text_width = int(np.ceil(sum(font.getlength(part) for part, font in parts))) + 4
        ascent, descent = (max(values) for values in zip(*(font.getmetrics() for _, font in parts), strict=True))
        if text_width <= size[0] and ascent + descent <= size[1]:
            break
        points -= 1
        if points < _SMALLEST_TEXT:
            return
    x = max(0, min(corner[0], size[0] - text_width))
    y = max(0, min(corner[1] - ascent - descent, size[1] - ascent - descent))
    pen.rectangle((x, y, x + text_width - 1, y + ascent + descent - 1), fill=shade)
    bright = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] > 140
    _write(pen, (x + 2, y + ascent), text, (0, 0, 0) if bright else (255, 255, 255), points)


def _write(
    pen: ImageDraw.ImageDraw, start: tuple[float, int], text: str, shade: tuple[int, int, int], points: int
) -> None:
    """Writes a text from `start` (x, y) on; y is its baseline."""
    x, y = start
    for part, font in fonts.runs(text, points):
        pen.text((x, y), part, fill=shade, font=font, anchor="ls")
        x += font.getlength(part)


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
        ascent, _ = fonts.load(fonts.DEJAVU, 14).getmetrics()
        left = gap
        for title, column_width in zip(titles, widths, strict=False):
            _write(pen, (left, gap + ascent), title, (0, 0, 0), 14)
            left += column_width + gap
        canvas = np.array(picture)
    return canvas


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
