"""COCO annotations and encoded images as one `source.Split`."""

from typing import Any

import numpy as np

from dyhead_jax.data import coco_json, images
from dyhead_jax.data.encoded import EncodedImages
from dyhead_jax.data.index import Index
from dyhead_jax.data.source import DataError, Example


class CocoSplit:
    """A `source.Split` of COCO annotations (`index`) and encoded images, both by row."""

    def __init__(self, index: Index, encoded: EncodedImages):
        self.index = index
        self.encoded = encoded
        self.class_names = index.class_names
        self.category_ids = index.category_ids
        self.image_ids = index.image_ids
        self.sizes = index.sizes
        self.box_counts = index.box_counts()
        self.notes = index.notes

    def __len__(self) -> int:
        return len(self.index.file_names)

    def box_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """See `source.Split.box_labels`."""
        index = self.index
        rows = np.repeat(np.arange(len(self)), np.diff(index.starts))
        return rows[~index.crowd], index.labels[~index.crowd]

    def __getitem__(self, index: int) -> Example:
        """Decodes one image. Raises DataError when it is broken or not of the size that the index has."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        upright = bool(self.index.upright[index])
        image = images.decode(self.encoded.read(index), self.encoded.name(index), upright=upright)
        if image.shape[:2] != tuple(self.sizes[index]):
            height, width = self.sizes[index]
            raise DataError(
                f"{self.encoded.name(index)} is {image.shape[1]}x{image.shape[0]} pixels, not {width}x{height} as when"
                f" the data set was opened, or as {self.index.path} says"
            )
        own = slice(self.index.starts[index], self.index.starts[index + 1])
        return Example(
            image=image,
            image_id=int(self.index.image_ids[index]),
            file_name=self.index.file_names[index],
            boxes=self.index.boxes[own].copy(),
            labels=self.index.labels[own].copy(),
            crowd=self.index.crowd[own].copy(),
        )

    def coco(self) -> dict[str, Any]:
        """See `source.Split.coco`."""
        return coco_json.ground_truth(self.index)
