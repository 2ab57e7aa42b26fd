"""Small data sets packed into array_record files by tfds, without TensorFlow and offline: whole or not at all.

The schema is that of `records`; `prepare` packs large ones, shard by shard.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from dyhead_jax.data import coco_json
from dyhead_jax.data.encoded import EncodedImages
from dyhead_jax.data.packing.records import PackedImages, Record, SplitRecords, features, fields
from dyhead_jax.data.source import DataError

Records = Callable[[], Iterable[Record]]


class Detections(tfds.core.GeneratorBasedBuilder):
    """tfds builder of detection records.

    records: for each split a function that gives its Records in order; the order is kept. class_names: of the labels.
    """

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded; tfds would look for checksums with a package that it does not install.
    url_infos: ClassVar[Any] = {}

    def __init__(self, *, records: Mapping[str, Records], class_names: Sequence[str], data_dir: Path):
        self._records = records
        self._class_names = class_names
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=features(self._class_names), disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(records) for split, records in self._records.items()}

    def _generate_examples(self, records: Records) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, record in enumerate(records()):
            yield key, fields(record)


def prepare(
    target: Path, *, records: Mapping[str, Records], class_names: Sequence[str], finish: Callable[[Path], None]
) -> None:
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
        builder = Detections(records=records, class_names=class_names, data_dir=hidden)
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


def directory(target: Path) -> Path:
    """Where in the folder `target` of `prepare` tfds has put the files."""
    return target / Detections.name / str(Detections.VERSION)


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
        records={split: lambda: SplitRecords(index, encoded)},
        class_names=index.class_names,
        finish=lambda folder: None,
    )
    return PackedImages(directory(target), split, index.image_ids)
