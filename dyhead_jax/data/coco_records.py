"""COCO 2017 in array_record files: what `python -m dyhead_jax.data prepare coco` writes, or tfds' own `coco/2017`.

Both open as they are. Boxes come from the instances JSON, matched by `image/id`, as evaluation needs its areas and
original boxes; tfds' own records have truncated areas and boxes in float32. tfds shuffles its records, so the first
opening reads all of them once for their ids, and keeps those in <workdir>/data.
"""

import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dyhead_jax.data import coco_json, images
from dyhead_jax.data.coco_split import CocoSplit
from dyhead_jax.data.packing import records
from dyhead_jax.data.source import DataError

_SPLITS = {"train": "train", "val": "validation"}  # our names and tfds'


class CocoRecords:
    """The `source.Source` of a prepared folder.

    root: with dataset_info.json, or a folder above it (`data_dir` of tfds, which has coco/2017/1.1.0).
    train_annotations, val_annotations: instances JSON, relative to root or anywhere; an empty train_annotations takes
    the training boxes from the records. limit: only the first so many images of the JSON; 0 for all.
    """

    def __init__(self, *, root: str, train_annotations: str, val_annotations: str, limit: int, workdir: Path):
        if not root:
            raise DataError("config.data.root is empty; give the folder of the prepared data set")
        if "://" in root:
            raise DataError(f"{root}: array_record files are read from a file system; mount the bucket (gcsfuse)")
        self._root = Path(root)
        self._annotations = {"train": train_annotations, "val": val_annotations}
        self._limit = limit
        self._workdir = workdir
        self._splits: dict[str, CocoSplit] = {}

    def split(self, name: str) -> CocoSplit:
        """The split "train" or "val". Raises DataError, which names the folder, also when the two have different
        categories."""
        if name not in _SPLITS:
            raise DataError(f"there is no split {name!r}; there are {', '.join(_SPLITS)}")
        if name not in self._splits:
            self._splits[name] = self._open(name)
        first, *others = self._splits.values()
        for other in others:
            if (first.category_ids, first.class_names) != (other.category_ids, other.class_names):
                raise DataError(f"{first.index.path} and {other.index.path} have different categories")
        return self._splits[name]

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

    def _positions(self, directory: Path, name: str, index: coco_json.Index) -> np.ndarray | None:
        """Where in the records the images of the index are; None is all of them, in order."""
        here = records.open_split(directory, _SPLITS[name])
        if len(here) and "image/height" in here[0]:  # packed by this project: in the order of the JSON
            return np.arange(len(index.image_ids)) if self._limit else None
        ids = self._scan(directory, name)["image_ids"]
        position_of = {int(image_id): position for position, image_id in enumerate(ids)}
        missing = [int(i) for i in index.image_ids if int(i) not in position_of]
        if missing:
            raise DataError(f"{directory} has no {_SPLITS[name]} image {missing[0]}, which {index.path} names")
        return np.array([position_of[int(i)] for i in index.image_ids], np.int64)

    def _from_records(self, directory: Path, name: str) -> tuple[coco_json.Index, records.PackedImages]:
        other = self.split("val").index  # the names and ids of the categories, which the records lack
        found = self._scan(directory, name)
        if found["labels"].size and int(found["labels"].max()) >= len(other.category_ids):
            raise DataError(f"{directory} has more classes than the {len(other.category_ids)} of {other.path}")
        count = self._limit or len(found["image_ids"])
        starts = found["starts"][: count + 1]
        boxes = slice(0, int(starts[-1]))
        notes = [f"boxes are the records' own, of {directory}"]
        index = coco_json.Index(
            path=directory,
            class_names=other.class_names,
            category_ids=other.category_ids,
            file_names=found["file_names"][:count].tolist(),
            image_ids=found["image_ids"][:count],
            sizes=found["sizes"][:count],
            starts=starts,
            boxes=found["boxes"][boxes],
            labels=found["labels"][boxes],
            crowd=found["crowd"][boxes],
            notes=notes,
        )
        positions = np.arange(len(index.image_ids))
        return index, records.PackedImages(directory, _SPLITS[name], index.image_ids, positions)

    def _scan(self, directory: Path, name: str) -> dict[str, np.ndarray]:
        """What all records say, as arrays in their order; kept in the workdir, since it takes minutes for COCO."""
        information = (directory / "dataset_info.json").read_bytes()
        digest = hashlib.sha256(f"{directory.resolve()} {name}".encode() + information).hexdigest()[:12]
        kept = self._workdir / "data" / f"records-{name}-{digest}.npz"
        if not kept.exists():
            content = scan(directory, _SPLITS[name])
            kept.parent.mkdir(parents=True, exist_ok=True)
            with kept.with_name(f".{kept.name}.part").open("wb") as file:
                np.savez(file, **content)  # type: ignore[arg-type]
            kept.with_name(f".{kept.name}.part").replace(kept)
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
    """The folder with dataset_info.json: `root`, or the newest version of coco/2017 below it. Raises DataError."""
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
    """Reads every record of a split: image_ids (n,), file_names (n,), sizes (n, 2) height and width from the image
    files' headers, starts (n + 1,), boxes (k, 4) float32 x1 y1 x2 y2 pixels, labels (k,), crowd (k,). Boxes without
    area are left out. Raises DataError."""
    here = records.open_split(directory, split)
    image_ids, file_names, sizes, counts = [], [], [], [0]
    boxes, labels, crowd = [], [], []
    print(f"reading the ids of {len(here)} {split} records of {directory}", file=sys.stderr)
    for position in tqdm(range(len(here)), unit="record", desc=split, disable=not sys.stderr.isatty()):
        record = here[position]
        encoded = io.BytesIO(record["image"])
        height, width = images.size(encoded, f"{directory}: {split} record {position}")
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
    return {
        "image_ids": np.array(image_ids, np.int64),
        "file_names": np.array(file_names),
        "sizes": np.array(sizes, np.int64),
        "starts": np.array(counts, np.int64),
        "boxes": np.concatenate(boxes),
        "labels": np.concatenate(labels),
        "crowd": np.concatenate(crowd),
    }
