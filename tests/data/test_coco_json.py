"""Faulty annotation files: one clear line, or a counted note."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dyhead_jax.data import coco_json
from dyhead_jax.data.source import DataError
from tests.data.folders import rewrite, write_split


@pytest.fixture
def good(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    content = write_split(
        tmp_path, "val", [(20, 30), (30, 20), (10, 10)], [[[2, 3, 10, 8], [0, 0, 5, 5]], [[1, 1, 3, 3]], []]
    )
    return tmp_path, content


def _load(root: Path, content: Any, **options: Any) -> coco_json.Index:
    rewrite(root, "val", content)
    return coco_json.load(root / "annotations" / "instances_val.json", **options)


def test_labels_follow_sorted_ids_and_boxes_are_corners(good: tuple[Path, dict[str, Any]]) -> None:
    root, content = good
    index = _load(root, content)
    assert index.class_names == ("a", "b")
    assert index.category_ids == (3, 7)
    np.testing.assert_array_equal(index.boxes[0], [2, 3, 12, 11])
    np.testing.assert_array_equal(index.labels, [1, 0, 1])
    np.testing.assert_array_equal(index.box_counts(), [2, 1, 0])


def test_boxes_are_clipped_to_the_image_and_kept_whole_for_evaluation(good: tuple[Path, dict[str, Any]]) -> None:
    root, content = good
    content["annotations"][0]["bbox"] = [25, 15, 10, 20]
    content["annotations"][1]["bbox"] = [-5, -2, 10, 4]
    index = _load(root, content)
    np.testing.assert_array_equal(index.boxes[:2], [[25, 15, 30, 20], [0, 0, 5, 2]])
    assert index.notes[0].startswith("2 boxes that reach")
    assert coco_json.ground_truth(index)["annotations"][0]["bbox"] == [25, 15, 10, 20]


def test_limit_takes_the_first_images_and_their_boxes(good: tuple[Path, dict[str, Any]]) -> None:
    root, content = good
    content["annotations"].reverse()
    index = _load(root, content, limit=1)
    assert index.file_names == ["0.png"]
    assert len(index.boxes) == 2
    truth = coco_json.ground_truth(index)
    assert {a["image_id"] for a in truth["annotations"]} == {100}


def test_annotation_ids_that_pycocotools_would_lose_are_renumbered(good: tuple[Path, dict[str, Any]]) -> None:
    root, content = good
    for annotation, identity in zip(content["annotations"], (0, 5, 5), strict=True):
        annotation["id"] = identity
    index = _load(root, content)
    assert index.notes[0].startswith("2 annotation ids")
    assert [a["id"] for a in coco_json.ground_truth(index)["annotations"]] == [6, 5, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].update(id=True), r"images\[0\]\.id is True"),
        (lambda c: c["images"][0].update(id=2**63), r"images\[0\]\.id"),
        (lambda c: c["images"][2].update(id=-(2**63)), r"images\[2\]\.id -9223372036854775808 stands for no image"),
        (lambda c: c["images"][0].update(file_name="a\0b"), "leads out"),
        (lambda c: c["images"][0].update(file_name="..\\x.png"), "leads out"),
        (lambda c: c["images"][0].update(file_name="C:\\x.png"), "leads out"),
        (lambda c: c["images"][0].update(width=0), r"images\[0\] needs a positive"),
        (lambda c: c["annotations"][1].update(bbox=[0, 0, 10**400, 1]), r"annotations\[1\]\.bbox"),
        (lambda c: c["annotations"][1].update(iscrowd="no"), r"annotations\[1\]\.iscrowd"),
        (lambda c: c["annotations"][1].update(area=None), r"annotations\[1\]\.area"),
        (lambda c: c["annotations"].insert(0, 3), r"annotations\[0\] is 3"),
        (lambda c: c["categories"][0].update(name=1), r"categories\[0\]\.name"),
        (lambda c: c.update(images=[], annotations=[]), "images is empty"),
        (lambda c: c.update(categories={}), "'categories'"),
    ],
)
def test_faults_name_record_and_key(good: tuple[Path, dict[str, Any]], change: Any, message: str) -> None:
    root, content = good
    change(content)
    with pytest.raises(DataError, match=message):
        _load(root, content)


def test_a_key_that_stands_twice_is_named(tmp_path: Path) -> None:
    """Python keeps the last one: the first list would be lost without a word."""
    (tmp_path / "x.json").write_text('{"images": [1], "images": [], "annotations": [], "categories": []}')
    with pytest.raises(DataError, match=r"x\.json is not JSON: an object has the key 'images' twice"):
        coco_json.read(tmp_path / "x.json")


@pytest.mark.parametrize("text", [b"\xff\xfe", b"[" * 100_000, b"", b"null"])
def test_files_that_hold_something_else(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(DataError, match=r"x\.json"):
        coco_json.read(path)
    with pytest.raises(DataError, match="does not exist"):
        coco_json.read(tmp_path / "y.json")


def _notes(good: tuple[Path, dict[str, Any]], keys: dict[str, Any]) -> tuple[coco_json.Index, list[str]]:
    """The index of the file with more keys in its first annotation."""
    root, content = good
    content["annotations"][0].update(keys)
    index = _load(root, content)
    return index, [note for note in index.notes if "images have no box" not in note]


@pytest.mark.parametrize("value", [1, True])
def test_ignored_boxes_are_crowd_and_counted(good: tuple[Path, dict[str, Any]], value: Any) -> None:
    index, notes = _notes(good, {"ignore": value})
    assert index.crowd.tolist() == [True, False, False]
    assert index.box_counts().tolist() == [1, 1, 0]
    assert [a["iscrowd"] for a in coco_json.ground_truth(index)["annotations"]] == [1, 0, 0]
    assert notes == ["1 boxes marked `ignore` do not train, and count neither way in evaluation (as crowd)"]


def test_a_turned_box_becomes_the_box_around_it(good: tuple[Path, dict[str, Any]]) -> None:
    index, notes = _notes(good, {"attributes": {"rotation": 30.0, "occluded": False}})  # the box is 2, 3, 10, 8
    angle, corners = np.deg2rad(30.0), np.array([[-5, -4], [5, -4], [5, 4], [-5, 4]])
    turned = corners @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + [7, 7]
    np.testing.assert_allclose(index.boxes[0], [*turned.min(0), *turned.max(0)], atol=1e-5)
    assert notes == ["1 turned boxes (attributes.rotation) became the boxes around them"]


@pytest.mark.parametrize("polygons", [[[3, 4, 9, 4, 9, 11.5], [2, 5, 3, 6, 4, 7]], [2, 4, 9, 4, 9, 11.5]])
@pytest.mark.parametrize("bbox", [[], None, "absent"])
def test_polygons_stand_in_for_a_box_that_is_missing(
    good: tuple[Path, dict[str, Any]], polygons: Any, bbox: Any
) -> None:
    if bbox == "absent":
        good[1]["annotations"][0].pop("bbox")
    index, notes = _notes(good, {"segmentation": polygons} | ({} if bbox == "absent" else {"bbox": bbox}))
    np.testing.assert_allclose(index.boxes[0], [2, 4, 9, 11.5])
    assert notes == ["1 boxes are those of their polygons: the file has none for them"]


def test_what_is_not_read_is_said(good: tuple[Path, dict[str, Any]]) -> None:
    attributes = {"occluded": True, "track_id": 0}
    _, notes = _notes(good, {"score": 0.9, "attributes": attributes, "extra": {}, "caption": "x"})
    assert notes == [
        "keys of annotations that are not read (and how many say something): attributes.occluded (1), score (1)",
        "1 annotations have a score, as detections do; they are taken as true boxes",
    ]
    good[1]["annotations"][0].pop("score")
    good[1]["images"][0]["not_exhaustive_category_ids"] = [3]
    good[1]["categories"][0]["name"] = "a"
    _, notes = _notes(good, {"attributes": {}})
    assert notes[0].startswith("1 images are not annotated with all objects of some classes")
    assert notes[1] == "2 classes have the same name 'a'"


@pytest.mark.parametrize("digits", [400, 5_000])
def test_numbers_of_many_digits_are_named(good: tuple[Path, dict[str, Any]], digits: int) -> None:
    root, content = good
    path = root / "annotations" / "instances_val.json"
    for old in ('"bbox": [2', '"area": 40.0', '"height": 20', '"iscrowd": 0', '"image_id": 100'):
        text = json.dumps(content)
        assert old in text
        path.write_text(text.replace(old, old.rpartition(" ")[0] + (" [" if "[" in old else " ") + "9" * digits, 1))
        with pytest.raises(DataError, match=r"instances_val\.json.*") as error:
            coco_json.load(path)
        assert len(str(error.value)) < 400
