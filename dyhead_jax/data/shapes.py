"""The embedded data set: drawn shapes, made on first use and kept as array_record files with COCO annotations."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dyhead_jax.data import coco_json, drawing
from dyhead_jax.data.coco_split import CocoSplit
from dyhead_jax.data.packing import records, tfds_builder
from dyhead_jax.data.source import DataError

_VERSION = 2  # of the drawings; other drawings are kept in another folder
_STREAM = {"train": 0, "val": 1}  # train and val pictures come from different random streams


class Shapes:
    """The `source.Source` of drawn shapes.

    root: where the data set is kept, "" for <workdir>/data; train_images, val_images: how many; size: pixels of a
    square picture, at least 32; seed: of the drawings.
    """

    def __init__(self, *, root: str, train_images: int, val_images: int, size: int, seed: int, workdir: Path):
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
        self._folder = (Path(root) if root else workdir / "data") / name

    def split(self, name: str) -> CocoSplit:
        """The split "train" or "val"; draws the whole data set when it is not there yet. Raises DataError."""
        if name not in self._counts:
            raise DataError(f"there is no split {name!r}; there are {', '.join(self._counts)}")
        if not self._folder.is_dir():
            self._prepare()
        index = coco_json.load(self._folder / f"instances_{name}.json")
        return CocoSplit(index, records.PackedImages(tfds_builder.directory(self._folder), name, index.image_ids))

    def _prepare(self) -> None:
        print(f"drawing {sum(self._counts.values())} pictures into {self._folder}", file=sys.stderr)
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(drawing.NAMES)]
        contents: dict[str, dict[str, Any]] = {
            split: {"images": [], "annotations": [], "categories": categories} for split in self._counts
        }

        def pictures(split: str) -> Iterator[records.Record]:
            for index in range(self._counts[split]):
                record = self._record(split, index, len(contents[split]["annotations"]))
                height, width = record.size
                contents[split]["images"].append(
                    {"id": record.image_id, "file_name": record.file_name, "height": height, "width": width}
                )
                contents[split]["annotations"].extend(record.annotations)
                yield record

        def finish(folder: Path) -> None:
            for split, content in contents.items():
                (folder / f"instances_{split}.json").write_text(json.dumps(content))

        tfds_builder.prepare(
            self._folder,
            records={split: lambda split=split: pictures(split) for split in self._counts},
            class_names=drawing.NAMES,
            finish=finish,
        )

    def _record(self, split: str, index: int, annotations_before: int) -> records.Record:
        picture = drawing.draw(np.random.default_rng([self._seed, _STREAM[split], index]), self._size)
        # JPEG, as photographs are: a quarter of the bytes of a PNG of the same noise.
        _, encoded = cv2.imencode(".jpg", picture.image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        image_id = index + 1
        annotations = []
        for box, label in zip(picture.boxes.astype(np.float64), picture.labels.tolist(), strict=True):
            x1, y1, x2, y2 = box.tolist()
            annotations.append(
                {
                    "id": annotations_before + len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "label": label,
                }
            )
        size = (self._size, self._size)
        return records.Record(image_id, f"{split}_{index:06d}.jpg", size, encoded.tobytes(), annotations)
