"""Drawn shapes: the same every time, boxes that fit, objects that can be seen."""

import hashlib
import pickle
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from dyhead_jax.config import DataConfig, ShapesConfig
from dyhead_jax.data import drawing
from dyhead_jax.data.source import DataError, make_source


@pytest.fixture(scope="module")
def pictures() -> list[drawing.Picture]:
    return [drawing.draw(np.random.default_rng([0, 0, i]), 160) for i in range(60)]


def test_boxes_are_the_extent_of_the_drawn_shape(pictures: list[drawing.Picture]) -> None:
    for picture in pictures:
        for box, mask in zip(picture.boxes, picture.masks, strict=True):
            rows, columns = np.nonzero(mask)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            # The mask is of whole pixels, drawn to a quarter of one.
            np.testing.assert_allclose(box, extent, atol=1.26)


def test_boxes_are_tight_to_a_fraction_of_a_pixel() -> None:
    square = [np.array([(10.25, 20.5), (40.75, 20.5), (40.75, 50.0), (10.25, 50.0)])]
    region, coverage = drawing._coverage(square, 64)
    assert region == (slice(20, 50), slice(10, 41))
    np.testing.assert_allclose(coverage.sum(), 30.5 * 29.5, rtol=0.02)
    cut = drawing._clip(np.array([(-10.0, 5.0), (10.0, -5.0), (10.0, 15.0)]), 64)
    np.testing.assert_allclose([*cut.min(0), *cut.max(0)], [0, 0, 10, 15])
    beside = drawing._clip(np.array([(50.0, 0.0), (70.0, 10.0), (60.0, 30.0)]), 64)
    np.testing.assert_allclose([*beside.min(0), *beside.max(0)], [50, 0, 64, 30], atol=1e-9)


def test_pictures_are_varied(pictures: list[drawing.Picture]) -> None:
    counts = [len(picture.boxes) for picture in pictures]
    assert min(counts) >= 1
    assert max(counts) >= 9
    boxes = np.concatenate([picture.boxes for picture in pictures])
    sides = np.max(boxes[:, 2:] - boxes[:, :2], axis=1)
    assert sides.min() < 12
    assert 80 < sides.max() <= 100.01
    assert (boxes >= 0).all()
    assert (boxes <= 160).all()
    assert len(np.unique(np.concatenate([picture.labels for picture in pictures]))) == len(drawing.NAMES)
    overlaps = sum((np.sum([m > 0.5 for m in p.masks], axis=0) > 1).any() for p in pictures)
    assert overlaps > 10


def test_every_shape_can_be_seen(pictures: list[drawing.Picture]) -> None:
    for picture in pictures:
        top = np.full(picture.image.shape[:2], -1)
        for number, mask in enumerate(picture.masks):
            top[mask >= 0.5] = number
        for number, mask in enumerate(picture.masks):
            assert (top == number).sum() >= drawing.VISIBLE * (mask >= 0.5).sum()


def test_the_shape_is_where_its_mask_says() -> None:
    hits = []
    for i in range(40):
        picture = drawing.draw(np.random.default_rng([3, i]), 96)
        mask = picture.masks[-1]  # nothing is drawn over the last one
        x1, y1, x2, y2 = picture.boxes[-1].astype(int)
        around = picture.image[max(y1 - 3, 0) : y2 + 3, max(x1 - 3, 0) : x2 + 3].astype(float)
        part = mask[max(y1 - 3, 0) : y2 + 3, max(x1 - 3, 0) : x2 + 3]
        inside, outside = around[part > 0.99], around[part == 0]
        if len(inside) and len(outside):
            hits.append(np.linalg.norm(inside.mean(0) - outside.mean(0)) > 25)
    assert np.mean(hits) > 0.8


def _split(root: Path, name: str, seed: int = 0):
    source = ShapesConfig(train_images=6, val_images=4, size=64, seed=seed)
    return make_source(DataConfig(source=source), root).split(name)


def test_source_is_deterministic_and_val_is_apart(tmp_path: Path) -> None:
    first, second = _split(tmp_path / "a", "train"), _split(tmp_path / "b", "train")
    other, val = _split(tmp_path / "a", "train", seed=1), _split(tmp_path / "a", "val")
    assert (len(first), len(val)) == (6, 4)
    assert first.class_names == drawing.NAMES
    for row in range(6):
        np.testing.assert_array_equal(first[row].image, second[row].image)
        np.testing.assert_array_equal(first[row].boxes, second[row].boxes)
        assert not np.array_equal(first[row].image, other[row].image)
    pictures = [first[row].image.tobytes() for row in range(6)] + [val[row].image.tobytes() for row in range(4)]
    assert len(set(pictures)) == 10
    assert first.notes == []


def test_annotations_are_those_of_the_drawing(tmp_path: Path) -> None:
    split = _split(tmp_path, "val")
    for row in range(4):
        picture = drawing.draw(np.random.default_rng([0, 1, row]), 64)
        np.testing.assert_allclose(split[row].boxes, picture.boxes, atol=1e-4)
        np.testing.assert_array_equal(split[row].labels, picture.labels)
        small = [
            cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA) for image in (split[row].image, picture.image)
        ]
        assert np.abs(small[0].astype(int) - small[1]).mean() < 3  # JPEG
    truth = split.coco()
    assert len({annotation["id"] for annotation in truth["annotations"]}) == len(split.index.boxes)


def test_a_set_that_an_earlier_version_drew_is_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that began with it goes on with the same pictures, whatever would be drawn now."""
    with zipfile.ZipFile(Path(__file__).parent / "packing" / "earlier_shapes.zip") as archive:
        archive.extractall(tmp_path / "data")
    config = DataConfig(source=ShapesConfig(train_images=3, val_images=2, size=32))
    source = make_source(config, tmp_path)
    digests = {  # as that version read it
        "train": "9ffc45e085ff7bd6ff21d05660ef644d0566d051dfc575d460fc916ca7c7d2cf",
        "val": "a6ab395972c51af07a8b6d8ad8cb79a5cd2207a82230a04e12b361d11b908416",
    }
    for name, digest in digests.items():
        split = pickle.loads(pickle.dumps(source.split(name)))
        content = hashlib.sha256()
        for row in range(len(split)):
            example = split[row]
            content.update(split.encoded.read(row) + example.boxes.tobytes() + example.labels.tobytes())
            content.update(f"{example.file_name}{example.image_id}".encode())
        assert content.hexdigest() == digest
    assert capsys.readouterr().err == ""
    assert len([*tmp_path.glob("data/*")]) == 1


@pytest.mark.parametrize("field", ["train_images", "val_images", "size", "seed"])
def test_impossible_values_name_the_field(field: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"config\.data\.source\.{field}"):
        make_source(DataConfig(source=ShapesConfig(**{field: -1})), tmp_path)
    assert list(tmp_path.iterdir()) == []
