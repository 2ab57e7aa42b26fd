"""Several scales and mirror images: the passes, the geometry, the merging, and a whole split."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax import config as schema
from dyhead_jax.config import Config, ConfigError, DataConfig, EvaluationConfig, recipes
from dyhead_jax.data import transforms
from dyhead_jax.data.source import Example
from dyhead_jax.evaluation import multiscale
from dyhead_jax.evaluation.split import evaluate_split
from dyhead_jax.types import Detections
from tests.evaluation.test_evaluate import DATA, Squares
from tests.evaluation.test_evaluate import find_square as their_detector

compiled = []


@jax.jit
def find_square(images, sizes):
    compiled.append(images.shape)
    return their_detector.__wrapped__(images, sizes)


# The passes


def test_the_plain_pass_is_the_data_of_the_config():
    (one,) = multiscale.passes(DATA, EvaluationConfig())
    assert one == multiscale.Pass(DATA)
    (one,) = multiscale.passes(recipes.coco(short_side=(640, 800)), EvaluationConfig())
    assert (one.data.short_side, one.data.canvases) == ((800,), ((800, 1344), (1344, 800)))


def test_scales_get_canvases_that_hold_their_images():
    data = recipes.coco(multiple=128)
    found = multiscale.passes(data, recipes.multi_scale_test())
    assert len(found) == 26
    assert [one.flip for one in found[:4]] == [False, True, False, True]
    assert found[2].sizes == (96, 10_000)
    for one in found:
        (short,), long = one.data.short_side, one.data.long_side
        for size in ((480, 640), (427, 640), (640, 480), (500, 500)):
            canvas = max(one.data.canvases, key=lambda c: min(c[0] / size[0], c[1] / size[1]))
            free = transforms.resized_size(size, short, long, (10_000, 10_000))
            assert transforms.resized_size(size, short, long, canvas) == free
        assert all(side % 128 == 0 and side < max(short, long) + 128 for canvas in one.data.canvases for side in canvas)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"merge": "mean"}, "evaluation.merge is 'mean'; it may be 'nms', 'vote'"),
        ({"short_sides": (400, 800), "long_sides": (600,)}, "long_sides has 1 values for 2 scales"),
        ({"short_sides": (0,)}, r"short_sides is \(0,\); it must be 0 or more values, each at least 1"),
        ({"size_ranges": ((96.0, 32.0),)}, r"size_ranges has \(96.0, 32.0\)"),
        ({"merge_threshold": 0.0}, "merge_threshold is 0.0"),
    ],
)
def test_what_cannot_be_is_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        schema.validate(Config(evaluation=EvaluationConfig(**fields)))


# Geometry


def test_mirroring_boxes_is_exact():
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (9, 13, 3), np.uint8)
    corners = draw.integers(0, 6, (5, 2))
    boxes = np.concatenate([corners, corners + draw.integers(1, 4, (5, 2))], 1).astype(np.float32)
    example = Example(
        image=image, image_id=1, file_name="", boxes=boxes, labels=np.zeros(5, np.int32), crowd=np.zeros(5, bool)
    )
    seen = transforms.EvalTransform((9,), 13, flip=True)(example, (9, 13)).example
    np.testing.assert_array_equal(seen.image, image[:, ::-1])
    np.testing.assert_array_equal(multiscale.mirror(seen.boxes[None], np.array([13]))[0], boxes)


def test_sizes_are_strictly_between():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 4.1], [0, 0, 8, 8], [0, 0, 16, 3], [5, 5, 2, 2]], np.float32)
    assert multiscale.outside(boxes, (4, 8)).tolist() == [True, False, True, False, True]
    assert multiscale.outside(boxes, (0, 10_000)).tolist() == [False, False, False, False, True]


# Merging


def merge(boxes, scores, labels, **fields):
    arrays = np.array([boxes], np.float32), np.array([scores], np.float32), np.array([labels], np.int32)
    boxes, scores, labels = multiscale.merge(*arrays, EvaluationConfig(max_detections=4, **fields))
    real = scores[0] > 0
    assert (labels[0] == -1).tolist() == (~real).tolist()
    return boxes[0][real].tolist(), scores[0][real].tolist(), labels[0][real].tolist()


BOXES = [[0, 0, 10, 10], [0, 0, 10, 12], [0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 9, 9]]
SCORES = [0.5, 0.75, 0.25, 0.125, 0.0]
LABELS = [1, 1, 0, 1, 1]


def test_suppression_keeps_the_best_of_each_class():
    boxes, scores, labels = merge(BOXES, SCORES, LABELS)
    assert (boxes, scores, labels) == ([BOXES[i] for i in (1, 2, 3)], [0.75, 0.25, 0.125], [1, 0, 1])
    assert merge(BOXES, SCORES, LABELS, merge_threshold=0.9)[1] == SCORES[1::-1] + SCORES[2:4]


def test_votes_are_weighted_by_score():
    boxes, scores, labels = merge(BOXES, SCORES, LABELS, merge="vote")
    assert (scores, labels) == ([0.75, 0.25, 0.125], [1, 0, 1])
    np.testing.assert_allclose(boxes[0], [0, 0, 10, (0.5 * 10 + 0.75 * 12) / 1.25], rtol=1e-6)
    assert boxes[1:] == [BOXES[2], BOXES[3]]


@pytest.mark.parametrize("how", ["nms", "vote"])
def test_merging_a_pass_with_itself_or_alone_changes_nothing(how):
    draw = np.random.default_rng(1)
    boxes = np.arange(4)[None, :, None] * 40 + np.array([0, 0, 20, 20]) + draw.uniform(0, 5, (70, 4, 4))
    scores, labels = np.sort(draw.uniform(0.1, 1, (70, 4)))[:, ::-1], draw.integers(0, 3, (70, 4))
    arrays = boxes.astype(np.float32), scores.astype(np.float32), labels.astype(np.int32)
    evaluation = EvaluationConfig(max_detections=4, merge=how)
    for times in (1, 2):
        found = multiscale.merge(*(np.concatenate([x] * times, axis=1) for x in arrays), evaluation)
        for got, expected in zip(found, arrays, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-6)


# A whole split


def corners(results):
    found = np.array([r["bbox"] for r in results])
    return found + np.concatenate([np.zeros_like(found[:, :2]), found[:, :2]], axis=1)


def test_one_scale_without_mirror_is_the_plain_evaluation():
    split = Squares()
    plain = evaluate_split(find_square, split, DATA)
    assert evaluate_split(find_square, split, DATA, evaluation=EvaluationConfig(short_sides=(80,))) == plain


@pytest.mark.parametrize("how", ["nms", "vote"])
def test_scales_and_mirror_images_agree_on_where_the_squares_are(how):
    split = Squares()
    evaluation = EvaluationConfig(short_sides=(80, 120), long_sides=(128, 180), flip=True, merge=how, max_detections=3)
    compiled.clear()
    metrics, results = evaluate_split(find_square, split, DATA, evaluation=evaluation)
    assert [r["image_id"] for r in results] == split.image_ids.tolist()  # four passes, one box
    assert np.abs(corners(results) - split.boxes).max() <= 0.51
    assert metrics["AP50"] == pytest.approx(1.0)
    shapes = {(4, 80, 128, 3), (4, 128, 80, 3), (4, 128, 192, 3), (4, 192, 128, 3)}
    assert set(compiled) <= shapes  # once a canvas at most
    assert len(compiled) == len(set(compiled))


def test_the_mirrored_pass_is_mirrored():
    """A detector that sees only what is left of the middle finds every square in one pass or the other."""

    def left_only(images, sizes):
        found = find_square(images, sizes)
        centre = (found.boxes[..., 0] + found.boxes[..., 2]) / 2
        scores = jnp.where(centre < sizes[:, 1:] / 2, found.scores, 0.0)
        return Detections(boxes=found.boxes, scores=scores, labels=jnp.where(scores > 0, 0, -1))

    split = Squares()
    split.boxes[1:3, [0, 2]] += 18.0  # to the right
    alone, both = (
        evaluate_split(left_only, split, DATA, evaluation=EvaluationConfig(flip=flip))[1] for flip in (False, True)
    )
    assert len(alone) < len(split) == len(both)
    assert np.abs(corners(both) - split.boxes).max() <= 0.51


def test_ranges_drop_boxes_by_their_size_in_the_pass():
    split = Squares()
    sides = np.sqrt(np.prod(split.boxes[:, 2:] - split.boxes[:, :2], axis=1))
    middle = float(np.median(sides)) + 0.25
    small = EvaluationConfig(short_sides=(80,), size_ranges=((0.0, 2 * middle),))  # images are doubled
    large = dataclasses.replace(small, size_ranges=((2 * middle, 10_000.0),))
    kept = [
        {r["image_id"] for r in evaluate_split(find_square, split, DATA, evaluation=one)[1]} for one in (small, large)
    ]
    assert kept[0] == set(split.image_ids[sides < middle].tolist())
    assert kept[1] == set(split.image_ids[sides > middle].tolist())


def test_data_without_a_scale_of_its_own_is_left_alone():
    data = DataConfig(canvases=((100, 200),), short_side=(100,), long_side=150)
    assert multiscale.scaled_canvases(data, 100, 150) == ((100, 200),)
    assert multiscale.scaled_canvases(data, 50, 150) == ((52, 100),)  # in fours, the most that 128, 100 and 200 share
