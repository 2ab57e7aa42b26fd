"""COCO 2017 in array_record files: what `python -m dyhead_jax.data prepare coco` writes, or tfds' own `coco/2017`.

Both open as they are. Boxes come from the instances JSON, matched by `image/id`: evaluation needs its areas and its
original boxes, while tfds' own records have truncated areas and boxes in float32. tfds shuffles its records, so their
ids are read once, when the folder is first opened, and kept in <workdir>/data.
"""

import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dyhead_jax import command
from dyhead_jax.data import coco_json, images
from dyhead_jax.data.coco_source import CocoSource
from dyhead_jax.data.coco_split import CocoSplit
from dyhead_jax.data.index import Index
from dyhead_jax.data.packing import records
from dyhead_jax.data.source import NO_IMAGE, DataError
from dyhead_jax.files import atomic

_SPLITS = {"train": "train", "val": "validation"}  # our names and tfds'


class CocoRecords(CocoSource):
    """The `source.Source` of a prepared folder.

    root: the folder with dataset_info.json, or one above it (tfds' `data_dir`, which has coco/2017/1.1.0).
    train_annotations, val_annotations: instances JSON, a path relative to root or an absolute one; with an empty
    train_annotations the training boxes come from the records. limit: only the first so many images, 0 for all.
    """

    def __init__(self, *, root: str, train_annotations: str, val_annotations: str, limit: int, workdir: Path):
        super().__init__()
        if not root:
            raise DataError("config.data.root is empty; give the folder of the prepared data set")
        if "://" in root:
            raise DataError(f"{root}: array_record files are read from a file system; mount the bucket (gcsfuse)")
        self._root = command.path(root)
        self._annotations = {"train": train_annotations, "val": val_annotations}
        self._limit = limit
        self._workdir = workdir

    def _open(self, name: str) -> CocoSplit:
        directory = find(self._root)
        annotations = self._annotations[name]
        if annotations:
            index = coco_json.load(self._root / annotations, limit=self._limit)
            positions = self._positions(directory, name, index)
            return CocoSplit(index, records.PackedImages(directory, _SPLITS[name], index.image_ids, positions))
        if name == "val":
            raise DataError(
                "config.data.source.val_annotations is empty; evaluation needs instances_val2017.json, as the areas in"
                " the records are truncated"
            )
        return RecordsSplit(*self._from_records(directory, name))

    def _positions(self, directory: Path, name: str, index: Index) -> np.ndarray | None:
        """The place of each image of the index among the records, (n,) int64; None when they are all, in order."""
        packed = records.open_split(directory, _SPLITS[name])
        if len(packed) and "image/height" in packed[0]:  # packed by this project: in the order of the JSON
            return np.arange(len(index.image_ids)) if self._limit else None
        ids = self._scan(directory, name)["image_ids"]
        position_of = {int(image_id): position for position, image_id in enumerate(ids)}
        missing = [int(i) for i in index.image_ids if int(i) not in position_of]
        if missing:
            raise DataError(f"{directory} has no {_SPLITS[name]} image {missing[0]}, which {index.path} names")
        return np.array([position_of[int(i)] for i in index.image_ids], np.int64)

    def _from_records(self, directory: Path, name: str) -> tuple[Index, records.PackedImages]:
        other = self.split("val").index  # the names and ids of the categories, which the records lack
        content = self._scan(directory, name)
        if content["labels"].size and int(content["labels"].max()) >= len(other.category_ids):
            raise DataError(f"{directory} has more classes than the {len(other.category_ids)} of {other.path}")
        count = self._limit or len(content["image_ids"])
        starts = content["starts"][: count + 1]
        boxes = slice(0, int(starts[-1]))
        notes = [f"boxes are the records' own, of {directory}"]
        index = Index(
            path=directory,
            class_names=other.class_names,
            category_ids=other.category_ids,
            file_names=content["file_names"][:count].tolist(),
            image_ids=content["image_ids"][:count],
            sizes=content["sizes"][:count],
            upright=np.zeros(count, bool),
            factors=np.ones((count, 2)),
            starts=starts,
            boxes=content["boxes"][boxes],
            labels=content["labels"][boxes],
            crowd=content["crowd"][boxes],
            notes=notes,
        )
        positions = np.arange(len(index.image_ids))
        return index, records.PackedImages(directory, _SPLITS[name], index.image_ids, positions)

    def _scan(self, directory: Path, name: str) -> dict[str, np.ndarray]:
        """The result of `scan`, kept in the workdir, since it takes minutes for COCO, until a file of the split
        changes."""
        information = (directory / "dataset_info.json").read_bytes()
        shards = [(path.name, path.stat()) for path in sorted(directory.glob(f"*-{_SPLITS[name]}.*"))]
        stamps = [(shard, status.st_size, status.st_mtime_ns) for shard, status in shards]
        digest = hashlib.sha256(f"{command.real(directory)} {name} {stamps}".encode() + information).hexdigest()[:12]
        kept = self._workdir / "data" / f"records-{name}-{digest}.npz"
        if not kept.exists():
            content = scan(directory, _SPLITS[name])
            kept.parent.mkdir(parents=True, exist_ok=True)
            with atomic(kept) as temporary:
                np.savez(temporary, **content)  # type: ignore[arg-type]
        with np.load(kept, allow_pickle=False) as content:
            return dict(content)


class RecordsSplit(CocoSplit):
    """A split to train on, whose boxes are the records' own."""

    def coco(self) -> dict[str, Any]:
        """Raises DataError: the areas are not those of COCO."""
        raise DataError(
            f"{self.index.path} has truncated areas; to evaluate on it, config.data.source.train_annotations must name"
            " the instances JSON"
        )


def find(root: Path) -> Path:
    """The folder with dataset_info.json: `root`, or the newest version of coco/2017 below it.

    Raises DataError when there is none.
    """
    if not root.is_dir():
        raise DataError(f"the data folder {root} does not exist")
    for folder in (root, root / "2017", root / "coco" / "2017"):
        if (folder / "dataset_info.json").is_file():
            return folder
        versions = [path.parent for path in folder.glob("[0-9]*.[0-9]*.[0-9]*/dataset_info.json")]
        if versions:
            return max(versions, key=lambda path: [int(part) for part in path.name.split(".") if part.isdigit()])
    unfinished = "; its preparation did not end, the same command goes on" if (root / ".lock").exists() else ""
    raise DataError(f"{root} has no dataset_info.json, nor coco/2017 below it{unfinished}")


def scan(directory: Path, split: str) -> dict[str, np.ndarray]:
    """Reads every record of a split into arrays, in the order of the records.

    image_ids (n,) int64; file_names (n,); sizes (n, 2) int64 height, width, from the headers of the images; starts
    (n + 1,) int64, where an image's boxes begin in boxes (k, 4) float32 x1 y1 x2 y2 pixels, labels (k,) int32 and crowd
    (k,) bool. Boxes without area are left out. Raises DataError.
    """
    packed = records.open_split(directory, split)
    image_ids, file_names, sizes, counts = [], [], [], [0]
    boxes, labels, crowd = [], [], []
    print(f"reading the ids of {len(packed)} {split} records of {directory}", file=sys.stderr)
    for position in tqdm(range(len(packed)), unit="record", desc=split, disable=not sys.stderr.isatty()):
        record = packed[position]
        encoded = io.BytesIO(record["image"])
        height, width = images.header(encoded, f"{directory}: {split} record {position}").size
        corners = np.array(record["objects"]["bbox"], np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]]
        corners = np.clip(corners, 0, 1) * np.array([[width, height, width, height]], np.float32)
        kept = (corners[:, 2:] > corners[:, :2]).all(1)
        image_ids.append(int(record["image/id"]))
        file_names.append(record["image/filename"].decode())
        sizes.append((height, width))
        counts.append(counts[-1] + int(kept.sum()))
        boxes.append(corners[kept])
        labels.append(np.array(record["objects"]["label"], np.int32).reshape(-1)[kept])
        crowd.append(np.array(record["objects"]["is_crowd"], bool).reshape(-1)[kept])
    if not image_ids:
        raise DataError(f"{directory} has no {split} record")
    if NO_IMAGE in image_ids:
        raise DataError(
            f"{directory}: {split} record {image_ids.index(NO_IMAGE)} has the image id {NO_IMAGE}, which"
            " stands for no image here"
        )
    return {
        "image_ids": np.array(image_ids, np.int64),
        "file_names": np.array(file_names),
        "sizes": np.array(sizes, np.int64),
        "starts": np.array(counts, np.int64),
        "boxes": np.concatenate(boxes),
        "labels": np.concatenate(labels),
        "crowd": np.concatenate(crowd),
    }
