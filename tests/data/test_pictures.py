"""Boxes land where they should, text stays inside, colours differ, grids keep every pixel."""

import itertools

import numpy as np
import pytest
from PIL import Image

from dyhead_jax.data import pictures

NAMES = ("cat", "a very long class name of a street sign", "собака")


def blank(height, width, value=90):
    return np.full((height, width, 3), value, np.uint8)


def test_box_edges_are_drawn_in_the_colour_of_the_class_and_the_input_is_not():
    image = blank(200, 300)
    drawn = pictures.draw(image, np.array([[50.0, 60.0, 150.0, 160.0]]), np.array([0]), None, NAMES)
    assert (image == 90).all()
    assert drawn.shape == image.shape
    shade = pictures.color(0)
    for y, x in ((159, 100), (110, 50), (110, 149)):
        assert tuple(drawn[y, x]) == shade
    assert (drawn[70:150, 60:140] == 90).all()  # the inside is left alone
    changed = np.argwhere((drawn != image).any(-1))
    assert changed[:, 0].max() == 159
    assert changed[:, 1].min() == 50


@pytest.mark.parametrize("size", [(1, 1), (8, 4000), (4000, 8), (3, 5), (48, 64), (480, 640)])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.9, 0.9)])
def test_any_picture_size_and_corner(size, corner):
    height, width = size
    x, y = corner[0] * width, corner[1] * height
    boxes = np.array([[x, y, x + width, y + height], [-50.0, -50.0, -10.0, -10.0], [np.nan] * 4])
    drawn = pictures.draw(blank(height, width), boxes, np.array([1, 0, 2]), np.array([0.9, 0.5, 0.4]), NAMES)
    assert drawn.shape == (height, width, 3)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (290, 0), (0, 190), (290, 190), (150, 100)])
def test_text_is_whole_wherever_the_box_is(x, y):
    def plate(left, top):
        box = np.array([[left, top, left + 8.0, top + 8.0]])
        drawn = pictures.draw(blank(200, 300), box, np.array([0]), np.array([0.5]), NAMES)
        return (drawn != 90).any(-1)

    # The same text covers the same area in the middle and at the rim; only the little box itself may hide under it.
    assert abs(int(plate(x, y).sum()) - int(plate(150, 100).sum())) <= 64
    assert plate(x, y).sum() > 300


def test_letters_are_really_drawn_and_tell_classes_apart():
    box = np.array([[20.0, 60.0, 280.0, 180.0]])
    drawn = [
        pictures.draw(blank(200, 300), box, np.array([0]), None, (name,)) for name in ("cat", "cot", "собака", "собаки")
    ]
    for i, first in enumerate(drawn):
        for second in drawn[i + 1 :]:
            assert (first != second).any()


def test_the_highest_score_is_on_top():
    boxes = np.array([[50.0, 50.0, 150.0, 150.0]] * 2)
    for scores in ([0.9, 0.2], [0.2, 0.9]):
        drawn = pictures.draw(blank(200, 200), boxes, np.array([0, 2]), np.array(scores), NAMES)
        assert tuple(drawn[149, 100]) == pictures.color([0, 2][int(np.argmax(scores))])


def test_colours_of_eighty_classes_differ_and_neighbours_differ_much():
    shades = [pictures.color(label) for label in range(80)]
    assert len(set(shades)) == 80
    assert min(np.abs(np.subtract(a, b)).sum() for a, b in itertools.pairwise(shades)) > 100


@pytest.mark.parametrize(
    ("image", "boxes", "labels", "scores", "message"),
    [
        (np.zeros((4, 4), np.uint8), np.zeros((0, 4)), [], None, "an image is"),
        (np.zeros((4, 4, 3), np.float32), np.zeros((0, 4)), [], None, "an image is"),
        (blank(4, 4), np.zeros((2, 4)), [0], None, "2 boxes, 1 labels"),
        (blank(4, 4), np.zeros((1, 4)), [0], [0.1, 0.2], "2 scores"),
        (blank(4, 4), np.zeros((1, 4)), [3], None, "3 class names"),
        (blank(4, 4), np.zeros((1, 4)), [-1], None, "3 class names"),
    ],
)
def test_wrong_input_is_named(image, boxes, labels, scores, message):
    with pytest.raises(ValueError, match=message):
        pictures.draw(image, boxes, np.array(labels, int), scores, NAMES)


def test_grid_keeps_every_picture():
    rows = [[blank(20, 30, 1), blank(10, 50, 2)], [blank(15, 15, 3)]]
    whole = pictures.grid(rows, gap=4)
    assert whole.shape == (4 + 24 + 19, 4 + 34 + 54, 3)
    for value, count in ((1, 600), (2, 500), (3, 225)):
        assert (whole == value).all(-1).sum() == count
    titled = pictures.grid(rows, ("left", "right"), gap=4)
    assert titled.shape[0] == whole.shape[0] + 24
    assert (titled[:24] == 0).all(-1).any()
    with pytest.raises(ValueError, match="at least one"):
        pictures.grid([])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_save(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    pictures.save(blank(20, 30), path)
    with Image.open(path) as picture:
        assert picture.size == (30, 20)
        assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - 90).max() <= 3
    with pytest.raises(ValueError, match="saved as"):
        pictures.save(blank(2, 2), tmp_path / "a.xyz")
