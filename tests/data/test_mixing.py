"""Mosaic, pasted boxes and mixup against plain loops; boxes follow their pixels and none is lost uncounted."""

import numpy as np
import pytest

from dyhead_jax.data import mixing
from dyhead_jax.data.source import Example
from dyhead_jax.data.transforms import Placed, TrainTransform

CANVAS = (48, 64)


def example(seed: int, height: int, width: int, count: int = 4) -> Example:
    """Noise, and in each box a colour of its own: red by the image, green by the box, no blue."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (height, width, 3), np.uint8)
    image[:, :, 2] |= 1
    corners = rng.integers(0, [width - 8, height - 8], (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(3, 8, (count, 2))], 1)
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2] = 10 * seed, 20 * number, 0
    return Example(image, 100 + seed, f"{seed}.png", boxes.astype(np.float32), np.arange(count, dtype=np.int32),
                   np.arange(count) == count - 1)  # fmt: skip


def placed(seed: int, height: int, width: int, left_out: int = 0) -> Placed:
    return Placed(example(seed, height, width), (1.0, 1.0), left_out)


@pytest.mark.parametrize("centre", [(24, 32), (13, 47), (1, 1), (47, 60)])
def test_mosaic_is_a_loop_over_pixels(centre: tuple[int, int]) -> None:
    sizes = [(30, 40), (48, 20), (20, 64), (44, 50)]
    pieces = [placed(i, *size, left_out=i) for i, size in enumerate(sizes)]
    result = mixing.mosaic(pieces, CANVAS, centre, 1.0)
    expected = np.full((*CANVAS, 3), mixing.FILL, np.uint8)
    for y in range(CANVAS[0]):
        for x in range(CANVAS[1]):
            number = 2 * (y >= centre[0]) + (x >= centre[1])
            height, width = sizes[number]
            source_y = y - centre[0] + (0 if y >= centre[0] else height)
            source_x = x - centre[1] + (0 if x >= centre[1] else width)
            if 0 <= source_y < height and 0 <= source_x < width:
                expected[y, x] = pieces[number].example.image[source_y, source_x]
    np.testing.assert_array_equal(result.example.image, expected)

    kept, lost = [], 0
    for number, piece in enumerate(pieces):
        height, width = sizes[number]
        shift = [centre[1] - (0 if number % 2 else width), centre[0] - (0 if number // 2 else height)]
        low = [centre[1] if number % 2 else 0, centre[0] if number // 2 else 0]
        high = [CANVAS[1] if number % 2 else centre[1], CANVAS[0] if number // 2 else centre[0]]
        for box, label, crowd in zip(piece.example.boxes, piece.example.labels, piece.example.crowd, strict=True):
            moved = box + np.array([*shift, *shift])
            middle = (moved[:2] + moved[2:]) / 2
            cut = np.clip(moved, [*low, *low], [*high, *high])
            seen = (cut[2:] - cut[:2] >= 1).all()
            inside = (middle >= low).all() and (middle < high).all()
            if seen and (inside or crowd):
                kept.append([*cut, label, crowd])
            else:
                lost += 1
    ours = np.column_stack([result.example.boxes, result.example.labels, result.example.crowd])
    np.testing.assert_allclose(ours, np.array(kept).reshape(-1, 6), atol=1e-4)
    assert result.left_out == lost + 6
    assert (result.example.image_id, result.example.file_name) == (100, "0.png")


def test_pasted_boxes_carry_their_pixels_and_cover_little() -> None:
    pasted = 0
    for seed in range(60):
        first, other = placed(1, 40, 50, 2), placed(2, 30, 60)
        result = mixing.paste_boxes(first, other, np.random.default_rng(seed))
        boxes, labels = result.example.boxes, result.example.labels
        np.testing.assert_array_equal(boxes[:4], first.example.boxes)
        np.testing.assert_array_equal(result.example.crowd[:4], first.example.crowd)
        assert not result.example.crowd[4:].any()
        assert set(labels[4:]) <= {0, 1, 2}  # not the crowd region
        assert result.left_out == 2
        new = np.zeros((40, 50), bool)
        for i in range(4, len(boxes)):
            x1, y1, x2, y2 = boxes[i].astype(int)
            assert (boxes[i] >= 0).all()
            assert x2 <= 50
            assert y2 <= 40
            source = other.example.boxes[labels[i]].astype(int)
            new[y1:y2, x1:x2] = True
            if i == len(boxes) - 1:  # nothing is pasted over the last
                patch = other.example.image[source[1] : source[3], source[0] : source[2]]
                np.testing.assert_array_equal(result.example.image[y1:y2, x1:x2], patch)
            for j in range(i):
                assert _overlap(boxes[i], boxes[j]) <= 0.3 + 1e-6
        np.testing.assert_array_equal(result.example.image[~new], first.example.image[~new])
        pasted += len(boxes) - 4
    assert 40 < pasted < 120
    assert first.example.image is not result.example.image


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    cells = [
        {(y, x) for y in range(int(box[1]), int(box[3])) for x in range(int(box[0]), int(box[2]))} for box in (a, b)
    ]
    return len(cells[0] & cells[1]) / min(len(cells[0]), len(cells[1]))


def test_a_box_that_fits_nowhere_is_not_pasted() -> None:
    first = placed(1, 40, 50)
    first.example.boxes[0] = [0, 0, 50, 40]
    result = mixing.paste_boxes(first, placed(2, 30, 60), np.random.default_rng(0))
    assert len(result.example.boxes) == 4
    small = placed(1, 9, 9)
    other = placed(2, 30, 60)
    other.example.boxes[:] = [0, 0, 20, 20]
    assert len(mixing.paste_boxes(small, other, np.random.default_rng(0)).example.boxes) == 4


def test_mixup_is_the_weighted_mean_with_the_boxes_of_both() -> None:
    first, other = placed(1, 40, 50, 2), placed(2, 30, 60, 3)
    result = mixing.mixup(first, other, 0.4)
    pixels = np.full((2, 40, 60, 3), float(mixing.FILL))
    pixels[0, :40, :50], pixels[1, :30, :60] = first.example.image, other.example.image
    np.testing.assert_allclose(result.example.image, 0.4 * pixels[0] + 0.6 * pixels[1], atol=0.51)
    np.testing.assert_array_equal(result.example.boxes, np.concatenate([first.example.boxes, other.example.boxes]))
    assert result.example.labels.tolist() == [0, 1, 2, 3] * 2
    assert result.left_out == 5


def mixer(**on: float) -> mixing.Mixer:
    transform = TrainTransform(
        short_side=(40,), short_side_choice=False, long_side=60, scale_jitter=(0.8, 1.2), color_jitter=0.0, flip=0.5,
        min_box_side=1.0,
    )  # fmt: skip
    probabilities = {"mosaic": 0.0, "copy_boxes": 0.0, "mixup": 0.0, **on}
    return mixing.Mixer(lambda row: example(row, 30 + row, 60 - row), np.arange(2, 12), transform, **probabilities)


def test_each_is_on_as_often_as_its_probability_says() -> None:
    plain = mixer()
    for name in ("mosaic", "copy_boxes", "mixup"):
        changed = 0
        for seed in range(200):
            result = mixer(**{name: 0.4})(3, CANVAS, np.random.default_rng(seed))
            assert all(a <= b for a, b in zip(result.example.image.shape, CANVAS, strict=False))
            assert result.example.image_id == 103
            # One draw comes before the transform where a mosaic is possible.
            rng = np.random.default_rng(seed)
            changed += (rng.random() < 0.4) if name == "mosaic" else len(result.example.boxes) > 4
            same = plain(3, CANVAS, np.random.default_rng(seed))
            if name != "mosaic" and len(result.example.boxes) == len(same.example.boxes) and name != "copy_boxes":
                np.testing.assert_array_equal(result.example.image, same.example.image)
        assert 40 < changed < 120


def test_boxes_of_mixed_images_are_kept_or_counted() -> None:
    for seed in range(100):
        result = mixer(mosaic=1.0, mixup=1.0)(3, CANVAS, np.random.default_rng(seed))
        assert len(result.example.boxes) + result.left_out == 4 * 4 + 4
        sides = result.example.boxes[:, 2:] - result.example.boxes[:, :2]
        assert (sides >= 1).all()
        again = mixer(mosaic=1.0, mixup=1.0)(3, CANVAS, np.random.default_rng(seed))
        np.testing.assert_array_equal(result.example.image, again.example.image)
