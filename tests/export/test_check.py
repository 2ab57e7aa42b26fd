"""The comparison sees every difference that counts, and none in the order of equal scores or at the cut."""

import time

import numpy as np
import pytest

from dyhead_jax.config import DataConfig
from dyhead_jax.export.check import Timed, check, compare
from dyhead_jax.inference.batches import Boxes
from dyhead_jax.types import Detections
from tests.inference.tiny_run import noise


def made(count=6, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 100, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 50, (count, 2))], axis=1)
    scores = np.sort(rng.uniform(0.1, 1, count))[::-1]
    return Boxes(boxes.astype(np.float32), scores.astype(np.float32), rng.integers(0, 2, count).astype(np.int32))


def changed(original, row, **fields):
    copy = Boxes(*(array.copy() for array in original))
    for name, value in fields.items():
        getattr(copy, name)[row] = value
    return copy


def taken(boxes, rows):
    return Boxes(*(array[rows] for array in boxes))


def test_equal_lists_differ_by_nothing_in_any_order():
    boxes = made()
    for rows in ([0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 5, 4]):
        found = compare([boxes, made(seed=1)], [taken(boxes, rows), made(seed=1)])
        assert (found.pixels, found.scores, found.boxes, found.alone) == (0, 0, 12, 0)
        assert found.small


@pytest.mark.parametrize(
    ("fields", "small"),
    [
        ({"boxes": lambda b, s: b + np.array([0, 0, 0.009, 0])}, True),
        ({"boxes": lambda b, s: b + np.array([0, 0.02, 0, 0])}, False),
        ({"scores": lambda b, s: s + 5e-6}, True),
        ({"scores": lambda b, s: s - 2e-5}, False),
        ({"boxes": lambda b, s: b + 40}, False),
        ({"labels": lambda b, s: 5}, False),
    ],
)
def test_a_changed_box_is_seen(fields, small):
    boxes = made()
    values = {name: change(boxes.boxes[2], boxes.scores[2]) for name, change in fields.items()}
    assert compare([boxes], [changed(boxes, 2, **values)]).small is small
    assert compare([changed(boxes, 2, **values)], [boxes]).small is small


def test_a_box_of_only_one_counts_unless_it_is_at_the_cut():
    boxes = made()
    without_last = compare([boxes], [taken(boxes, [0, 1, 2, 3, 4])])
    assert (without_last.alone, without_last.boxes, without_last.small) == (1, 5, True)
    without_first = compare([taken(boxes, [1, 2, 3, 4, 5])], [boxes])
    assert (without_first.alone, without_first.small) == (1, False)
    assert without_first.scores == pytest.approx(float(boxes.scores[0] - boxes.scores[5]))
    assert compare([taken(boxes, [])], [taken(boxes, [])]).small


def test_pictures_go_through_both():
    """The second detector is off by one pixel of the canvas, which is two of the picture."""
    calls = []

    def detector(shift):
        def detect(images, sizes):
            calls.append(images.shape)
            box = np.array([[[4, 4, 20 + shift, 20]]], np.float32)
            return Detections(box, np.full((1, 1), 0.5, np.float32), np.zeros((1, 1), np.int32))

        return detect

    data = DataConfig(canvases=((32, 48),), short_side=(32,), long_side=48)
    difference, ours, theirs = check(detector(0), detector(0.25), [noise(64, 96)], data, 1)
    assert difference.pixels == pytest.approx(0.5)
    assert not difference.small
    assert ours > 0
    assert theirs > 0
    assert calls == [(1, 32, 48, 3)] * 4  # each once more, to compile


def test_the_first_call_of_a_canvas_is_not_timed():
    slow = [0.2, 0.01, 0.01]

    def detect(images, sizes):
        time.sleep(slow.pop(0))
        return Detections(images, sizes, sizes)

    timed = Timed(detect)
    for _ in range(2):
        timed(np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 2), np.int32))
    assert 4 < timed.milliseconds < 60
