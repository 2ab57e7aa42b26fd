"""The schedule: every image once a pass, any step at once."""

import numpy as np
import pytest

from dyhead_jax.data.schedule import TrainSchedule, choose_canvases, eval_batches, repeat_factors
from dyhead_jax.data.source import DataError


def _schedule(counts: list[int], batch_size: int, seed: int = 0) -> TrainSchedule:
    ends = np.cumsum(counts)
    return TrainSchedule(
        tuple(np.arange(end - count, end) for count, end in zip(counts, ends, strict=True)), batch_size, seed
    )


@pytest.mark.parametrize(("counts", "batch"), [([10], 4), ([7, 5, 0, 1], 4), ([3, 2], 8), ([16, 8], 8), ([40, 13], 5)])
def test_no_image_is_dropped_or_repeated_in_a_pass(counts: list[int], batch: int) -> None:
    schedule = _schedule(counts, batch)
    steps = 12 * sum(counts) // batch + 5
    shown: list[list[int]] = [[] for _ in counts]
    for step in range(steps):
        group, images = schedule.step(step)
        assert images.shape == (batch,)
        assert set(images) <= set(schedule.groups[group].tolist())
        shown[group] += images.tolist()
    for group, sequence in zip(schedule.groups, shown, strict=True):
        count = len(group)
        for start in range(0, len(sequence) - count + 1, count or 1):
            assert sorted(sequence[start : start + count]) == group.tolist()
    # All canvases advance together: at no time is one more than about a pass ahead of another.
    passes = [len(sequence) / count for sequence, count in zip(shown, counts, strict=True) if count]
    assert max(passes) - min(passes) <= 1 + batch / min(c for c in counts if c) + 1e-9


def test_steps_are_random_access_and_epochs_are_where_they_say() -> None:
    schedule = _schedule([7, 5, 1], 4, seed=3)
    forward = [schedule.step(step) for step in range(40)]
    other = _schedule([7, 5, 1], 4, seed=3)
    for step in (39, 0, 17, 25):
        group, images = other.step(step)
        assert group == forward[step][0]
        np.testing.assert_array_equal(images, forward[step][1])
    starts = [schedule.epoch_start(epoch) for epoch in range(12)]
    assert starts[0] == 0
    assert starts == sorted(starts)
    assert starts[4] == 7 + 5 + 1  # four passes of every group are whole batches
    far = schedule.step(10**9)
    np.testing.assert_array_equal(far[1], other.step(10**9)[1])


def test_seeds_epochs_and_groups_differ() -> None:
    schedule, other = _schedule([64], 64), _schedule([64], 64, seed=1)
    first, second = schedule.step(0)[1].tolist(), schedule.step(1)[1].tolist()
    assert first != second
    assert first != other.step(0)[1].tolist()
    assert first != sorted(first)
    two = _schedule([64, 64], 64)
    orders = {group: images % 64 for group, images in (two.step(0), two.step(1))}
    assert set(orders) == {0, 1}
    assert not np.array_equal(orders[0], orders[1])
    mixed = _schedule([400, 400], 8)
    kinds = [mixed.step(step)[0] for step in range(100)]
    assert kinds != sorted(kinds)


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="no image"):
        _schedule([0, 0], 4)


def test_canvas_of_an_image() -> None:
    canvases = ((800, 1344), (1344, 800), (1088, 1088))
    sizes = np.array([(480, 640), (640, 480), (500, 500), (100, 4000), (4000, 100)])
    chosen = choose_canvases(sizes, canvases, 800, 1333)
    np.testing.assert_array_equal(chosen, [0, 1, 0, 0, 1])
    assert choose_canvases(np.array([(500, 500)]), ((256, 320), (320, 256), (288, 288)), 288, 320).tolist() == [2]
    assert choose_canvases(np.array([(500, 500)]), ((512, 512), (256, 256)), 200, 320).tolist() == [1]  # less padding


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_evaluation_has_every_image_once(batch: int) -> None:
    canvas_of = np.array([0, 1, 0, 0, 1, 0, 0, 0, 2])
    batches = eval_batches(canvas_of, 4, batch)
    assert all(images.shape == (batch,) for _, images in batches)
    assert sorted(np.concatenate([images[images >= 0] for _, images in batches])) == list(range(9))
    assert all((canvas_of[images[images >= 0]] == canvas).all() for canvas, images in batches)


def test_repeat_factors_are_those_of_lvis() -> None:
    rng = np.random.default_rng(0)
    labels_of = [
        set(rng.choice(6, rng.integers(0, 4), p=[0.6, 0.2, 0.1, 0.06, 0.03, 0.01]).tolist()) for _ in range(50)
    ]
    rows = np.array([row for row, own in enumerate(labels_of) for _ in own for _ in range(2)], np.int64)
    labels = np.array([label for own in labels_of for label in own for _ in range(2)])
    for threshold in (0.0, 0.1, 0.5):
        expected = []
        for own in labels_of:
            fractions = [sum(label in other for other in labels_of) / 50 for label in own]
            expected.append(max([1.0, *(np.sqrt(threshold / share) for share in fractions)]))
        np.testing.assert_allclose(repeat_factors(rows, labels, 50, threshold), expected)
    np.testing.assert_array_equal(repeat_factors(rows[:0], labels[:0], 3, 0.5), np.ones(3))


def test_repeated_images_come_floor_or_ceil_times_a_pass_and_right_on_average() -> None:
    factors = np.array([1.0, 1.0, 2.3, 1.7, 3.0, 1.0, 1.25])
    groups = (np.arange(10, 17), np.array([], np.int64), np.array([3, 4]))
    repeats = (factors, np.zeros(0), np.array([1.0, 1.5]))
    schedule = TrainSchedule(groups, 4, 5, repeats)
    shown: dict[int, list[int]] = {0: [], 2: []}
    for step in range(3000):
        group, images = schedule.step(step)
        shown[group] += images.tolist()
    for group, own in ((0, factors), (2, repeats[2])):
        length = int(np.ceil(own.sum()))
        passes = len(shown[group]) // length
        counts = np.array([
            [shown[group][length * i : length * (i + 1)].count(row) for row in groups[group]] for i in range(passes)
        ])  # fmt: skip
        exact = own * length / own.sum()
        assert ((counts == np.floor(exact)) | (counts == np.ceil(exact))).all()
        np.testing.assert_allclose(counts.mean(0), exact, atol=0.06)
    again = TrainSchedule(groups, 4, 5, repeats)
    for step in (2999, 0, 1234):
        np.testing.assert_array_equal(again.step(step)[1], schedule.step(step)[1])


def test_factors_of_one_show_every_image_once() -> None:
    plain = _schedule([7, 5], 4)
    repeated = TrainSchedule(plain.groups, 4, 0, tuple(np.ones(len(group)) for group in plain.groups))
    for step in range(30):
        assert repeated.step(step)[0] == plain.step(step)[0]
        np.testing.assert_array_equal(repeated.step(step)[1], plain.step(step)[1])
