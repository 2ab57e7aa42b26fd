"""Packs a data set, small or large, into array_record shards that tfds opens, without TensorFlow.

A shard is written under a hidden name, read back, compared with what went in, and only then renamed: a shard under its
own name is whole. dataset_info.json comes last: a folder without it is unfinished.

    <out>/<name>-train.array_record-00000-of-00060 ...   records in order, in the schema of `records`
    <out>/dataset_info.json, features.json               of tfds

A large set is packed in place: the next start keeps the shards that are there, and a kill costs one shard. A small one
is packed into a hidden folder that becomes the real one at the end (`whole`).
"""

import io
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath
from tqdm import tqdm

from dyhead_jax.data import images
from dyhead_jax.data.packing.records import Record, Records, features, fields
from dyhead_jax.data.source import DataError
from dyhead_jax.files import atomic, atomic_folder

IMAGES_PER_SHARD = 2000  # 330 MB of COCO


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Yields a hidden folder to `pack` into, which becomes `target` when the block ends (see `files.atomic_folder`).

    Raises DataError when it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(target) as folder:
            yield folder
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror}") from error


def pack(
    out: Path,
    name: str,
    splits: Mapping[str, Records],
    class_names: Sequence[str],
    *,
    version: str = "1.0.0",
    images_per_shard: int = IMAGES_PER_SHARD,
    **about: str,
) -> dict[str, int]:
    """Packs the records of each split into the folder `out`, and returns how many of them were there from an earlier
    start.

    name: of the data set, with which the files' names begin; class_names: by label; about: description, homepage, ...
    of `tfds.core.DatasetInfo`. One process at a time may be at work in `out`.
    Raises DataError for an image that is not as described, and for files in `out` that are broken or of another set.
    """
    schema = features(class_names)
    infos, resumed = [], {}
    for split, records in splits.items():
        info, resumed[split] = _pack_split(out, name, split, records, schema, images_per_shard)
        infos.append(info)
    tfds.folder_dataset.write_metadata(
        data_dir=out,
        features=schema,
        split_infos=infos,
        version=version,
        check_data=False,
        disable_shuffling=True,
        **about,
    )
    return resumed


def _pack_split(
    out: Path, name: str, split: str, records: Records, schema: tfds.features.FeaturesDict, images_per_shard: int
) -> tuple[tfds.core.SplitInfo, int]:
    count = max(1, -(-len(records) // images_per_shard))
    bounds = [round(i * len(records) / count) for i in range(count + 1)]  # shards of nearly equal length
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(out), dataset_name=name, split=split, filetype_suffix="array_record"
    )
    paths = [Path(template.sharded_filepath(shard_index=i, num_shards=count)) for i in range(count)]
    strange = sorted(set(out.glob(f"{name}-{split}.array_record-*")) - set(paths))
    if strange:
        raise DataError(f"{strange[0]} belongs to another preparation; choose another folder")
    for unfinished in out.glob(f".{name}-{split}.*array_record-*"):  # of a start that was killed
        unfinished.unlink()
    resumed = 0
    with tqdm(total=len(records), unit="image", desc=split, disable=not sys.stderr.isatty()) as bar:
        for path, (start, stop) in zip(paths, itertools.pairwise(bounds), strict=True):
            if path.exists():
                resumed += stop - start
            else:
                _write_shard(path, records.rows(start, stop), schema, bar)
            if (length := _length(path)) != stop - start:
                raise DataError(f"{path} has {length} records, not {stop - start}; delete it and start again")
            bar.n = stop
            bar.refresh()
    info = tfds.core.SplitInfo(
        name=split,
        shard_lengths=[stop - start for start, stop in itertools.pairwise(bounds)],
        num_bytes=sum(path.stat().st_size for path in paths),
        filename_template=template,
    )
    return info, resumed


def _write_shard(path: Path, records: Iterable[Record], schema: Any, bar: Any) -> None:
    written = []
    with atomic(path) as temporary:
        writer = ArrayRecordWriter(str(temporary), "group_size:1")  # as tfds: each record can be read alone
        try:
            for record in records:
                _check_size(record)
                writer.write(schema.serialize_example(fields(record)))
                written.append((record.image_id, len(record.annotations), record.name))
                bar.update()
        finally:
            writer.close()
        _check_shard(temporary, written, schema)


def _check_size(record: Record) -> None:
    header = images.header(io.BytesIO(record.encoded), record.name)
    height, width = header.upright if record.upright else header.size
    if (height, width) != record.size:
        raise DataError(
            f"{record.name} is {width}x{height} pixels, but the annotations say {record.size[1]}x{record.size[0]}"
        )


def _check_shard(path: Path, written: Sequence[tuple[int, int, str]], schema: Any) -> None:
    """Reads the file back and compares the image ids and numbers of boxes with what was written."""
    reader = ArrayRecordReader(str(path))
    try:
        for (image_id, boxes, name), serialized in zip(written, reader.read_all(), strict=True):
            record = schema.deserialize_example_np(serialized, decoders={"image": tfds.decode.SkipDecoding()})
            if (int(record["image/id"]), len(record["objects"]["id"])) != (image_id, boxes):
                raise DataError(f"{path} does not read back as it was written, at {name}")
    finally:
        reader.close()


def _length(path: Path) -> int:
    try:
        reader = ArrayRecordReader(str(path))
        try:
            return reader.num_records()
        finally:
            reader.close()  # here the library reports a file that is no whole array_record
    except Exception as error:
        raise DataError(f"{path} cannot be read; delete it and start again") from error
