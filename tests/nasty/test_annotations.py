"""Every annotation file of the set: one clear line, a counted note or nothing, and its own boxes to score with."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from dyhead_jax.config import CocoFolderConfig, DataConfig
from dyhead_jax.data.source import DataError, make_source
from tests.nasty.cases import ANNOTATIONS, FOLDER, there


def test_every_file_is_expected_here() -> None:
    assert {path.stem for path in there("annotations")} <= set(ANNOTATIONS)


@pytest.mark.parametrize("path", there("annotations"), ids=lambda path: path.stem)
def test_annotations(path: Path) -> None:
    config = CocoFolderConfig(root=str(FOLDER), train_annotations=f"annotations/{path.name}", train_images="images")
    source = make_source(DataConfig(source=config), "unused")
    expected = ANNOTATIONS[path.stem]
    if expected is not None and not expected.startswith("note: "):
        with pytest.raises(DataError, match=expected) as error:
            source.split("train")
        assert path.name in str(error.value)
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
    original = json.loads(path.read_text(encoding="utf-8-sig"))
    assert [image["id"] for image in truth["images"]] == [image["id"] for image in original["images"]]
    assert [a["bbox"] for a in truth["annotations"]] == [a["bbox"] for a in original["annotations"]]
    assert [a["area"] for a in truth["annotations"]] == [a["area"] for a in original["annotations"]]
    assert {c["name"] for c in truth["categories"]} == {c["name"] for c in original["categories"]}
    dataset = COCO()
    dataset.dataset = truth
    dataset.createIndex()
    assert len(dataset.anns) == len(original["annotations"])
    assert all("iscrowd" in annotation for annotation in dataset.anns.values())
