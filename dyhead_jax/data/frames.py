"""Which pixels the boxes of an annotation file refer to: those of the picture as it is stored, or others.

A label tool shows a photograph upright, as its EXIF orientation says, and writes boxes of what it shows, while the file
stores it on its side; and pictures are made smaller after they were annotated. The size that the annotations declare
tells: equal to the stored size, equal to that of the picture turned upright, or either of them at another scale. YOLO's
fractions come without a size; they are taken of the upright picture, which is what label tools show and what
Ultralytics reads. Sizes are (height, width), boxes x, y, width, height or corners in continuous pixels.
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from dyhead_jax.data import images
from dyhead_jax.data.annotations import ImageRecord, Records, Size
from dyhead_jax.data.images import Header
from dyhead_jax.data.source import DataError

CHOICES = ("", "stored", "upright", "declared")
OPTION = "config.data.source.box_frame"


@dataclass(slots=True)
class Frames:
    """The frame of each image. upright: (n,) bool, pictures to turn as EXIF says; sizes: (n, 2) int64 height, width
    after that; factors: (n, 2) float64 x, y, from the file's numbers to pixels of that picture; notes: as in
    `Records`."""

    upright: np.ndarray
    sizes: np.ndarray
    factors: np.ndarray
    notes: list[str] = field(default_factory=list)


def check_choice(choice: str) -> None:
    """Raises DataError for a value that `OPTION` cannot have."""
    if choice not in CHOICES:
        raise DataError(f"{OPTION} is {choice!r}; it may be {', '.join(map(repr, CHOICES))}")


def declared(records: Records, pictures: Sequence[ImageRecord]) -> Frames:
    """The frames where the declared sizes are to be believed. Raises DataError for an image that has none."""
    for i, image in enumerate(pictures):
        if image.declared is None:
            raise DataError(f"{records.path}: images[{i}] needs a positive integer height and width")
    sizes = np.array([image.declared for image in pictures], np.int64).reshape(-1, 2)
    return Frames(np.zeros(len(sizes), bool), sizes, np.ones((len(sizes), 2)))


def find(
    records: Records,
    pictures: Sequence[ImageRecord],
    headers: Sequence[Header],
    choice: str = "",
    errors: list[str] | None = None,
) -> Frames:
    """The frame of each image, by its declared size and the header of its file.

    choice: "" tells by the sizes; "stored" and "upright" believe that boxes are in pixels of the picture as it is
    stored or turned upright, whatever size is declared; "declared" stretches boxes from the declared size to the stored
    one. Raises DataError, which names file, image and both sizes, where "" finds no turn and no scale that makes one of
    the other.
    """
    options = [_options(image.declared, header, choice) for image, header in zip(pictures, headers, strict=True)]
    leaning = _leaning(records, headers, options)
    exchanged = _exchanged(records, pictures, headers, options)
    faults: list[str] = []
    counts: Counter[str] = Counter()
    upright = np.zeros(len(pictures), bool)
    sizes, factors = np.ones((len(pictures), 2), np.int64), np.ones((len(pictures), 2))
    for row, (image, header, own) in enumerate(zip(pictures, headers, options, strict=True)):
        if not own and row in exchanged:
            own = {False: (1.0, 1.0)}
            counts["exchanged"] += 1
        if not own:
            faults.append(f"{records.path}: {_mismatch(image, header)}")
            own = {False: (1.0, 1.0)}
        turned = bool(leaning) if len(own) > 1 else next(iter(own))
        upright[row] = turned and header.orientation > 1
        sizes[row] = header.upright if turned else header.size
        factors[row] = own[turned]
        if header.orientation > 1:
            counts["upright" if turned else "unclear" if len(own) > 1 and leaning is None else "stored"] += 1
        counts["scaled"] += own[turned] != (1.0, 1.0)
    if errors is not None:
        errors += faults
    elif faults:
        others = f" (the first of {len(faults)} such images)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{others}; {OPTION}=stored, upright or declared says what the boxes refer to")
    notes = _notes(counts, factors)
    if records.fractions:
        factors = factors * sizes[:, ::-1]
    return Frames(upright, sizes, factors, notes)


def declared_picture(path: Path, size: Size | None) -> np.ndarray:
    """A picture (h, w, 3) uint8 RGB in the pixels that boxes of a file refer to which declares this size; None: as it
    is stored. Raises DataError as `find` does, OSError for a file that cannot be read."""
    encoded = images.read_file(path)
    header = images.header(io.BytesIO(encoded), str(path))
    own = _options(size, header, "")
    if not own:
        raise DataError(_mismatch(ImageRecord(0, str(path), size), header))
    image = images.decode(encoded, str(path), upright=False not in own)
    if size is None or image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _options(declared: Size | None, header: Header, choice: str) -> dict[bool, tuple[float, float]]:
    """The frames that a declared size allows, upright (True) or as stored (False), each with the factors x, y."""
    if choice in ("stored", "upright"):
        return {choice == "upright": (1.0, 1.0)}
    sides = {False: header.size, True: header.upright} if header.orientation > 1 else {False: header.size}
    if declared is None:
        return dict.fromkeys(sides, (1.0, 1.0))
    same = {turned: (1.0, 1.0) for turned, size in sides.items() if size == declared}
    if same:
        return same
    factors = {turned: (size[1] / declared[1], size[0] / declared[0]) for turned, size in sides.items()}
    scaled = {turned: factors[turned] for turned, size in sides.items() if _one_scale(declared, size)}
    return scaled or ({False: factors[False]} if choice == "declared" else {})


def _one_scale(declared: Size, size: Size) -> bool:
    """Whether one scale makes `size` of `declared`, within the rounding of a pixel."""
    ranges = [((new - 1) / old, (new + 1) / old) for old, new in zip(declared, size, strict=True)]
    return max(low for low, _ in ranges) < min(high for _, high in ranges)


def _leaning(records: Records, headers: Sequence[Header], options: Sequence[dict]) -> bool | None:
    """Whether images whose size is the same either way (upside down, square) are taken upright, as the others of the
    set say; None when they do not."""
    certain = {
        next(iter(own))
        for header, own in zip(headers, options, strict=True)
        if len(own) == 1 and header.orientation >= 5
    }
    if len(certain) == 1:
        return certain.pop()
    return True if records.fractions else None


def _exchanged(
    records: Records, pictures: Sequence[ImageRecord], headers: Sequence[Header], options: Sequence[dict]
) -> set[int]:
    """The rows of images that declare width and height in each other's place, while their boxes are right.

    So it is when, of all images whose declared size is the stored one turned, with no EXIF orientation that says so,
    boxes of one do not fit what is declared, and the boxes of all fit what is stored.
    """
    rows = {
        image.id: row
        for row, (image, header, own) in enumerate(zip(pictures, headers, options, strict=True))
        if not own and image.declared == header.size[::-1]
    }
    proven = False
    for annotation in records.annotations if rows else ():
        row = rows.get(annotation.image_id)
        if row is None:
            continue
        x, y, width, height = annotation.bbox
        stored = headers[row].size
        if x + width > stored[1] + 1 or y + height > stored[0] + 1:
            return set()
        proven |= x + width > stored[0] + 1 or y + height > stored[1] + 1
    return set(rows.values()) if proven else set()


def _mismatch(image: ImageRecord, header: Header) -> str:
    (height, width), (own_height, own_width) = image.declared or (0, 0), header.size
    turned = f" (EXIF orientation {header.orientation})" if header.orientation > 1 else ""
    return (
        f"{image.file_name} is {own_width}x{own_height} pixels{turned}, but declared as {width}x{height}, which is"
        " neither the same picture turned nor at another scale"
    )


def _notes(counts: Counter[str], factors: np.ndarray) -> list[str]:
    scaled = np.sort(factors[(factors != 1).any(axis=1)].mean(axis=1))
    text = {
        "upright": "images turned upright by their EXIF orientation, as they were annotated",
        "stored": "images have an EXIF orientation that is not applied, as they were annotated without it",
        "unclear": f"images have an EXIF orientation, and nothing tells whether they were annotated with it; it is not"
        f" applied ({OPTION}=upright would)",
        "scaled": "images are of another size than when they were annotated; their boxes are scaled",
        "exchanged": "images declare width and height in each other's place, as their boxes show; the file's size is"
        " used",
    }
    notes = [f"{counts[kind]} {words}" for kind, words in text.items() if counts[kind]]
    if len(scaled):
        notes = [f"{note} (by {scaled[0]:.3g} to {scaled[-1]:.3g})" if "scaled" in note else note for note in notes]
    return notes
