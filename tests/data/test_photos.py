"""The same pictures, however they are kept, are the same examples; what is found is said, and faults are named."""

import hashlib
import os
import pickle
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from dyhead_jax.config import ConfigError, DataConfig, PhotosConfig, from_json, to_json
from dyhead_jax.config.experiment import Config
from dyhead_jax.data.source import DataError, Split, make_source
from tests.data import photo_sets
from tests.data.photo_sets import CLASSES, PARTS, Picture

WRITERS = {
    "coco": photo_sets.coco,
    "coco 2017": photo_sets.coco_2017,
    "roboflow": photo_sets.roboflow,
    "yolo": photo_sets.yolo,
    "yolo without yaml": partial(photo_sets.yolo, yaml=None),
    "voc": photo_sets.voc,
    "voc beside": partial(photo_sets.voc, lists=False),
}
MANY = {"train": [Picture(f"{i:03d}.png", (20, 24), [(i % 9, 2, 20, 18, i % 3)]) for i in range(40)]}


def opened(root: Path, name: str = "train", **options: object) -> Split:
    data = DataConfig(source=PhotosConfig(**options), root=str(root))  # type: ignore[arg-type]
    return make_source(data, "unused").split(name)


def by_name(split: Split) -> dict:
    examples = [split[row] for row in range(len(split))]
    return {Path(example.file_name).name: example for example in examples}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("name", PARTS)
def test_all_kinds_give_the_same_examples(kind: str, name: str, tmp_path: Path) -> None:
    split = opened(WRITERS[kind](tmp_path / "my data"), name)
    assert split.class_names == CLASSES
    examples = by_name(split)
    assert examples.keys() == {picture.name for picture in PARTS[name]}
    for picture in PARTS[name]:
        example = examples[picture.name]
        expected = np.array([box[:4] for box in picture.boxes], np.float32).reshape(-1, 4)
        np.testing.assert_allclose(example.boxes, expected, atol=1e-4)
        assert example.labels.tolist() == [box[4] for box in picture.boxes]
        assert example.image.shape[:2] == picture.size
        row = split.image_ids.tolist().index(example.image_id)
        assert tuple(split.sizes[row]) == picture.size
    assert split.notes[0].startswith("found ")
    assert f"{len(PARTS[name])} {name} images, 3 classes" in split.notes[0]


@pytest.mark.parametrize("seed", range(4))
def test_drawn_sets_are_the_same_in_all_kinds(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    parts: dict[str, list[Picture]] = {}
    for name in PARTS:
        parts[name] = []
        for number in range(6):
            height, width = rng.integers(8, 60, 2).tolist()
            corners = rng.integers(0, [width - 2, height - 2], (rng.integers(1, 5), 2))
            ends = rng.integers(corners + 1, [width + 1, height + 1])
            labels = np.concatenate([[number % 3], rng.integers(0, 3, len(corners) - 1)])
            boxes = [tuple(box) for box in np.concatenate([corners, ends, labels[:, None]], 1).tolist()]
            parts[name].append(Picture(f"{name} {number}.png", (height, width), boxes))
    for name in PARTS:
        sets = {kind: by_name(opened(writer(tmp_path / kind / name, parts), name)) for kind, writer in WRITERS.items()}
        for kind, examples in sets.items():
            assert examples.keys() == sets["coco"].keys()
            for file, example in examples.items():
                same = sets["coco"][file]
                np.testing.assert_allclose(example.boxes, same.boxes, atol=1e-4, err_msg=kind)
                assert example.labels.tolist() == same.labels.tolist()
                np.testing.assert_array_equal(example.image, same.image)


@pytest.mark.parametrize("kind", WRITERS)
def test_ground_truth_for_evaluation(kind: str, tmp_path: Path) -> None:
    split = pickle.loads(pickle.dumps(opened(WRITERS[kind](tmp_path), "train")))
    truth = split.coco()
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    assert [category["id"] for category in truth["categories"]] == list(split.category_ids)
    for row in range(len(split)):
        example = split[row]
        found = coco.loadAnns(coco.getAnnIds(imgIds=[example.image_id]))
        boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in (box["bbox"] for box in found)]).reshape(-1, 4)
        np.testing.assert_allclose(boxes, example.boxes, atol=1e-4)
        assert [split.category_ids.index(box["category_id"]) for box in found] == example.labels.tolist()
        np.testing.assert_allclose([box["area"] for box in found], np.prod(boxes[:, 2:] - boxes[:, :2], 1), rtol=1e-6)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_relative_root(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[kind](tmp_path / "my data")
    monkeypatch.chdir(tmp_path)
    for root in ("my data", "../" + tmp_path.name + "/my data", "./my data/"):
        assert len(by_name(opened(Path(root)))) == 3


def test_category_ids_are_those_of_the_files(tmp_path: Path) -> None:
    assert opened(photo_sets.yolo(tmp_path / "y")).category_ids == (0, 1, 2)
    assert opened(photo_sets.voc(tmp_path / "v")).category_ids == (1, 2, 3)
    assert opened(photo_sets.roboflow(tmp_path / "r")).category_ids == (1, 2, 3)


def test_difficult_is_crowd_and_counted(tmp_path: Path) -> None:
    parts = {"train": [Picture("a.jpg", (30, 40), [(1, 2, 9, 9, 0), (3, 3, 8, 8, 1), (5, 1, 9, 7, 2)], hard=(1,))]}
    for split in (opened(photo_sets.voc(tmp_path / "v", parts), val_fraction=0.0),
                  opened(photo_sets.coco(tmp_path / "c", parts), val_fraction=0.0)):  # fmt: skip
        assert split[0].crowd.tolist() == [False, True, False]
        assert split.box_counts.tolist() == [2]
    assert "1 difficult boxes do not train" in " ".join(opened(tmp_path / "v", val_fraction=0.0).notes)


def test_roboflow_project_category_is_left_out_unless_it_has_boxes(tmp_path: Path) -> None:
    split = opened(photo_sets.roboflow(tmp_path))
    assert any("category 0, 'project', left out" in note for note in split.notes)
    content = photo_sets.coco_content(PARTS["val"], project=True)
    content["annotations"][0]["category_id"] = 0
    photo_sets.write_json(tmp_path / "valid" / "_annotations.coco.json", content)
    assert opened(tmp_path).class_names == ("project", *CLASSES)


@pytest.mark.parametrize("kind", ["coco", "yolo", "yolo without yaml", "voc", "voc beside"])
def test_a_fraction_is_disjoint_stable_and_the_same_for_every_kind(kind: str, tmp_path: Path) -> None:
    def write(root: Path, parts: dict) -> Path:
        WRITERS[kind](root, parts)
        shutil.rmtree(root / "ImageSets", ignore_errors=True)
        for extra in (root / "ImageSets",):
            shutil.rmtree(extra, ignore_errors=True)
        if (root / "data.yaml").exists():
            text = (root / "data.yaml").read_text().replace("val: images/val\n", "")
            (root / "data.yaml").write_text(text)
        return root

    def names(root: Path, name: str) -> set[str]:
        return set(by_name(opened(root, name)))

    root = write(tmp_path / "one", MANY)
    train, val = names(root, "train"), names(root, "val")
    assert train | val == {picture.name for picture in MANY["train"]}
    assert not train & val
    assert 3 <= len(val) <= 14
    shutil.copytree(root, tmp_path / "copy" / "two")
    assert names(tmp_path / "copy" / "two", "val") == val
    more = {"train": [*MANY["train"], *(Picture(f"new{i}.png", (20, 24), [(1, 2, 9, 9, 0)]) for i in range(10))]}
    assert names(write(tmp_path / "more", more), "val") & {p.name for p in MANY["train"]} == val
    hashes = {name: int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64 for name in train | val}
    assert val == {name for name, place in hashes.items() if place < 0.2}


def test_few_images_are_divided_too_and_versions_of_one_picture_stay_together(tmp_path: Path) -> None:
    two = {"train": [Picture(f"{i}.png", (20, 24), [(1, 2, 9, 9, 0)]) for i in range(2)]}
    photo_sets.coco(tmp_path / "two", two)
    assert [len(opened(tmp_path / "two", name)) for name in PARTS] == [1, 1]
    copies = [f"{i}_jpg.rf.{'abc'[k] * 32}.jpg" for i in range(30) for k in range(3)]
    photo_sets.coco(tmp_path / "rf", {"train": [Picture(name, (20, 24), [(1, 2, 9, 9, 0)]) for name in copies]})
    train, val = (
        {name.split("_")[0] for name in by_name(opened(tmp_path / "rf", part, val_fraction=0.3))} for part in PARTS
    )
    assert not train & val
    assert val
    with pytest.raises(DataError, match=r"no validation part, and .*val_fraction is 0"):
        opened(tmp_path / "two", "val", val_fraction=0.0)


def test_one_json_and_a_folder_given_apart(tmp_path: Path) -> None:
    photo_sets.coco(tmp_path / "set", MANY)
    shutil.move(tmp_path / "set" / "train", tmp_path / "pictures of mine")
    shutil.move(tmp_path / "set" / "annotations" / "instances_train.json", tmp_path / "boxes.json")
    split = opened(tmp_path / "set", annotations="../boxes.json", images=str(tmp_path / "pictures of mine"))
    assert len(split) + len(opened(tmp_path, "val", images="pictures of mine")) == 40
    with pytest.raises(DataError, match=r"boxes\.json: its image '\d+\.png' is in none of .* set .*images"):
        opened(tmp_path / "set", annotations="../boxes.json")


def test_json_files_that_are_not_read_are_said(tmp_path: Path) -> None:
    photo_sets.coco(tmp_path)
    photo_sets.write_json(tmp_path / "settings.json", {"a": 1})
    photo_sets.write_json(tmp_path / "annotations" / "person_keypoints_train.json", {"a": 1})
    photo_sets.write_json(tmp_path / "z\nz.json", {"a": 1})
    said = "JSON files that are not read: annotations/person_keypoints_train.json, settings.json, z z.json"
    assert said in opened(tmp_path).notes
    path = tmp_path / "annotations" / "instances_val.json"
    path.write_bytes(path.read_bytes()[:60])  # a training that divides the other part would not notice
    with pytest.raises(DataError, match=r"instances_val\.json is not JSON"):
        opened(tmp_path, "val")


def test_two_json_given(tmp_path: Path) -> None:
    for number, (part, pictures) in enumerate(PARTS.items()):
        for picture in pictures:
            photo_sets.save(tmp_path / "all", picture)
        photo_sets.write_json(tmp_path / f"fold{number}.json", photo_sets.coco_content(PARTS[part]))
    with pytest.raises(DataError, match=r"2 COCO files .*fold0\.json, fold1\.json; set config.data.source.annotations"):
        opened(tmp_path)
    options = {"annotations": "fold0.json", "val_annotations": "fold1.json", "images": "all"}
    assert len(opened(tmp_path, "train", **options)) == 3
    assert len(opened(tmp_path, "val", **options)) == 1


def test_several_kinds_or_none_is_an_error_that_lists_them(tmp_path: Path) -> None:
    photo_sets.voc(photo_sets.coco(tmp_path / "both"))
    with pytest.raises(DataError, match=r"boxes of several kinds: COCO JSON .*Pascal VOC .*set .*annotations"):
        opened(tmp_path / "both")
    assert len(opened(tmp_path / "both", annotations="Annotations", images="JPEGImages")) == 3
    photo_sets.save(tmp_path / "none", PARTS["val"][0])
    with pytest.raises(DataError, match="has 1 images but no COCO JSON, YOLO or Pascal VOC labels"):
        opened(tmp_path / "none")
    with pytest.raises(DataError, match="does not exist"):
        opened(tmp_path / "nowhere")
    with pytest.raises(DataError, match="val_fraction is 1"):
        opened(tmp_path / "both", val_fraction=1.0)


def test_a_folder_in_a_folder_is_looked_into(tmp_path: Path) -> None:
    photo_sets.voc(tmp_path / "VOCdevkit" / "VOC2012")
    (tmp_path / "._junk.xml").write_text("<annotation>")
    assert len(opened(tmp_path)) == 3


def test_test_part_validates_only_where_there_is_no_other(tmp_path: Path) -> None:
    photo_sets.roboflow(tmp_path)
    shutil.copytree(tmp_path / "valid", tmp_path / "test")
    assert "the test part is not used" in opened(tmp_path).notes
    shutil.rmtree(tmp_path / "valid")
    split = opened(tmp_path, "val")
    assert any("the test part is used" in note for note in split.notes)
    assert len(split) == 1


def test_limit(tmp_path: Path) -> None:
    for kind, writer in WRITERS.items():
        split = opened(writer(tmp_path / kind), limit=1)
        assert len(split) == 1
        assert len(split.coco()["images"]) == 1


def test_a_link_that_leads_back_ends(tmp_path: Path) -> None:
    photo_sets.yolo(tmp_path)
    os.symlink(tmp_path, tmp_path / "images" / "again")
    assert len(opened(tmp_path)) == 3


def test_config_round_trip() -> None:
    config = Config()
    config.data.source = PhotosConfig(root="x", class_names=("a", "b"))
    assert from_json(to_json(config)).data.source == config.data.source
    with pytest.raises((AttributeError, ConfigError, TypeError)):
        config.data.source.anotations = "x"
