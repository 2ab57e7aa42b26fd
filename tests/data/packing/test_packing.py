"""COCO packed into array_record: everything as in the JSON, whatever interrupts it, and read by training."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from dyhead_jax import command
from dyhead_jax.config import CocoFolderConfig, CocoRecordsConfig
from dyhead_jax.data import __main__ as data_command
from dyhead_jax.data import pipeline
from dyhead_jax.data.packing import records
from dyhead_jax.data.packing.coco_release import prepare_coco
from dyhead_jax.data.source import DataError, make_source
from tests.data import coco_tree
from tests.data.folders import data_config


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coco_tree.drawn(tmp_path_factory.mktemp("tree") / "coco")


@pytest.fixture(scope="module")
def prepared(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "coco"
    counts = prepare_coco(tree, out, images_per_shard=5)
    assert [(count.images, count.resumed) for count in counts.values()] == [(23, 0), (7, 0)]
    assert [count.boxes for count in counts.values()] == [
        len(coco_tree.truth(tree, split)["annotations"]) for split in coco_tree.SPLITS
    ]
    return out


def assert_prepared(out: Path, tree: Path) -> None:
    """Every number of every annotation, and every byte of every image."""
    for split, name in coco_tree.SPLITS.items():
        content = coco_tree.truth(tree, split)
        categories = sorted(category["id"] for category in content["categories"])
        packed = records.open_split(out, split)
        assert len(packed) == len(content["images"])
        for image, record in zip(content["images"], packed, strict=True):
            own = [annotation for annotation in content["annotations"] if annotation["image_id"] == image["id"]]
            assert record["image"] == (tree / name / image["file_name"]).read_bytes()
            assert record["image/filename"].decode() == image["file_name"]
            assert (record["image/id"], record["image/height"], record["image/width"]) == (
                image["id"], image["height"], image["width"],
            )  # fmt: skip
            objects = record["objects"]
            assert [int(i) for i in objects["id"]] == [annotation["id"] for annotation in own]
            assert [float(i) for i in objects["area_float"]] == [annotation["area"] for annotation in own]
            assert [int(i) for i in objects["area"]] == [int(annotation["area"]) for annotation in own]
            assert [bool(i) for i in objects["is_crowd"]] == [bool(annotation["iscrowd"]) for annotation in own]
            assert [i.tolist() for i in objects["bbox_xywh"]] == [annotation["bbox"] for annotation in own]
            assert [categories[i] for i in objects["label"]] == [annotation["category_id"] for annotation in own]
            for box, annotation in zip(objects["bbox"], own, strict=True):
                x, y, w, h = annotation["bbox"]
                scale = np.array([image["height"], image["width"]] * 2)
                np.testing.assert_allclose(box * scale, [y, x, y + h, x + w], atol=0.02)  # COCO's reach out so far
        original = tree / "annotations" / f"instances_{name}.json"
        assert (out / "annotations" / original.name).read_bytes() == original.read_bytes()


def test_everything_is_as_in_the_json(tree: Path, prepared: Path) -> None:
    assert_prepared(prepared, tree)
    assert len([*prepared.glob("coco-train.array_record-*-of-00005")]) == 5
    builder = tfds.builder_from_directory(prepared)
    assert builder.info.features is not None
    assert builder.info.features["objects"]["label"].names == ["cat", "a dog", "pen"]  # type: ignore[index]
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 23, "validation": 7}


def test_zips_give_the_same(tree: Path, prepared: Path, tmp_path: Path) -> None:
    zips = coco_tree.zipped(tree, tmp_path / "zips")
    prepare_coco(zips, tmp_path / "out", images_per_shard=5)
    assert_prepared(tmp_path / "out", tree)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in prepared.iterdir()
    )


def test_photographs_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    tree = coco_tree.mini(tmp_path / "tree")
    if tree is None:
        pytest.skip("../shared/data/coco_mini is absent")
    source, out = coco_tree.zipped(tree, tmp_path / "zips"), tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["data", "prepare", "coco", f"--source={source}", f"--out={out}"])
    with pytest.raises(SystemExit) as ended:
        command.run(data_command._main)
    assert ended.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        "train2017: 47 images, 524 boxes", "val2017: 57 images, 517 boxes", f"{out} is complete",
    ]  # fmt: skip
    assert_prepared(out, tree)


_KILLED = """
import os, signal, sys
from pathlib import Path
from dyhead_jax.data.encoded import FolderImages
from dyhead_jax.data.packing.coco_release import prepare_coco

whole, seen = FolderImages.read, []

def read(self, index):
    seen.append(index)
    if len(seen) == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, index)

FolderImages.read = read
prepare_coco(Path(sys.argv[1]), Path(sys.argv[2]), images_per_shard=5)
"""


def test_a_killed_preparation_goes_on(tree: Path, prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", _KILLED, tree, out], capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert not (out / "dataset_info.json").exists()
    with pytest.raises(DataError, match="its preparation did not end"):
        make_source(data_config(out, source=CocoRecordsConfig(root=str(out))), tmp_path).split("train")
    before = {path: path.stat().st_mtime_ns for path in out.glob("coco-train*")}
    assert len(before) == 2
    (out / ".coco-train.array_record-00002-of-00005.part").write_bytes(b"unfinished")  # as earlier versions named it
    assert prepare_coco(tree, out, images_per_shard=5)["train"].resumed in (9, 10)  # shards of 4 and 5 images
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_prepared(out, tree)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in prepared.iterdir())
    assert not [*out.glob(".coco*")]


def test_what_cannot_be_prepared_is_named(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent is not a folder"):
        prepare_coco(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"neither annotations/instances_train2017\.json nor annotations_trainval2017"):
        prepare_coco(tmp_path / "empty", tmp_path / "out")
    zips = coco_tree.zipped(tree, tmp_path / "zips")
    archive = zips / "val2017.zip"
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"val2017\.zip is not a whole zip file"):
        prepare_coco(zips, tmp_path / "out")
    archive.unlink()
    with pytest.raises(DataError, match=r"neither val2017/ nor val2017\.zip"):
        prepare_coco(zips, tmp_path / "out")
    assert not [*(tmp_path / "out").glob("coco-*")]  # found before an image is packed
    other = shutil.copytree(tree, tmp_path / "other")
    annotations = other / "annotations" / "instances_val2017.json"
    annotations.write_text(annotations.read_text() + "\n")
    with pytest.raises(DataError, match=r"instances_val2017\.json differs from the source's"):
        prepare_coco(other, tmp_path / "out")
    prepare_coco(tree, tmp_path / "out")
    with pytest.raises(DataError, match="belongs to another preparation"):
        prepare_coco(tree, tmp_path / "out", images_per_shard=3)
    image = next((other / "train2017").iterdir())
    image.write_bytes(image.read_bytes()[:50])
    with pytest.raises(DataError, match=f"{image.name}"):
        prepare_coco(other, tmp_path / "out2")
    shard = next((tmp_path / "out").glob("coco-train*"))
    shard.write_bytes(b"")
    with pytest.raises(DataError, match="delete it and start again"):
        prepare_coco(tree, tmp_path / "out")


# Reading


def folder_config(tree: Path) -> CocoFolderConfig:
    return CocoFolderConfig(
        root=str(tree),
        train_annotations="annotations/instances_train2017.json",
        train_images="train2017",
        val_annotations="annotations/instances_val2017.json",
        val_images="val2017",
    )


def assert_same_batches(ours: Any, tree: Path, workdir: Path) -> None:
    theirs = data_config(tree, source=folder_config(tree))
    for name in ("train", "val"):
        a, b = make_source(ours, workdir).split(name), make_source(theirs, workdir).split(name)
        assert (a.class_names, a.category_ids) == (b.class_names, b.category_ids)
        assert a.coco() == b.coco()
        for own, other in zip(pipeline.eval_batches(a, ours), pipeline.eval_batches(b, theirs), strict=True):
            np.testing.assert_array_equal(own.batch.images, other.batch.images)
            np.testing.assert_array_equal(own.batch.ground_truth.boxes, other.batch.ground_truth.boxes)
            np.testing.assert_array_equal(own.image_ids, other.image_ids)
    batches, others = pipeline.train_batches(a, ours, 0), pipeline.train_batches(b, theirs, 0)
    for _ in range(3):
        np.testing.assert_array_equal(next(batches).batch.images, next(others).batch.images)
    batches.close()
    others.close()


def test_the_pipeline_reads_what_it_reads_from_the_folder(tree: Path, prepared: Path, tmp_path: Path) -> None:
    assert_same_batches(data_config(prepared, source=CocoRecordsConfig(root=str(prepared))), tree, tmp_path)
    few = make_source(data_config(prepared, source=CocoRecordsConfig(root=str(prepared), limit=3)), tmp_path)
    assert len(few.split("train")) == 3
    assert few.split("train")[2].image_id == few.split("train").image_ids[2]


@pytest.fixture(scope="module")
def stock(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as tfds leaves it: its schema, its shuffled order, a test split; written without TensorFlow."""
    root = tmp_path_factory.mktemp("stock")
    folder = root / "coco" / "2017" / "1.1.0"
    folder.mkdir(parents=True)
    own = {"id": np.int64, "area": np.int64, "bbox": tfds.features.BBoxFeature(), "is_crowd": np.bool_}
    own["label"] = tfds.features.ClassLabel(names=["cat", "a dog", "pen"])
    schema = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(own),
        }
    )
    infos = []
    for split, name in coco_tree.SPLITS.items():
        content = coco_tree.truth(tree, split)
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name="coco", split=split, filetype_suffix="array_record"
        )
        writer = ArrayRecordWriter(str(template.sharded_filepath(shard_index=0, num_shards=1)), "group_size:1")
        order = np.random.default_rng(1).permutation(len(content["images"]))
        for image in (content["images"][i] for i in order):
            height, width = image["height"], image["width"]
            objects = []
            for a in (a for a in content["annotations"] if a["image_id"] == image["id"]):
                x, y, w, h = a["bbox"]
                box = tfds.features.BBox(y / height, x / width, (y + h) / height, (x + w) / width)
                label = {7: "cat", 11: "a dog", 90: "pen"}[a["category_id"]]
                crowd = bool(a["iscrowd"])
                objects.append({"id": a["id"], "area": int(a["area"]), "bbox": box, "is_crowd": crowd, "label": label})
            record = {"image": io.BytesIO((tree / name / image["file_name"]).read_bytes()), "objects": objects}
            record |= {"image/filename": image["file_name"], "image/id": image["id"]}
            writer.write(schema.serialize_example(record))
        writer.close()
        infos.append(tfds.core.SplitInfo(split, [len(order)], 1, template))
    tfds.folder_dataset.write_metadata(data_dir=folder, features=schema, split_infos=infos, check_data=False)
    return root


def test_a_folder_of_tfds_opens_as_it_is(tree: Path, stock: Path, tmp_path: Path) -> None:
    assert_stock_opens(tree, stock, tmp_path)


def test_what_was_read_of_the_records_is_read_again_when_a_shard_changes(
    tree: Path, stock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock = shutil.copytree(stock, tmp_path / "stock")
    annotations = {
        f"{name}_annotations": str(tree / f"annotations/instances_{name}2017.json") for name in ("train", "val")
    }
    config = data_config(stock, source=CocoRecordsConfig(root=str(stock), **annotations))
    for changed in (True, False, True):
        if changed:
            [shard] = stock.glob("coco/2017/1.1.0/coco-train.*")
            os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
        make_source(config, tmp_path / "w").split("train")
        assert ("reading the ids of 23 train records" in capsys.readouterr().err) == changed


def assert_stock_opens(tree: Path, stock: Path, tmp_path: Path) -> None:
    annotations = {
        f"{name}_annotations": str(tree / f"annotations/instances_{name}2017.json") for name in ("train", "val")
    }
    assert_same_batches(data_config(stock, source=CocoRecordsConfig(root=str(stock), **annotations)), tree, tmp_path)
    # Without the training JSON: the records' own boxes, to a rounding of float32.
    source = CocoRecordsConfig(root=str(stock), **annotations | {"train_annotations": ""})
    split = make_source(data_config(stock, source=source), tmp_path).split("train")
    wanted = make_source(data_config(tree, source=folder_config(tree)), tmp_path).split("train")
    row_of = {int(image_id): row for row, image_id in enumerate(wanted.image_ids)}
    assert sorted(row_of) == sorted(split.image_ids)
    for row in range(len(split)):
        ours, theirs = split[row], wanted[row_of[int(split.image_ids[row])]]
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-4)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_array_equal(ours.crowd, theirs.crowd)
        np.testing.assert_array_equal(ours.image, theirs.image)
        assert ours.file_name == theirs.file_name
    with pytest.raises(DataError, match="truncated areas"):
        split.coco()
    blind = make_source(data_config(stock, source=CocoRecordsConfig(root=str(stock), val_annotations="")), tmp_path)
    with pytest.raises(DataError, match=r"val_annotations is empty"):
        blind.split("val")


def test_a_folder_that_tfds_prepared_here(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed: tfds' own coco/2017 cannot be prepared")
    (tmp_path / "tree").mkdir()
    tree = shutil.copytree(tree, tmp_path / "tree" / "coco")
    (tree / "test2017").mkdir()
    cv2.imwrite(str(tree / "test2017" / "1.jpg"), np.zeros((8, 8, 3), np.uint8))
    for split, name in coco_tree.SPLITS.items():  # tfds wants COCO's 80 classes
        content = coco_tree.truth(tree, split)
        content["categories"] += [{"id": 100 + i, "name": f"other {i}"} for i in range(80 - len(content["categories"]))]
        (tree / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
    images = [{"id": 1, "file_name": "1.jpg", "height": 8, "width": 8}]
    content = coco_tree.truth(tree, "train") | {"images": images, "annotations": []}
    (tree / "annotations" / "image_info_test2017.json").write_text(json.dumps(content))
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download_and_extract", lambda self, urls: dict.fromkeys(urls, str(tree))
    )
    builder = tfds.builder("coco/2017", data_dir=tmp_path / "stock", file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    assert_stock_opens(tree, tmp_path / "stock", tmp_path)


def test_what_cannot_be_opened_is_named(tree: Path, prepared: Path, tmp_path: Path) -> None:
    def open_split(root: str, **fields: Any) -> Any:
        source = CocoRecordsConfig(root=root, **fields)
        return make_source(data_config(tree, source=source), tmp_path).split("val")

    with pytest.raises(DataError, match="has no dataset_info"):
        open_split(str(tree))
    with pytest.raises(DataError, match="does not exist"):
        open_split(str(tmp_path / "absent"))
    with pytest.raises(DataError, match="mount the bucket"):
        open_split("gs://bucket/coco")
    with pytest.raises(DataError, match="has 7 validation records for 23 images"):
        open_split(str(prepared), val_annotations="annotations/instances_train2017.json")
