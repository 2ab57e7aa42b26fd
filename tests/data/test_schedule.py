"""The schedule: every image once a pass, any step at once."""

import numpy as np
import pytest

from dyhead_jax.data.schedule import TrainSchedule, choose_canvases, eval_batches
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
