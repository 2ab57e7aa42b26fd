"""The built-in data set: drawn shapes, made on first use and kept as array_record files with COCO annotations."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dyhead_jax import command
from dyhead_jax.data import coco_json, drawing
from dyhead_jax.data.coco_source import CocoSource
from dyhead_jax.data.coco_split import CocoSplit
from dyhead_jax.data.packing import shards
from dyhead_jax.data.packing.records import PackedImages, Record
from dyhead_jax.data.source import DataError
from dyhead_jax.files import write_atomic

_VERSION = 2  # of the drawings, in the folder's name: other drawings are another data set
_STREAM = {"train": 0, "val": 1}  # train and val pictures come from different random streams


class Shapes(CocoSource):
    """The `source.Source` of drawn shapes.

    root: where the data set is kept, "" for <workdir>/data; train_images, val_images: how many; size: pixels of a
    square picture, at least 32; seed: of the drawings.
    """

    def __init__(self, *, root: str, train_images: int, val_images: int, size: int, seed: int, workdir: Path):
        super().__init__()
        if size < 32:
            raise DataError(f"config.data.source.size is {size}; it must be at least 32")
        for name, count in (("train_images", train_images), ("val_images", val_images)):
            if count < 1:
                raise DataError(f"config.data.source.{name} is {count}; it must be at least 1")
        if seed < 0:
            raise DataError(f"config.data.source.seed is {seed}; it must be at least 0")
        self._counts = {"train": train_images, "val": val_images}
        self._size = size
        self._seed = seed
        name = f"shapes{_VERSION}-{size}px-{train_images}-{val_images}-seed{seed}"
        self._folder = (command.path(root) if root else workdir / "data") / name

    @property
    def is_drawn(self) -> bool:
        """Whether the data set is there already, so that to open it writes nothing."""
        return self._folder.is_dir()

    def _open(self, name: str) -> CocoSplit:
        """Draws the whole data set when it is not there yet."""
        if not self._folder.is_dir():
            self._prepare()
        index = coco_json.load(self._folder / f"instances_{name}.json")
        return CocoSplit(index, PackedImages(self._folder, name, index.image_ids))

    def _prepare(self) -> None:
        print(f"drawing {sum(self._counts.values())} pictures into {self._folder}", file=sys.stderr)
        drawn = {split: _Drawn(split, count, self._size, self._seed) for split, count in self._counts.items()}
        with shards.whole(self._folder) as folder:
            shards.pack(folder, "shapes", drawn, drawing.NAMES)
            for split, records in drawn.items():
                write_atomic(folder / f"instances_{split}.json", json.dumps(records.content).encode())


class _Drawn:
    """The `Records` of a split, drawn when they are asked for. They are to be asked for once and in order: the COCO
    object `content` grows with them, and annotations are numbered through the split."""

    def __init__(self, split: str, count: int, size: int, seed: int):
        self._split = split
        self._count = count
        self._size = size
        self._seed = seed
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(drawing.NAMES)]
        self.content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}

    def __len__(self) -> int:
        return self._count

    def rows(self, start: int, stop: int) -> Iterator[Record]:
        """See `Records.rows`."""
        for row in range(start, stop):
            record = self._record(row)
            height, width = record.size
            self.content["images"].append(
                {"id": record.image_id, "file_name": record.file_name, "height": height, "width": width}
            )
            self.content["annotations"].extend(record.annotations)
            yield record

    def _record(self, row: int) -> Record:
        picture = drawing.draw(np.random.default_rng([self._seed, _STREAM[self._split], row]), self._size)
        # JPEG, as photographs are: a quarter of the bytes of a PNG of the same noise.
        _, encoded = cv2.imencode(".jpg", picture.image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        image_id, first = row + 1, len(self.content["annotations"]) + 1
        annotations = []
        for box, label in zip(picture.boxes.astype(np.float64), picture.labels.tolist(), strict=True):
            x1, y1, x2, y2 = box.tolist()
            annotations.append(
                {
                    "id": first + len(annotations),
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "label": label,
                }
            )
        file_name = f"{self._split}_{row:06d}.jpg"
        return Record(image_id, file_name, (self._size, self._size), encoded.tobytes(), annotations, name=file_name)
