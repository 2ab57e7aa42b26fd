"""The record of one image in a packed data set: what it holds, how tfds stores it, and how it is read back.

TensorFlow is not needed. The schema is that of tfds `coco/2017` (image, image/filename, image/id, objects: id, area,
bbox, label, is_crowd) with image/height and image/width added, and for every object `area_float` and `bbox_xywh`,
exactly as in the annotations: `coco/2017` truncates the area and normalises the box.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds

from dyhead_jax.data import coco_json
from dyhead_jax.data.encoded import EncodedImages
from dyhead_jax.data.index import Index
from dyhead_jax.data.source import DataError


@dataclass(slots=True)
class Record:
    """One image to pack.

    size: (height, width), if `upright` after turning by the EXIF orientation; encoded: the file's bytes, kept as they
    are; annotations: COCO objects with id, bbox, area, iscrowd, and the contiguous `label` beside them; name: what an
    error message calls the image.
    """

    image_id: int
    file_name: str
    size: tuple[int, int]
    encoded: bytes
    annotations: list[dict[str, Any]]
    name: str
    upright: bool = False


class Records(Protocol):
    """The records of a split, in order."""

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> Iterator[Record]:
        """Records `start` to `stop` (exclusive). Raises DataError when an image cannot be read."""
        ...


def features(class_names: Sequence[str]) -> tfds.features.FeaturesDict:
    """The schema. class_names: by label; where two are the same, the labels are stored without names."""
    unique = len(set(class_names)) == len(class_names)
    names = list(class_names) if unique else None
    label = tfds.features.ClassLabel(names=names, num_classes=None if unique else len(class_names))

    def exact(shape: tuple[int, ...]) -> tfds.features.Tensor:  # as bytes, since a tf.Example's floats have 32 bits
        return tfds.features.Tensor(shape=shape, dtype=np.float64, encoding="bytes")

    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "image/height": np.int64,
            "image/width": np.int64,
            "objects": tfds.features.Sequence(
                {
                    "id": np.int64,
                    "area": np.int64,
                    "area_float": exact(()),
                    "bbox": tfds.features.BBoxFeature(),
                    "bbox_xywh": exact((4,)),
                    "label": label,
                    "is_crowd": np.bool_,
                }
            ),
        }
    )


def fields(record: Record) -> dict[str, Any]:
    """The record as `features(...).serialize_example` takes it."""
    height, width = record.size
    objects = []
    for annotation in record.annotations:
        x, y, w, h = annotation["bbox"]
        # Relative corners must lie in [0, 1]; the file's own numbers are beside them.
        left, right = np.clip([x / width, (x + max(w, 0.0)) / width], 0.0, 1.0)
        top, bottom = np.clip([y / height, (y + max(h, 0.0)) / height], 0.0, 1.0)
        objects.append(
            {
                "id": annotation["id"],
                "area": int(annotation["area"]),
                "area_float": np.float64(annotation["area"]),
                "bbox": tfds.features.BBox(ymin=float(top), xmin=float(left), ymax=float(bottom), xmax=float(right)),
                "bbox_xywh": np.array([x, y, w, h], np.float64),
                "label": annotation["label"],
                "is_crowd": bool(annotation["iscrowd"]),
            }
        )
    return {
        "image": io.BytesIO(record.encoded),
        "image/filename": record.file_name,
        "image/id": record.image_id,
        "image/height": height,
        "image/width": width,
        "objects": objects,
    }


class SplitRecords:
    """The `Records` of a COCO-JSON split: images and annotations as they are in its files, by row of the index."""

    def __init__(self, index: Index, encoded: EncodedImages):
        self._index = index
        self._encoded = encoded
        labels = {category: label for label, category in enumerate(index.category_ids)}
        self._annotations: dict[int, list[dict[str, Any]]] = {}
        for annotation in coco_json.ground_truth(index)["annotations"]:
            labelled = {**annotation, "label": labels[annotation["category_id"]]}
            self._annotations.setdefault(annotation["image_id"], []).append(labelled)

    def __len__(self) -> int:
        return len(self._index.file_names)

    def rows(self, start: int, stop: int) -> Iterator[Record]:
        """See `Records.rows`."""
        return (self._record(row) for row in range(start, stop))

    def _record(self, row: int) -> Record:
        image_id = int(self._index.image_ids[row])
        height, width = self._index.sizes[row].tolist()
        return Record(
            image_id=image_id,
            file_name=self._index.file_names[row],
            size=(height, width),
            encoded=self._encoded.read(row),
            annotations=self._annotations.get(image_id, []),
            name=self._encoded.name(row),
            upright=bool(self._index.upright[row]),
        )

    @property
    def box_count(self) -> int:
        """Boxes of all images, crowd regions included."""
        return sum(map(len, self._annotations.values()))


class PackedImages:
    """The `EncodedImages` of a packed data set.

    directory, split: as in `open_split`; image_ids: (n,) int64, the ids that the images must have; positions: (n,)
    their places in the split, or None when they are the whole split in order.
    Raises DataError for a folder that cannot be opened, and for a record that is another image.
    """

    def __init__(self, directory: Path, split: str, image_ids: np.ndarray, positions: np.ndarray | None = None):
        self._directory = directory
        self._split = split
        self._image_ids = image_ids
        self._positions = positions
        self._records = open_split(directory, split)
        if positions is None and len(self._records) != len(image_ids):
            raise DataError(f"{directory} has {len(self._records)} {split} records for {len(image_ids)} images")

    def read(self, index: int) -> bytes:
        record: Any = self._records[self._position(index)]
        if record["image/id"] != self._image_ids[index]:
            raise DataError(f"{self.name(index)} is image {record['image/id']}, not {self._image_ids[index]}")
        return record["image"]

    def name(self, index: int) -> str:
        return f"{self._directory}: {self._split} record {self._position(index)}"

    def _position(self, index: int) -> int:
        return index if self._positions is None else int(self._positions[index])


def open_split(directory: Path, split: str) -> Any:
    """The records of a split, a sequence of dicts with images as bytes.

    directory: a folder with dataset_info.json, of tfds or packed here. Raises DataError with its name.
    """
    decoders: Any = {"image": tfds.decode.SkipDecoding()}
    try:
        builder = tfds.builder_from_directory(_with_information(directory))
        return builder.as_data_source(split=split, decoders=decoders)  # type: ignore[arg-type]
    except Exception as error:  # tfds raises many kinds
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{directory} is not an array_record data set with a split {split!r}: {reason}") from error


def _with_information(directory: Path) -> Path:
    """The folder with dataset_info.json: `directory`, or two below it, where earlier versions packed small sets."""
    earlier = directory / "detections" / "1.0.0"
    return earlier if earlier.is_dir() and not (directory / "dataset_info.json").exists() else directory
