"""Tiles cover a picture; an object comes out once, whole, whatever seams it lies across."""

import itertools

import cv2
import numpy as np
import pytest

from dyhead_jax.inference.batches import Boxes
from dyhead_jax.inference.tiles import make_tiles, merge


def components(image, missed=0):
    """A detector: the box of every connected bright part, those below `missed` pixels wide left out, labelled by its
    grey value."""
    _, marks = cv2.connectedComponents((image > 0).astype(np.uint8))
    boxes, labels = [], []
    for mark in range(1, marks.max() + 1):
        y, x = np.nonzero(marks == mark)
        if np.ptp(x) + 1 >= missed:
            boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
            labels.append(int(image[y[0], x[0]]) - 1)
    # parts score higher than whole objects now and then
    scores = np.random.default_rng(len(boxes)).uniform(0.5, 1, len(boxes))
    return Boxes(np.array(boxes, np.float32).reshape(-1, 4), scores.astype(np.float32), np.array(labels, np.int32))


def detect_tiled(image, side, overlap, missed_in_whole):
    tiles = make_tiles(*image.shape, side, overlap)
    parts = [
        components(image[t.y1 : t.y2, t.x1 : t.x2], missed_in_whole if number == 0 else 0)
        for number, t in enumerate(tiles)
    ]
    return merge(parts, tiles, 0.6)


def corners(boxes):
    return sorted(map(tuple, np.asarray(boxes).tolist()))


@pytest.mark.parametrize(
    ("height", "width", "side", "overlap"), [(100, 333, 64, 0.2), (64, 65, 64, 0), (500, 90, 33, 0.5)]
)
def test_tiles_cover_the_picture_and_overlap(height, width, side, overlap):
    whole, *tiles = make_tiles(height, width, side, overlap)
    assert whole == (0, 0, width, height)
    covered = np.zeros((height, width), int)
    for x1, y1, x2, y2 in tiles:
        assert (x2 - x1, y2 - y1) == (min(side, width), min(side, height))
        covered[y1:y2, x1:x2] += 1
    assert covered.min() >= 1
    for axis in (0, 1):
        starts = sorted({tile[axis] for tile in tiles})
        assert all(b - a <= side * (1 - overlap) + 1 for a, b in itertools.pairwise(starts))


def test_a_picture_that_fits_into_a_tile_is_seen_once():
    assert make_tiles(64, 40, 64, 0.2) == [(0, 0, 40, 64)]


@pytest.mark.parametrize("seed", range(6))
def test_every_object_comes_out_once_and_whole(seed):
    rng = np.random.default_rng(seed)
    image = np.zeros((300, 420), np.uint8)
    true = []
    # small objects, which a look at the whole picture misses, on a grid that does not fit the tiles; and a large one
    for y in range(4, 280, 31):
        for x in range(4, 300, 31):
            height, width = rng.integers(5, 22, 2)
            image[y : y + height, x : x + width] = rng.integers(1, 3)
            true.append((x, y, x + width, y + height))
    image[20:280, 320:410] = 1
    true.append((320, 20, 410, 280))
    found = detect_tiled(image, 110, 0.25, missed_in_whole=40)
    assert corners(found.boxes) == corners(np.array(true, np.float32))
    assert (np.diff(found.scores) <= 0).all()
    for box, label in zip(found.boxes.astype(int), found.labels, strict=True):
        assert image[box[1], box[0]] == label + 1


def test_other_classes_and_neighbours_stay():
    tiles = make_tiles(100, 180, 100, 0.2)
    part = Boxes(
        np.array([[10, 10, 30, 30], [11, 10, 31, 30], [10, 10, 30, 30], [40, 10, 60, 30]], np.float32),
        np.array([0.5, 0.9, 0.7, 0.6], np.float32),
        np.array([0, 0, 1, 0], np.int32),
    )
    nothing = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    found = merge([part, *[nothing] * (len(tiles) - 1)], tiles, 0.6)
    np.testing.assert_array_equal(found.boxes, part.boxes[[1, 2, 3]])
    np.testing.assert_array_equal(found.labels, [0, 1, 0])
    assert len(merge([nothing] * len(tiles), tiles, 0.6).boxes) == 0


@pytest.mark.parametrize(("side", "overlap", "message"), [(0, 0.2, "tiles of 0 pixels"), (9, 1.0, r"overlap 1\.0")])
def test_wrong_numbers_are_named(side, overlap, message):
    with pytest.raises(ValueError, match=message):
        make_tiles(10, 10, side, overlap)
