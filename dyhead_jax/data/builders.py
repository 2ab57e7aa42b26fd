"""Data sets packed into array_record files by tfds, without TensorFlow and offline.

The schema is that of tfds `coco/2017` (image, image/filename, image/id, objects: id, area, bbox, label, is_crowd), plus
image/height and image/width, and for every object its `area_float` and `bbox_xywh` exactly as in the annotations, where
`coco/2017` truncates the area and normalises the box.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from dyhead_jax.data import coco_json
from dyhead_jax.data.coco_folder import EncodedImages
from dyhead_jax.data.source import DataError

Records = Callable[[], Iterable["Record"]]


@dataclass(slots=True)
class Record:
    """One image to pack. encoded: the file's bytes, kept as they are; size: (height, width); annotations: COCO objects
    with id, bbox, area, iscrowd and, besides, the contiguous `label`."""

    image_id: int
    file_name: str
    size: tuple[int, int]
    encoded: bytes
    annotations: list[dict[str, Any]]


class Detections(tfds.core.GeneratorBasedBuilder):
    """tfds builder of detection records.

    records: for each split a function that gives its Records in order; the order is kept. num_classes: of the labels.
    """

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded; tfds would look for checksums with a package that it does not install.
    url_infos: ClassVar[Any] = {}

    def __init__(self, *, records: Mapping[str, Records], num_classes: int, data_dir: Path):
        self._records = records
        self._num_classes = num_classes
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
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
                        "area_float": np.float64,
                        "bbox": tfds.features.BBoxFeature(),
                        "bbox_xywh": tfds.features.Tensor(shape=(4,), dtype=np.float64),
                        "label": tfds.features.ClassLabel(num_classes=self._num_classes),
                        "is_crowd": np.bool_,
                    }
                ),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(records) for split, records in self._records.items()}

    def _generate_examples(self, records: Records) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, record in enumerate(records()):
            yield key, _fields(record)


def _fields(record: Record) -> dict[str, Any]:
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
                "area_float": float(annotation["area"]),
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


def prepare(target: Path, *, records: Mapping[str, Records], num_classes: int, finish: Callable[[Path], None]) -> None:
    """Packs `records` into the folder `target`, unless it is there already.

    Everything is written into a hidden folder beside it, which is renamed at the end: a killed preparation leaves no
    `target`, and of two at once the first one stays. finish: called with the hidden folder before the renaming, to add
    files of its own. Raises DataError when the folder cannot be written.
    """
    if target.is_dir():
        return
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=f".incomplete-{target.name}-", dir=target.parent))
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror}") from error
    try:
        builder = Detections(records=records, num_classes=num_classes, data_dir=hidden)
        with contextlib.redirect_stdout(io.StringIO()):  # tfds announces a download there that does not happen
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        shutil.rmtree(hidden / "downloads", ignore_errors=True)
        finish(hidden)
        hidden.chmod(0o755)  # mkdtemp's own mode would hide it from other users of a shared folder
        try:
            os.rename(hidden, target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


class PackedImages:
    """`coco_folder.EncodedImages` out of a folder that `prepare` wrote. image_ids: (n,) what the records must be."""

    def __init__(self, folder: Path, split: str, image_ids: np.ndarray):
        self._folder = folder
        self._split = split
        self._image_ids = image_ids
        directory = folder / Detections.name / str(Detections.VERSION)
        try:
            builder = tfds.builder_from_directory(directory)
            decoders = {"image": tfds.decode.SkipDecoding()}
            self._records = builder.as_data_source(split=split, decoders=decoders)  # type: ignore[arg-type]
        except Exception as error:  # tfds raises many kinds
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{directory} is not a prepared data set with a split {split!r}: {reason}") from error
        if len(self._records) != len(image_ids):
            raise DataError(f"{directory} has {len(self._records)} {split} records for {len(image_ids)} images")

    def read(self, index: int) -> bytes:
        record: Any = self._records[index]
        if record["image/id"] != self._image_ids[index]:
            raise DataError(f"{self.name(index)} is image {record['image/id']}, not {self._image_ids[index]}")
        return record["image"]

    def name(self, index: int) -> str:
        return f"{self._folder}: {self._split} record {index}"


def folder_records(index: coco_json.Index, encoded: EncodedImages) -> Iterator[Record]:
    """The records of a COCO-JSON split, encoded images and annotations as they are in its files."""
    labels = {category: label for label, category in enumerate(index.category_ids)}
    annotations: dict[int, list[dict[str, Any]]] = {}
    for annotation in coco_json.ground_truth(index)["annotations"]:
        labelled = {**annotation, "label": labels[annotation["category_id"]]}
        annotations.setdefault(annotation["image_id"], []).append(labelled)
    for row, (image_id, file_name) in enumerate(zip(index.image_ids.tolist(), index.file_names, strict=True)):
        height, width = index.sizes[row].tolist()
        yield Record(image_id, file_name, (height, width), encoded.read(row), annotations.get(image_id, []))


def packed(index: coco_json.Index, encoded: EncodedImages, root: Path, split: str) -> PackedImages:
    """The images of a COCO-JSON split, packed under `root` when they are not there yet. Raises DataError.

    The folder's name carries a digest of annotations and file names: other annotations are another data set.
    """
    described = json.dumps([str(index.path), index.image_ids.tolist(), index.file_names, index.sizes.tolist()])
    digest = hashlib.sha256(index.path.read_bytes() + described.encode()).hexdigest()[:12]
    target = root / f"{split}-{digest}"
    if not target.is_dir():
        print(f"packing {len(index.file_names)} {split} images into {target}", file=sys.stderr)
    prepare(
        target,
        records={split: lambda: folder_records(index, encoded)},
        num_classes=len(index.category_ids),
        finish=lambda folder: None,
    )
    return PackedImages(target, split, index.image_ids)
