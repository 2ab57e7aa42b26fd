"""Packs a large data set into array_record shards that tfds opens, without TensorFlow, so that it may be interrupted.

A shard is written under a hidden name, read back, compared with what went in, and only then renamed. A shard under its
own name is therefore whole, and the next start keeps it; a kill costs one shard. dataset_info.json comes last.

    <out>/coco-train.array_record-00000-of-00060 ...   records in the order of the JSON, in the schema of `records`
    <out>/annotations/instances_train2017.json         the original, which evaluation takes
    <out>/dataset_info.json, features.json             of tfds
"""

import fcntl
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath
from tqdm import tqdm

from dyhead_jax.data import coco_json, images
from dyhead_jax.data.packing.coco_release import SPLITS, Release
from dyhead_jax.data.packing.records import Record, SplitRecords, features, fields
from dyhead_jax.data.source import DataError

NAME = "coco"
IMAGES_PER_SHARD = 2000  # 330 MB of COCO


@dataclass(frozen=True, slots=True)
class Count:
    """What a prepared split holds. resumed: images of it that an earlier start had packed."""

    images: int
    boxes: int
    resumed: int


def prepare_coco(source: Path, out: Path, *, images_per_shard: int = IMAGES_PER_SHARD) -> dict[str, Count]:
    """Packs COCO 2017 from the folder `source` (see `Release`) into the folder `out`; returns the counts by split.

    Goes on where an interrupted call stopped; a finished `out` is only counted. Raises DataError when files are
    missing or broken, when `out` was begun from other annotations, or when another process is at work in it.
    """
    if not source.is_dir():
        raise DataError(f"{source} is not a folder")
    annotations = out / "annotations"
    try:
        annotations.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}") from error
    with _alone(out):
        release = Release(source)
        indexes = {}
        for split, name in SPLITS.items():
            path = annotations / f"instances_{name}.json"
            _keep(path, lambda target, split=split: release.copy_annotations(split, target))
            indexes[split] = coco_json.load(path)
        names = indexes["train"].class_names
        if indexes["validation"].class_names != names:
            raise DataError(f"{annotations}: the two files have different categories")
        schema = features(names)
        infos, counts = [], {}
        for split, index in indexes.items():
            packed = SplitRecords(index, release.images(split, index.file_names))
            info, counts[split] = pack(out, split, packed, schema, images_per_shard)
            infos.append(info)
        tfds.folder_dataset.write_metadata(
            data_dir=out,
            features=schema,
            split_infos=infos,
            version="1.1.0",
            check_data=False,
            description="COCO 2017 detection; object areas and boxes also as in the JSON, sizes beside the images.",
            homepage="https://cocodataset.org",
            disable_shuffling=True,
        )
    return counts


def pack(
    out: Path, split: str, records: SplitRecords, schema: tfds.features.FeaturesDict, images_per_shard: int
) -> tuple[tfds.core.SplitInfo, Count]:
    """Writes the shards of a split that are not there yet. Raises DataError."""
    number = max(1, -(-len(records) // images_per_shard))
    bounds = [round(i * len(records) / number) for i in range(number + 1)]  # shards of nearly equal length
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(out), dataset_name=NAME, split=split, filetype_suffix="array_record"
    )
    paths = [Path(template.sharded_filepath(shard_index=i, num_shards=number)) for i in range(number)]
    strange = sorted(set(out.glob(f"{NAME}-{split}.array_record-*")) - set(paths))
    if strange:
        raise DataError(f"{strange[0]} belongs to another preparation; choose another folder")
    for left in out.glob(f".{NAME}-{split}.array_record-*.part"):
        left.unlink()
    resumed = 0
    with tqdm(total=len(records), unit="image", desc=split, disable=not sys.stderr.isatty()) as bar:
        for path, start, stop in zip(paths, bounds, bounds[1:], strict=False):
            if path.exists():
                resumed += stop - start
            else:
                _write_shard(path, [*range(start, stop)], records, schema, bar)
            if (found := _length(path)) != stop - start:
                raise DataError(f"{path} has {found} records, not {stop - start}; delete it and start again")
            bar.n = stop
            bar.refresh()
    info = tfds.core.SplitInfo(
        name=split,
        shard_lengths=[stop - start for start, stop in itertools.pairwise(bounds)],
        num_bytes=sum(path.stat().st_size for path in paths),
        filename_template=template,
    )
    return info, Count(len(records), records.box_count, resumed)


def _write_shard(path: Path, rows: Sequence[int], records: SplitRecords, schema: Any, bar: Any) -> None:
    part = path.with_name(f".{path.name}.part")
    writer = ArrayRecordWriter(str(part), "group_size:1")  # as tfds: each record can be read alone
    try:
        for row in rows:
            record = records[row]
            _check_size(record, records.name(row))
            writer.write(schema.serialize_example(fields(record)))
            bar.update()
    finally:
        writer.close()
    _check_shard(part, rows, records, schema)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(path)


def _check_size(record: Record, name: str) -> None:
    found = images.size(io.BytesIO(record.encoded), name)
    if found != record.size:
        raise DataError(
            f"{name} is {found[1]}x{found[0]} pixels, but the annotations say {record.size[1]}x{record.size[0]}"
        )


def _check_shard(path: Path, rows: Sequence[int], records: SplitRecords, schema: Any) -> None:
    """Reads the file back: ids, sizes of the image files and numbers of boxes are what was written."""
    reader = ArrayRecordReader(str(path))
    try:
        for row, written in zip(rows, reader.read_all(), strict=True):
            found = schema.deserialize_example_np(written, decoders={"image": tfds.decode.SkipDecoding()})
            image_id, boxes = records.described(row)
            if (int(found["image/id"]), len(found["objects"]["id"])) != (image_id, boxes):
                raise DataError(f"{path} does not read back as it was written, at {records.name(row)}")
    finally:
        reader.close()


def _length(path: Path) -> int:
    try:
        reader = ArrayRecordReader(str(path))
        try:
            return reader.num_records()
        finally:
            reader.close()  # where the library tells of a file that is no whole array_record
    except Exception as error:
        raise DataError(f"{path} cannot be read; delete it and start again") from error


def _keep(path: Path, copy: Callable[[Path], None]) -> None:
    """Lets `copy` write the file; when it is there already, from an earlier start, it must be the same."""
    part = path.with_name(f".{path.name}.part")
    try:
        copy(part)
        if path.exists() and path.read_bytes() != part.read_bytes():
            raise DataError(f"{path} differs from the source's; {path.parent.parent} was begun from other annotations")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two at once would remove each other's unfinished shards. The lock ends with the process, however it ends."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{out}: another process prepares this folder") from error
        yield
