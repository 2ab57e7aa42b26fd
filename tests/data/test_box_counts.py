"""What training leaves out is counted to the box, survives a resumption, and stops a training without boxes."""

import json
from pathlib import Path

import numpy as np
import pytest

from dyhead_jax.data import pipeline
from dyhead_jax.data.box_counts import NAMES, BoxCounts, describe
from dyhead_jax.data.source import DataError, make_source
from tests.data.folders import data_config, write_split

LARGE, SMALL = [2.0, 2.0, 20.0, 16.0], [4.0, 4.0, 0.5, 9.0]


def batches(root: Path, boxes: list[list[list[float]]], start: int = 0, **fields: object) -> pipeline.TrainIterator:
    if not (root / "train").exists():
        write_split(root, "train", [(32, 48)] * len(boxes), boxes)
    config = data_config(root, **fields)
    return pipeline.train_batches(make_source(config, "unused").split("train"), config, 0, start_step=start)


def test_every_box_is_trained_or_counted_with_its_reason(tmp_path: Path) -> None:
    many = [[float(i), 1.0, 5.0, 4.0] for i in range(8)]
    iterator = batches(tmp_path, [[LARGE, SMALL], [LARGE], [LARGE], many], max_boxes=5)
    steps = [next(iterator) for _ in range(3)]  # a step is a pass
    assert iterator.get_state() == {"step": 3, "boxes": dict(zip(NAMES, (24, 3, 0, 9), strict=True))}
    assert sum(int(np.asarray(loaded.batch.ground_truth.mask).sum()) for loaded in steps) == 24
    iterator.close()
    cut = batches(tmp_path, [], max_boxes=20, mosaic=1.0)
    loaded = [next(cut) for _ in range(3)]
    cut.close()
    counts = cut.get_state()["boxes"]
    assert counts["boxes_cut_away"] > 0
    assert sum(counts[name] for name in NAMES[1:]) == sum(int(own.left_out.sum()) for own in loaded)


def test_counts_go_on_after_a_resumption_and_anew_for_older_runs(tmp_path: Path) -> None:
    whole = batches(tmp_path, [[LARGE, SMALL]] * 4)
    for _ in range(2):
        next(whole)
    state = json.loads(json.dumps(whole.get_state()))
    for _ in range(2):
        next(whole)
    whole.close()
    resumed = batches(tmp_path, [])
    resumed.set_state(state)
    for _ in range(2):
        next(resumed)
    assert resumed.get_state() == whole.get_state()
    resumed.set_state({"step": 3})
    assert resumed.get_state() == {"step": 3, "boxes": dict.fromkeys(NAMES, 0)}
    resumed.close()


def test_a_training_whose_boxes_vanish_stops_with_the_cause(tmp_path: Path) -> None:
    boxes = [[LARGE] + [SMALL] * 9] * 4
    iterator = batches(tmp_path, boxes, max_boxes=20)
    with pytest.raises(DataError, match=r"36 of the 40 boxes of 1 training steps .* data\.min_box_side=1 pixels"):
        next(iterator)
    iterator.close()
    kept = batches(tmp_path, boxes, max_boxes=20, min_box_side=0.0)
    for _ in range(3):
        next(kept)
    kept.close()
    assert kept.get_state()["boxes"] == dict(zip(NAMES, (120, 0, 0, 0), strict=True))


def test_a_large_set_is_judged_by_a_window_and_a_few_boxes_are_not() -> None:
    def add(counts: BoxCounts, kept: int, small: int) -> str | None:
        mask = np.arange(4)[None, :] < kept
        return counts.add(mask, np.array([small]), np.array([small]), np.array([0]))

    counts = BoxCounts(10_000, 1.0)
    assert [add(counts, 1, 2) for _ in range(199)] == [None] * 199
    assert "400 of the 600 boxes of 200 training steps" in str(add(counts, 1, 2))
    assert [add(counts, 2, 2) for _ in range(400)] == [None] * 400  # half are kept
    few = BoxCounts(2, 1.0)
    assert [add(few, 0, 1) for _ in range(19)] == [None] * 19
    assert add(few, 0, 1) is not None


def test_the_last_line() -> None:
    counts = dict(zip(NAMES, (10, 3, 0, 2), strict=True))
    assert describe(counts) == "10 boxes trained, 5 left out: 3 too small, 2 beyond data.max_boxes"
    assert describe(dict.fromkeys(NAMES, 0)) == "0 boxes trained, 0 left out"
