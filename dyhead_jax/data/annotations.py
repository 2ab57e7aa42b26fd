"""What annotation files of any kind say, before it meets the pictures.

A reader (`coco_json`, `layouts.yolo`, `layouts.voc`) turns its files into `Records` and names every fault by file and
record; what follows is the same for all of them (see `index`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dyhead_jax.data.source import DataError

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(slots=True)
class ImageRecord:
    """An image. file_name: relative to the image folder; declared: the (height, width) that the file gives, None where
    it gives none that is of positive whole numbers."""

    id: int
    file_name: str
    declared: Size | None = None


@dataclass(slots=True)
class Annotation:
    """A box as its file has it: bbox is x, y, width, height; area and crowd as in COCO; area None: that of the box."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None
    crowd: bool


@dataclass(slots=True)
class Records:
    """What annotation files say, checked for faults but not repaired.

    path: what an error calls them; categories: names by id, in the order of the ids; every annotation's image_id and
    category_id is among images and categories; fractions: boxes are fractions of the picture in the place of pixels;
    notes: one line for each kind of thing that the reader left out or took in another way.
    """

    path: Path
    categories: dict[int, str]
    images: list[ImageRecord]
    annotations: list[Annotation]
    fractions: bool = False
    notes: list[str] = field(default_factory=list)


@contextmanager
def collected(errors: list[str] | None) -> Iterator[None]:
    """Puts the message of a DataError in the block into a list; with None in its place the error goes on."""
    try:
        yield
    except DataError as error:
        if errors is None:
            raise
        errors.append(str(error))
