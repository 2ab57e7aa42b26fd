"""A COCO folder as a source, read as it is or packed."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dyhead_jax.config import CocoFolderConfig, DataConfig, ShapesConfig
from dyhead_jax.data.packing import records, tfds_builder
from dyhead_jax.data.source import DataError, make_source
from tests.data.folders import data_config, rewrite, write_split


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    boxes = [[[2.0, 3.0, 10.5, 8.25], [0.0, 0.0, 5.0, 5.0]], [[-4.0, 1.0, 9.0, 3.0]], [], [[1.0, 1.0, 0.0, 4.0]]]
    content = write_split(tmp_path, "train", [(20, 30), (30, 20), (10, 12), (8, 8)], boxes)
    content["annotations"][1]["iscrowd"] = 1
    rewrite(tmp_path, "train", content)
    write_split(tmp_path, "val", [(20, 30)], [[[2.0, 3.0, 10.0, 8.0]]])
    return tmp_path


def test_examples(folder: Path) -> None:
    split = make_source(data_config(folder), "unused").split("train")
    assert len(split) == 4
    assert split.class_names == ("a", "b")
    np.testing.assert_array_equal(split.sizes, [(20, 30), (30, 20), (10, 12), (8, 8)])
    np.testing.assert_array_equal(split.box_counts, [1, 1, 0, 0])
    example = split[0]
    assert example.image.shape == (20, 30, 3)
    assert (example.image_id, example.file_name) == (100, "0.png")
    np.testing.assert_array_equal(example.boxes, np.array([[2, 3, 12.5, 11.25], [0, 0, 5, 5]], np.float32))
    np.testing.assert_array_equal(example.labels, [1, 0])
    np.testing.assert_array_equal(example.crowd, [False, True])
    np.testing.assert_array_equal(split[1].boxes, np.array([[0, 1, 5, 4]], np.float32))
    assert len(split.notes) == 3
    assert split.coco()["annotations"][2]["bbox"] == [-4.0, 1.0, 9.0, 3.0]
    with pytest.raises(IndexError):
        split[4]


def test_root_of_data_replaces_root_of_source(folder: Path) -> None:
    config = DataConfig(root=str(folder), source=CocoFolderConfig(root="/nowhere"))
    assert len(make_source(config, "unused").split("val")) == 1


def test_packed_gives_the_same_examples_and_the_schema_of_coco(folder: Path, tmp_path: Path) -> None:
    plain = make_source(data_config(folder), "unused").split("train")
    config = data_config(folder, source=CocoFolderConfig(root=str(folder), prepared=True))
    packed = make_source(config, tmp_path / "w").split("train")
    packed = pickle.loads(pickle.dumps(packed))
    for row in range(len(plain)):
        ours, theirs = plain[row], packed[row]
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        assert ours.image_id == theirs.image_id
    [directory] = (tmp_path / "w" / "data").iterdir()
    builder = tfds.builder_from_directory(directory / "detections" / "1.0.0")
    records = builder.as_data_source(split="train", decoders={"image": tfds.decode.SkipDecoding()})
    assert records[0]["image"] == (folder / "train" / "0.png").read_bytes()
    assert records[0]["image/filename"] == b"0.png"
    truth = plain.coco()["annotations"]
    objects = [record["objects"] for record in records]
    for key, name in (("id", "id"), ("area", "area_float"), ("iscrowd", "is_crowd"), ("bbox", "bbox_xywh")):
        stored = [np.asarray(value).tolist() for own in objects for value in own[name]]
        assert stored == [annotation[key] for annotation in truth]
    np.testing.assert_allclose(objects[0]["bbox"][0], [3 / 20, 2 / 30, 11.25 / 20, 12.5 / 30], rtol=1e-6)
    again = make_source(config, tmp_path / "w").split("train")
    np.testing.assert_array_equal(again[0].image, plain[0].image)


def test_a_killed_packing_leaves_nothing_that_looks_whole(folder: Path, tmp_path: Path) -> None:
    def dies():
        yield records.Record(1, "x.png", (20, 30), (folder / "train" / "0.png").read_bytes(), [])
        raise KeyboardInterrupt

    target = tmp_path / "kept" / "set"
    with pytest.raises(KeyboardInterrupt):
        tfds_builder.prepare(target, records={"train": dies}, class_names=("a", "b"), finish=lambda folder: None)
    assert list(target.parent.iterdir()) == []


def test_faults_name_the_file(folder: Path) -> None:
    source = make_source(data_config(folder), "unused")
    (folder / "train" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"train/1\.png: empty"):
        source.split("train")
    (folder / "train" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png, named in .*instances_train\.json, cannot be read"):
        source.split("train")
    split = source.split("val")
    whole = (folder / "val" / "0.png").read_bytes()
    (folder / "val" / "0.png").write_bytes(whole[:500])
    with pytest.raises(DataError, match=r"val/0\.png"):
        split[0]
    with pytest.raises(DataError, match="no split 'test'"):
        source.split("test")
    with pytest.raises(DataError, match="nowhere does not exist"):
        make_source(data_config(folder / "nowhere"), "unused").split("train")
    with pytest.raises(DataError, match=r"data\.root is empty"):
        make_source(DataConfig(), "unused")


def test_splits_must_agree_on_categories(folder: Path) -> None:
    content = write_split(folder, "other", [(8, 8)], [[]])
    content["categories"][0]["name"] = "c"
    rewrite(folder, "val", content)
    source = make_source(data_config(folder), "unused")
    source.split("train")
    with pytest.raises(DataError, match="different categories"):
        source.split("val")


def test_nothing_imports_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys; from dyhead_jax.config import *; from dyhead_jax.data.source import make_source\n"
        "from dyhead_jax.data import pipeline\n"
        "source = ShapesConfig(train_images=2, val_images=1, size=32)\n"
        f"split = make_source(DataConfig(source=source), {str(tmp_path)!r}).split('train'); split[0]\n"
        "assert not any(name.split('.')[0] in ('tensorflow', 'torch') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    assert ShapesConfig().module.startswith("dyhead_jax.data.shapes")
