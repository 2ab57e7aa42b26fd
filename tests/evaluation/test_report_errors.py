"""The kinds of errors: numbers of tidecv, each kind made on purpose, and what must add up."""

import json
from pathlib import Path

import numpy as np
import pytest

from dyhead_jax.evaluation.average_precision import coco_metrics, read_ground_truth, read_results
from dyhead_jax.evaluation.report.columns import columns
from dyhead_jax.evaluation.report.error_kinds import KINDS, error_kinds
from dyhead_jax.evaluation.report.overlaps import overlaps
from tests.data.folders import shared
from tests.evaluation.detection_sets import found, hits, random_set, truth
from tests.evaluation.test_evaluate import CASES

# Produced by tidecv 1.0.1: TIDE().evaluate(truth, detections, mode=TIDE.BOX) with its default thresholds, boxes added
# by add_ground_truth, crowds by add_ignore_region, AP and gains divided by 100. The detections are those that
# `as_for_tidecv` returns.
TIDECV = json.loads((Path(__file__).parent / "tidecv.json").read_text())


def kinds(ground_truth, results):
    table = columns(ground_truth, results)
    return error_kinds(table, overlaps(table))


def as_for_tidecv(ground_truth, results):
    """Without the detections of classes that have no true box, for tidecv takes their AP for 0 where COCO has none; and
    without ties, for tidecv changes the order of tied detections when it repairs one."""
    present = {a["category_id"] for a in ground_truth["annotations"] if not a["iscrowd"]}
    kept = [r for r in results if r["category_id"] in present]
    return [{**r, "score": r["score"] - 1e-9 * i} for i, r in enumerate(kept)]


@pytest.mark.parametrize("name", TIDECV)
def test_the_numbers_of_tidecv(name):
    expected = TIDECV[name]
    if name in CASES:
        annotations, detections = (shared("coco_eval") / name / file for file in CASES[name])
        ground_truth, results = read_ground_truth(annotations), read_results(detections)
    else:
        ground_truth, results = random_set(int(name.rpartition("_")[2]), **expected["options"])
    result = kinds(ground_truth, as_for_tidecv(ground_truth, results))
    assert result.counts == expected["counts"]
    assert result.ap50 == pytest.approx(expected["AP50"], abs=1e-8)
    assert result.gains == pytest.approx(expected["gains"], abs=1e-8)


FOUR = truth([(1, 10, 0, 0, 20, 20), (1, 20, 50, 0, 20, 20), (2, 10, 0, 0, 20, 20), (2, 20, 50, 50, 30, 30)])
ON_PURPOSE = {
    # The detection of the last box is another one, or a further detection has a high score.
    "Cls": [*hits(FOUR)[:3], *found((2, 10, 0.95, 50, 50, 30, 30))],
    "Loc": [*hits(FOUR)[:3], *found((2, 20, 0.95, 50, 62, 30, 30))],
    "Both": [*hits(FOUR), *found((2, 10, 0.95, 50, 62, 30, 30))],
    "Dupe": [*hits(FOUR), *found((2, 20, 0.865, 50, 51, 30, 30))],
    "Bkg": [*hits(FOUR), *found((2, 20, 0.95, 0, 60, 30, 30))],
    "Miss": hits(FOUR)[:3],
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_made_on_purpose_shows_as_its_kind_alone(kind):
    results = ON_PURPOSE[kind]
    if kind == "Dupe":  # costs something only where a hit follows
        results = [{**r, "score": 0.1} if r["image_id"] == 1 else r for r in results]
    result = kinds(FOUR, results)
    assert result.counts == {name: int(name == kind) for name in KINDS}
    assert result.gains[kind] > 0.01
    assert [name for name in KINDS if result.gains[name] > 0] == [kind]
    assert result.ap50 == pytest.approx(coco_metrics(FOUR, results)["AP50"], abs=1e-9)
    assert (result.gains["FalsePos"] > 0) == (kind != "Miss")
    assert (result.gains["FalseNeg"] > 0) == (kind in ("Cls", "Loc", "Miss"))
    assert result.ap50 + result.gains[kind] == pytest.approx(1)


def test_perfect_detections_have_no_errors():
    ground_truth, _ = random_set(4)
    result = kinds(ground_truth, hits(ground_truth))
    assert result.ap50 == pytest.approx(1)
    assert set(result.counts.values()) == {0}
    assert max(map(abs, result.gains.values())) < 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_everything_has_one_kind(seed):
    ground_truth, results = random_set(seed, crowded=seed == 1, ties=seed == 2)
    table = columns(ground_truth, results)
    result = error_kinds(table, overlaps(table))
    listed = table.rank < 100
    right = int(((result.kind < 0) & listed).sum())
    boxes = int((~table.crowd).sum())
    assert right + sum(result.counts[name] for name in KINDS[:-1]) == listed.sum()
    assert right + result.counts["Miss"] <= boxes
    assert result.missed.sum() == result.counts["Miss"]
    assert not result.missed[table.crowd].any()
    assert all(0 <= gain <= 1 - result.ap50 + 1e-12 for gain in result.gains.values())


def test_classes_without_boxes_are_left_out_of_the_mean_and_their_detections_are_errors():
    results = [*hits(FOUR)[:3], *found((2, 30, 0.95, 50, 50, 30, 30))]
    result = kinds(FOUR, results)
    assert result.counts == {"Cls": 1, "Loc": 0, "Both": 0, "Dupe": 0, "Bkg": 0, "Miss": 0}
    assert result.ap50 == pytest.approx(coco_metrics(FOUR, results)["AP50"], abs=0.01)
    assert result.gains["Cls"] == pytest.approx(1 - result.ap50)


@pytest.mark.parametrize("results", [[], found((1, 10, 0.5, 0, 0, 5, 5))])
def test_without_boxes(results):
    result = kinds(truth([]), results)
    assert result.ap50 == 0
    assert result.counts["Bkg"] == len(results)
    assert set(result.gains.values()) == {0.0}
    assert np.isfinite(list(result.gains.values())).all()
