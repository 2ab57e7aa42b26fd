"""What a data set is to the rest of the package: an example, a split of examples, and a source of splits.

Coordinates: a box is (x1, y1, x2, y2) in pixels of the original image, float32, continuous: the pixel in column 0
covers 0 <= x < 1. The image is as it is stored, or turned upright where its annotations are of that (see `frames`). A
size is (height, width).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dyhead_jax.config import DataConfig, nodes

NO_IMAGE = -(2**63)
"""The image id of a row that only fills up a batch. No image of a data set has it."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file and the record or key at fault."""


@dataclass(slots=True)
class Example:
    """One image with its boxes.

    image: (h, w, 3) uint8 RGB; image_id: the file's own id, 64 bits, not NO_IMAGE; file_name: as in the file;
    boxes: (n, 4) float32 x1 y1 x2 y2 inside the image; labels: (n,) int32, contiguous from 0;
    crowd: (n,) bool, True where the box marks a crowd region that training leaves out.
    """

    image: np.ndarray
    image_id: int
    file_name: str
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


class Split(Protocol):
    """The training or the validation part of a data set, with random access. Picklable, for worker processes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by label."""
        ...

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The file's category ids by label."""
        ...

    @property
    def image_ids(self) -> np.ndarray:
        """(n,) int64, the file's own ids; none is NO_IMAGE."""
        ...

    @property
    def sizes(self) -> np.ndarray:
        """(n, 2) int64 height and width of every image, known without decoding."""
        ...

    @property
    def box_counts(self) -> np.ndarray:
        """(n,) int64, the boxes of every image that can be trained on: with an area, and not crowd."""
        ...

    def box_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each box that can be trained on the row of its image and its label, (k,) int64 and (k,) int32."""
        ...

    @property
    def notes(self) -> list[str]:
        """One line for each kind of thing left out or repaired, with its count."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        """Decodes one image. Raises DataError, which names the file, when it cannot be read."""
        ...

    def coco(self) -> dict[str, Any]:
        """The ground truth as a COCO object (images, annotations, categories) for pycocotools: original ids and boxes,
        every annotation with `iscrowd` and `area`."""
        ...


class Source(Protocol):
    """Made by `nodes.build(config.data.source, workdir=...)`."""

    def split(self, name: str) -> Split:
        """name: "train" or "val". Raises DataError."""
        ...


def make_source(data: DataConfig, workdir: str | Path) -> Source:
    """The source that a config names; `data.root`, when set, replaces `data.source.root`.

    workdir: a source may keep what it prepares in the folder `data` below it.
    Raises DataError when the source cannot take a root, ConfigError when its import path leads nowhere.
    """
    node = data.source
    if data.root:
        try:
            node = replace(node, root=data.root)
        except TypeError as error:
            raise DataError(f"config.data.root is set, but {type(node).__name__} has no field 'root'") from error
    return nodes.build(node, workdir=Path(workdir))
