"""Boxes follow the pixels through every transform."""

import numpy as np
import pytest

from dyhead_jax.data import colour, transforms
from dyhead_jax.data.source import Example

_PLAIN = {
    "short_side": (40,),
    "short_side_choice": False,
    "long_side": 60,
    "scale_jitter": (1.0, 1.0),
    "color_jitter": 0.0,
    "flip": 0.0,
    "min_box_side": 1.0,
}


def _bright(height: int, width: int, box: tuple[int, int, int, int]) -> Example:
    """A black image with one white box, and the same box as a crowd far away from nothing."""
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return Example(image, 5, "x.png", np.array([box], np.float32), np.array([2], np.int32), np.array([False]))


def _found(image: np.ndarray) -> np.ndarray:
    """The extent of what is brighter than half."""
    rows, columns = np.nonzero(image[:, :, 0] > 127)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize(
    ("size", "canvas", "expected"),
    [
        ((480, 640), (800, 1344), (800, 1067)),  # as mmdetection: 1066.67 is rounded
        ((640, 480), (1344, 800), (1067, 800)),
        ((427, 640), (800, 1344), (800, 1199)),
        ((300, 1000), (800, 1344), (400, 1333)),  # the long side decides
        ((500, 500), (800, 1344), (800, 800)),
        ((640, 480), (800, 1344), (800, 600)),  # lowered to fit a canvas of the other kind
        ((8, 4000), (256, 320), (1, 320)),
        ((4000, 8), (256, 320), (256, 1)),
        ((1, 1), (256, 320), (256, 256)),
    ],
)
def test_resized_size(size: tuple[int, int], canvas: tuple[int, int], expected: tuple[int, int]) -> None:
    assert transforms.resized_size(size, 800, 1333, canvas) == expected


def test_resized_size_always_fits() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        size = tuple(int(v) for v in np.exp(rng.uniform(0, 9, 2)).astype(int))
        canvas = tuple(int(v) for v in rng.integers(16, 400, 2))
        short, long = rng.uniform(8, 500), rng.uniform(8, 800)
        rows, columns = transforms.resized_size(size, short, long, canvas, rng.uniform(0.2, 1.0))  # type: ignore[arg-type]
        assert 1 <= rows <= canvas[0]
        assert 1 <= columns <= canvas[1]


def test_flip_follows_pixels_and_twice_is_identity() -> None:
    example = _bright(20, 31, (3, 4, 9, 15))
    flipped = transforms.flip(example)
    np.testing.assert_array_equal(flipped.boxes[0], _found(flipped.image))
    assert flipped.boxes[0, 0] == 31 - 9
    twice = transforms.flip(flipped)
    np.testing.assert_array_equal(twice.image, example.image)
    np.testing.assert_array_equal(twice.boxes, example.boxes)


@pytest.mark.parametrize("size", [(40, 60), (20, 90), (7, 9), (64, 41)])
def test_resize_follows_pixels(size: tuple[int, int]) -> None:
    resized = transforms.resize(_bright(30, 50, (10, 5, 40, 25)), size)
    assert resized.image.shape == (*size, 3)
    assert resized.image.dtype == np.uint8
    np.testing.assert_allclose(resized.boxes[0], _found(resized.image), atol=0.6)
    np.testing.assert_allclose(
        resized.boxes[0], [10 * size[1] / 50, 5 * size[0] / 30, 40 * size[1] / 50, 25 * size[0] / 30]
    )


def test_shrinking_a_lot_averages() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[::8, ::8] = 255
    example = Example(image, 1, "x", np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool))
    small = transforms.resize(example, (8, 8)).image
    np.testing.assert_allclose(small, 255 / 64, atol=1)


def test_crop_follows_pixels_and_counts_what_it_loses() -> None:
    example = _bright(40, 60, (10, 5, 30, 25))
    cropped, lost = transforms.crop(example, 8, 12, 30, 40)
    assert lost == 0
    assert cropped.image.shape == (30, 40, 3)
    np.testing.assert_array_equal(cropped.boxes[0], _found(cropped.image))
    away, lost = transforms.crop(example, 16, 0, 20, 60)  # centre at y = 15
    assert (lost, len(away.boxes), len(away.labels), len(away.crowd)) == (1, 0, 0, 0)
    example.crowd[:] = True
    kept, lost = transforms.crop(example, 16, 0, 20, 60)
    assert lost == 0
    np.testing.assert_array_equal(kept.boxes[0], [10, 0, 30, 9])
    gone, lost = transforms.crop(example, 30, 0, 10, 60)
    assert (lost, len(gone.boxes)) == (1, 0)


def test_small_boxes_are_dropped_with_their_labels() -> None:
    example = Example(
        np.zeros((9, 9, 3), np.uint8),
        1,
        "x",
        np.array([[0, 0, 5, 0.5], [1, 1, 3, 3], [2, 2, 2.9, 8]], np.float32),
        np.array([4, 5, 6], np.int32),
        np.array([False, False, False]),
    )
    kept, dropped = transforms.drop_small(example, 1.0)
    assert dropped == 2
    np.testing.assert_array_equal(kept.labels, [5])


def test_random_crop_keeps_the_boxes_whose_centre_is_inside_and_counts_the_others() -> None:
    rng = np.random.default_rng(0)
    sizes = set()
    for seed in range(100):
        height, width = rng.integers(20, 80, 2).tolist()
        corners = rng.uniform(0, 0.8, (5, 2)) * [width, height]
        boxes = np.concatenate([corners, corners + rng.uniform(1, 0.2 * min(height, width), (5, 2))], 1)
        crowd = np.array([False] * 4 + [True])
        # Each pixel says where it was, so that the part can be found.
        image = np.stack([*np.indices((height, width)), np.zeros((height, width))], -1).astype(np.uint8)
        example = Example(image, 1, "x", boxes.astype(np.float32), np.arange(5, dtype=np.int32), crowd)
        part, lost = transforms.random_crop(example, np.random.default_rng(seed))
        (top, left), (rows, columns) = part.image[0, 0, :2].astype(int), part.image.shape[:2]
        np.testing.assert_array_equal(part.image, image[top : top + rows, left : left + columns])
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 - [left, top]
        inside = ((centre >= 0) & (centre < [columns, rows])).all(1)
        kept = set(part.labels[~part.crowd].tolist())
        assert kept == set(np.flatnonzero(inside[:4]))
        assert kept
        assert lost == 5 - len(part.labels)
        for box, label in zip(part.boxes, part.labels, strict=True):
            moved = np.clip(boxes[label] - [left, top, left, top], 0, [columns, rows] * 2)
            np.testing.assert_allclose(box, moved, atol=1e-4)
        sizes.add((rows, columns) == (height, width))
    assert sizes == {True, False}
    empty, lost = transforms.random_crop(_keep_none(example), np.random.default_rng(0))
    assert (empty.image.shape, lost) == (image.shape, 0)


def _keep_none(example: Example) -> Example:
    return Example(example.image, 1, "x", np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool))


def test_what_is_off_changes_nothing_and_draws_nothing() -> None:
    """The transform before there were crops, blur and noise."""
    fields = {**_PLAIN, "short_side": (30, 50), "scale_jitter": (0.6, 2.0), "flip": 0.5, "color_jitter": 0.3}
    for seed in range(50):
        example = _bright(45, 60, (20, 10, 50, 40))
        rng = np.random.default_rng(seed)
        short, zoom = rng.uniform(30, 50), float(np.exp(rng.uniform(*np.log((0.6, 2.0)))))
        flips, corner = rng.random() < 0.5, rng.random(2)
        size = transforms.resized_size((45, 60), short, 60, (48, 64), zoom)
        expected = transforms.resize(example, size)
        inner = min(size[0], 48), min(size[1], 64)
        if inner != size:
            start = [int(c * (s - part + 1)) for c, s, part in zip(corner, size, inner, strict=True)]
            expected, _ = transforms.crop(expected, *start, *inner)
        expected = transforms.flip(expected) if flips else expected
        image = colour.jitter(expected.image, 0.3, rng)
        boxes = transforms.drop_small(expected, 1.0)[0].boxes
        placed = transforms.TrainTransform(**fields)(example, (48, 64), np.random.default_rng(seed))
        np.testing.assert_array_equal(placed.example.image, image)
        np.testing.assert_array_equal(placed.example.boxes, boxes)


def test_all_that_is_random_together_follows_pixels() -> None:
    on = {"random_crop": 0.5, "blur": 0.5, "noise": 4.0, "scale_jitter": (0.6, 2.0), "flip": 0.5}
    transform = transforms.TrainTransform(**{**_PLAIN, **on})
    kept = 0
    for seed in range(100):
        placed = transform(_bright(45, 60, (20, 10, 50, 40)), (48, 64), np.random.default_rng(seed))
        assert len(placed.example.boxes) + placed.left_out == 1
        kept += len(placed.example.boxes)
        for box in placed.example.boxes:
            np.testing.assert_allclose(box, _found(placed.example.image), atol=1.6)
    assert kept > 70


def test_training_follows_pixels_and_fits_the_canvas() -> None:
    transform = transforms.TrainTransform(**{**_PLAIN, "short_side": (30, 50), "scale_jitter": (0.6, 2.0), "flip": 0.5})
    zoomed = flipped = whole = 0
    for seed in range(200):
        example = _bright(45, 60, (20, 10, 50, 40))
        placed = transform(example, (48, 64), np.random.default_rng(seed))
        height, width = placed.example.image.shape[:2]
        assert height <= 48
        assert width <= 64
        for box in placed.example.boxes:
            np.testing.assert_allclose(box, _found(placed.example.image), atol=1.01)
            assert (box >= 0).all()
            assert (box[[2, 3]] <= [width, height]).all()
        zoomed += placed.scale[0] * 45 > 48
        whole += len(placed.example.boxes)
        left = placed.example.image[:, : width // 2].mean() > placed.example.image[:, width // 2 :].mean()
        flipped += bool(left)
    assert zoomed > 40
    assert whole > 150
    assert 40 < flipped < 160


def test_short_side_choice_takes_listed_values_only() -> None:
    fields = {**_PLAIN, "short_side": (20, 30, 40), "long_side": 400}
    choice = transforms.TrainTransform(**{**fields, "short_side_choice": True})
    ranged = transforms.TrainTransform(**fields)
    heights: dict[str, set[int]] = {"choice": set(), "ranged": set()}
    for seed in range(60):
        for name, transform in (("choice", choice), ("ranged", ranged)):
            placed = transform(_bright(50, 80, (5, 5, 20, 20)), (100, 160), np.random.default_rng(seed))
            heights[name].add(placed.example.image.shape[0])
    assert heights["choice"] == {20, 30, 40}
    assert len(heights["ranged"]) > 10
    assert min(heights["ranged"]) >= 20
    assert max(heights["ranged"]) <= 40


def test_evaluation_only_resizes() -> None:
    transform = transforms.EvalTransform((20, 40), 60)
    placed = transform(_bright(45, 60, (20, 10, 50, 40)), (48, 64))
    assert placed.example.image.shape == (40, 53, 3)
    assert placed.scale == (40 / 45, 53 / 60)
    np.testing.assert_allclose(placed.example.boxes[0], _found(placed.example.image), atol=0.6)
    wide = transform(_bright(8, 4000, (0, 0, 2000, 8)), (48, 64))
    assert wide.example.image.shape == (1, 60, 3)
    assert len(wide.example.boxes) == 1
