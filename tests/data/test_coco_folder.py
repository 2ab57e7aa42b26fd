"""A COCO folder as a source, read as it is or packed."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from dyhead_jax.config import CocoFolderConfig, DataConfig, ShapesConfig
from dyhead_jax.data.packing import records, shards
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
    builder = tfds.builder_from_directory(directory)
    stored = builder.as_data_source(split="train", decoders={"image": tfds.decode.SkipDecoding()})
    assert stored[0]["image"] == (folder / "train" / "0.png").read_bytes()
    assert stored[0]["image/filename"] == b"0.png"
    truth = plain.coco()["annotations"]
    objects = [record["objects"] for record in stored]
    for key, name in (("id", "id"), ("area", "area_float"), ("iscrowd", "is_crowd"), ("bbox", "bbox_xywh")):
        values = [np.asarray(value).tolist() for own in objects for value in own[name]]
        assert values == [annotation[key] for annotation in truth]
    np.testing.assert_allclose(objects[0]["bbox"][0], [3 / 20, 2 / 30, 11.25 / 20, 12.5 / 30], rtol=1e-6)
    again = make_source(config, tmp_path / "w").split("train")
    np.testing.assert_array_equal(again[0].image, plain[0].image)


class _Dies(records.SplitRecords):
    def rows(self, start, stop):
        yield next(super().rows(start, stop))
        raise KeyboardInterrupt


def test_a_killed_packing_leaves_nothing_that_looks_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = data_config(folder, source=CocoFolderConfig(root=str(folder), prepared=True))
    with monkeypatch.context() as patch:
        patch.setattr("dyhead_jax.data.packing.packed_folder.SplitRecords", _Dies)
        with pytest.raises(KeyboardInterrupt):
            make_source(config, tmp_path / "w").split("train")
    assert list((tmp_path / "w" / "data").iterdir()) == []
    assert len(make_source(config, tmp_path / "w").split("train")) == 4


def test_of_two_packings_at_once_the_first_to_end_stays(folder: Path, tmp_path: Path) -> None:
    config = data_config(folder, source=CocoFolderConfig(root=str(folder), prepared=True))
    split = make_source(data_config(folder), "unused").split("train")
    target = tmp_path / "set"
    with shards.whole(target) as second:
        shards.pack(second, "coco", {"train": records.SplitRecords(split.index, split.encoded)}, split.class_names)
        with shards.whole(target) as first:
            shards.pack(first, "coco", {"train": records.SplitRecords(split.index, split.encoded)}, split.class_names)
        opened = records.PackedImages(target, "train", split.image_ids)
        inode = target.stat().st_ino
    assert target.stat().st_ino == inode
    assert opened.read(3) == split.encoded.read(3)
    assert [path.name for path in tmp_path.iterdir() if "set" in path.name] == ["set"]
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/data.* cannot be written"):
        make_source(config, tmp_path / "file").split("train")


def test_a_picture_that_was_replaced_is_packed_anew(folder: Path, tmp_path: Path) -> None:
    config = data_config(folder, source=CocoFolderConfig(root=str(folder), prepared=True))
    before = make_source(config, tmp_path / "w").split("train")[1].image
    Image.fromarray(255 - before).save(folder / "train" / "1.png")
    after = make_source(config, tmp_path / "w").split("train")[1].image
    np.testing.assert_array_equal(after, 255 - before)


def test_a_picture_of_the_same_size_and_time_is_packed_anew(folder: Path, tmp_path: Path) -> None:
    """As tools write it that keep times: cp -p, rsync -a, unzip."""
    config = data_config(folder, source=CocoFolderConfig(root=str(folder), prepared=True))
    path, other = folder / "train" / "1.png", tmp_path / "other.png"
    before = make_source(config, tmp_path / "w").split("train")[1].image
    Image.fromarray(255 - before).save(other)
    length = max(path.stat().st_size, other.stat().st_size)
    for file in (path, other):  # bytes behind the end of a PNG mean nothing
        file.write_bytes(file.read_bytes().ljust(length, b"\0"))
    np.testing.assert_array_equal(make_source(config, tmp_path / "w").split("train")[1].image, before)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=times)
    np.testing.assert_array_equal(make_source(config, tmp_path / "w").split("train")[1].image, 255 - before)


def test_a_copy_that_an_earlier_version_packed_is_used_while_it_holds_the_pictures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its name tells the annotations only, and tfds' builder put its files two folders below."""
    config = data_config(folder, source=CocoFolderConfig(root=str(folder), prepared=True))
    plain = make_source(data_config(folder), "unused").split("train")
    described = [str(plain.index.path), plain.image_ids.tolist(), plain.index.file_names, plain.sizes.tolist()]
    content = plain.index.path.read_bytes() + json.dumps(described).encode()
    earlier = tmp_path / "w" / "data" / f"train-{hashlib.sha256(content).hexdigest()[:12]}"
    below = earlier / "detections" / "1.0.0"
    below.mkdir(parents=True)
    shards.pack(below, "detections", {"train": records.SplitRecords(plain.index, plain.encoded)}, plain.class_names)
    for compares in (True, False):
        split = make_source(config, tmp_path / "w").split("train")
        assert [path.name for path in earlier.parent.iterdir()] == [earlier.name]
        assert ("comparing the train images" in capsys.readouterr().err) == compares
        for row in range(len(plain)):
            assert split.encoded.read(row) == plain.encoded.read(row)
            np.testing.assert_array_equal(split[row].image, plain[row].image)
    image = plain[1].image
    Image.fromarray(255 - image).save(folder / "train" / "1.png")
    np.testing.assert_array_equal(make_source(config, tmp_path / "w").split("train")[1].image, 255 - image)
    assert len([*earlier.parent.iterdir()]) == 2


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
    content = json.loads((folder / "annotations" / "instances_val.json").read_text())
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
