"""Faulty annotation files: one clear line, or a counted note."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from dyhead_jax.data import coco_json
from dyhead_jax.data.source import DataError
from tests.data.folders import rewrite, shared, write_split

# What each file of the shared set of faults must do: None loads without a note, "note: ..." loads with a note of
# that text, anything else is part of the error.
_NASTY = {
    "00_good": None,
    "crowd_boxes": None,
    "only_crowd_in_image": "note: 1 of 4 images have no box",
    "zero_area": "note: 3 boxes without width or height",
    "tiny_boxes": None,
    "negative_coords": "note: clipped",
    "fully_outside": "note: 1 boxes wholly outside",
    "box_equals_image": None,
    "path_traversal": r"images\[\d\]\.file_name .* leads out",
    "absolute_path": r"images\[\d\]\.file_name .* leads out",
    "mixed_modes": None,
    "declared_size_wrong": "note: images declare a size that is not the file's",
    "duplicate_image_ids": r"images\[1\]\.id 1",
    "duplicate_annotation_ids": "note: 1 annotation ids",
    "duplicate_boxes": None,
    "noncontiguous_categories": None,
    "unknown_category_id": r"annotations\[\d\]\.category_id",
    "duplicate_category_ids": r"categories\[1\]\.id 1",
    "unicode_category": None,
    "empty_categories": "categories is empty",
    "no_annotations_at_all": "note: 4 of 4 images",
    "orphan_annotation": r"annotations\[\d\]\.image_id",
    "float_strings": r"annotations\[\d\]\.bbox",
    "string_ids": r"images\[0\]\.id",
    "inf_bbox": r"annotations\[\d\]\.bbox",
    "huge_ids": None,
    "bbox_three_numbers": r"annotations\[\d\]\.bbox",
    "bbox_null": r"annotations\[\d\]\.bbox",
    "missing_images": "'images'",
    "missing_annotations": "'annotations'",
    "missing_ann_bbox": r"annotations\[0\] has no key 'bbox'",
    "missing_ann_category_id": r"annotations\[0\] has no key 'category_id'",
    "missing_ann_id": r"annotations\[0\] has no key 'id'",
    "missing_ann_iscrowd": None,
    "missing_image_file_name": r"images\[0\]\.file_name",
    "missing_image_id": r"images\[0\] has no key 'id'",
    "many_boxes": None,
    "wrong_area": None,
    "top_level_list": "holds a list",
    "empty_object": "'images'",
    "truncated_json": "is not JSON",
    "utf8_bom": None,
}


def _nasty_names() -> list[str]:
    return sorted(_NASTY)


@pytest.mark.parametrize("name", _nasty_names())
def test_nasty_annotations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dyhead_jax.data.coco_folder import CocoFolder

    root = shared("nasty")
    source = CocoFolder(
        root=str(root),
        train_annotations=f"annotations/{name}.json",
        train_images="images",
        val_annotations=f"annotations/{name}.json",
        val_images="images",
        limit=0,
        prepared=False,
        box_frame="",
        workdir=Path("unused"),
    )
    expected = _NASTY[name]
    if expected is not None and not expected.startswith("note: "):
        with pytest.raises(DataError, match=expected) as error:
            source.split("train")
        assert f"{name}.json" in str(error.value)
        assert "\n" not in str(error.value)
        return
    split = source.split("train")
    if expected is None:
        assert split.notes == []
    else:
        assert any(expected.removeprefix("note: ") in note for note in split.notes), split.notes
    for row in range(len(split)):
        example = split[row]
        height, width = example.image.shape[:2]
        assert (height, width) == tuple(split.sizes[row])
        assert np.isfinite(example.boxes).all()
        assert (example.boxes[:, 2:] > example.boxes[:, :2]).all()
        assert (example.boxes >= 0).all()
        assert (example.boxes[:, 2:] <= np.array([[width, height]])).all()
    truth = split.coco()
    original = json.loads((root / "annotations" / f"{name}.json").read_text(encoding="utf-8-sig"))
    assert [image["id"] for image in truth["images"]] == [image["id"] for image in original["images"]]
    assert [a["bbox"] for a in truth["annotations"]] == [a["bbox"] for a in original["annotations"]]
    assert [a["area"] for a in truth["annotations"]] == [a["area"] for a in original["annotations"]]
    assert {c["name"] for c in truth["categories"]} == {c["name"] for c in original["categories"]}
    dataset = COCO()
    dataset.dataset = truth
    dataset.createIndex()
    assert len(dataset.anns) == len(original["annotations"])
    assert all("iscrowd" in annotation for annotation in dataset.anns.values())


def test_every_shared_fault_is_expected_here() -> None:
    manifest = json.loads((shared("nasty") / "manifest.json").read_text())
    assert {Path(case["file"]).stem for case in manifest["annotations"]} == set(_NASTY)


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


@pytest.mark.parametrize("text", [b"\xff\xfe", b"[" * 100_000, b"", b"null"])
def test_files_that_hold_something_else(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(DataError, match=r"x\.json"):
        coco_json.read(path)
    with pytest.raises(DataError, match="does not exist"):
        coco_json.read(tmp_path / "y.json")
