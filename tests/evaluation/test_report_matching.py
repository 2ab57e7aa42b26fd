"""Matches, curves and confusions equal pycocotools and plain loops, ties, crowds and surplus detections included."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

from dyhead_jax.evaluation import average_precision
from dyhead_jax.evaluation.average_precision import coco_metrics
from dyhead_jax.evaluation.report import overlaps as overlaps_module
from dyhead_jax.evaluation.report.columns import PER_CLASS, columns
from dyhead_jax.evaluation.report.confusion import confusion
from dyhead_jax.evaluation.report.curves import precision_by_class, score_curves
from dyhead_jax.evaluation.report.overlaps import match, overlaps
from tests.evaluation.detection_sets import found, random_set, truth

SETS = {
    "plain": random_set(10),
    "ties": random_set(11, ties=True),
    "surplus": random_set(12, crowded=True),
    "tied surplus": random_set(13, crowded=True, ties=True),
    "no detections": (random_set(14)[0], []),
    "no boxes": (truth([]), random_set(15, images=2)[1] and found((1, 10, 0.5, 1, 1, 9, 9))),
}


def coco_eval(ground_truth, results):
    detections = average_precision._checked(ground_truth, results, "results")
    with contextlib.redirect_stdout(io.StringIO()):
        coco_truth = average_precision._coco(ground_truth, ground_truth["annotations"])
        evaluation = COCOeval(coco_truth, average_precision._coco(ground_truth, detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


@pytest.fixture(params=SETS)
def case(request):
    return SETS[request.param]


@pytest.mark.parametrize(("iou", "row"), [(0.5, 0), (0.75, 5)])
def test_every_detection_hits_what_it_hits_in_pycocotools(case, iou, row):
    ground_truth, results = case
    table = columns(ground_truth, results)
    matches = match(table, overlaps(table), iou)
    ids = np.array([a["id"] for a in sorted(ground_truth["annotations"], key=lambda a: a["image_id"])] + [0])
    mine = sorted(
        (int(table.image_ids[i]), int(table.category_ids[c]), s, tuple(b), int(ids[t]), bool(g))
        for i, c, s, b, t, g in zip(
            table.image, table.label, table.score, table.box.tolist(), matches.truth, matches.ignored, strict=True
        )
    )
    crowds = {a["id"] for a in ground_truth["annotations"] if a["iscrowd"]}
    theirs = []
    for part in coco_eval(ground_truth, results).evalImgs:
        if part is None or part["aRng"] != [0, 1e10]:
            continue
        for identity, hit, ignored in zip(part["dtIds"], part["dtMatches"][row], part["dtIgnore"][row], strict=True):
            record = results[identity - 1]
            hit = 0 if hit in crowds else int(hit)
            theirs.append(
                (part["image_id"], part["category_id"], record["score"], tuple(record["bbox"]), hit, bool(ignored))
            )
    assert mine == sorted(theirs)
    assert table.beyond == len(results) - len(mine)


def test_the_sets_have_what_they_are_for():
    assert columns(*SETS["surplus"]).beyond > 0
    for name, (ground_truth, results) in SETS.items():
        scores = [result["score"] for result in results]
        assert ("tie" in name) == (len(set(scores)) < len(scores))
        assert name == "no boxes" or any(a["iscrowd"] for a in ground_truth["annotations"])


@pytest.mark.parametrize(("iou", "row"), [(0.5, 0), (0.75, 5)])
def test_curves_equal_pycocotools(case, iou, row):
    ground_truth, results = case
    table = columns(ground_truth, results)
    mine = precision_by_class(table, match(table, overlaps(table), iou))
    theirs = coco_eval(ground_truth, results).eval["precision"][row, :, :, 0, -1].T
    np.testing.assert_allclose(np.where(np.isnan(mine), -1, mine), theirs, atol=1e-12)


def test_boxes_of_an_area_that_coco_leaves_out():
    ground_truth = truth([(1, 10, 0, 0, 200000, 200000), (1, 10, 0, 0, 10, 10), (2, 10, 5, 5, 20, 20)])
    ground_truth["annotations"][2]["area"] = -1.0
    results = found(
        (1, 10, 0.9, 0, 0, 200000, 190000), (1, 10, 0.8, 0, 0, 10, 9), (1, 10, 0.7, 1, 1, 200000, 200000),
        (1, 10, 0.65, 0, 0, 300000, 900000), (2, 10, 0.6, 5, 5, 20, 20), (2, 10, 0.5, 5, 5, 20, 21),
    )  # fmt: skip
    table = columns(ground_truth, results)
    assert table.truths_by_class().tolist() == [1, 0, 0]
    matches = match(table, overlaps(table), 0.5)
    [part] = [p for p in coco_eval(ground_truth, results).evalImgs[:1] if p]
    assert matches.ignored[table.image == 0].tolist() == part["dtIgnore"][0].tolist()
    mine = precision_by_class(table, matches)[0].mean()
    assert mine == pytest.approx(coco_metrics(ground_truth, results)["AP50"], abs=1e-12)


def test_overlaps_in_pieces_equal_the_iou_of_pycocotools(monkeypatch):
    ground_truth, results = SETS["surplus"]
    table = columns(ground_truth, results)
    whole = overlaps(table)
    expected = {}
    for image in range(len(table.image_ids)):
        mine, own = np.flatnonzero(table.image == image), np.flatnonzero(table.truth_image == image)
        if len(mine) and len(own):
            iou = mask.iou(table.box[mine], table.truth_box[own], table.crowd[own].astype(int).tolist())
            expected |= {(int(mine[d]), int(own[t])): iou[d, t] for d, t in np.argwhere(iou >= 0.1)}
    assert (
        dict(zip(zip(whole.detection.tolist(), whole.truth.tolist(), strict=True), whole.iou, strict=True)) == expected
    )
    monkeypatch.setattr(overlaps_module, "_CHUNK", 7)
    pieces = overlaps(table)
    for name in ("detection", "truth", "iou", "same_class"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name))


def test_the_curves_of_the_score_equal_those_of_filtered_detections(case):
    ground_truth, results = case
    table = columns(ground_truth, results)
    curves = score_curves(table, match(table, overlaps(table), 0.5))
    boxes = int((~table.ignored).sum())
    for place in (0, 17, 40, 70, 100):
        left = columns(ground_truth, [r for r in results if r["score"] >= curves.score[place]])
        matches = match(left, overlaps(left), 0.5)
        right, counted = int((matches.truth >= 0).sum()), int((~matches.ignored).sum())
        if not table.beyond:  # else the surplus of a class differs
            assert counted == 0 or curves.precision[place] == pytest.approx(right / counted)
            assert np.isnan(curves.precision[place]) == (counted == 0)
            assert boxes == 0 or curves.recall[place] == pytest.approx(right / boxes)
            assert curves.f1[place] == pytest.approx(2 * right / max(counted + boxes, 1))
    assert (curves.best is None) == (curves.f1.max() == 0)
    assert curves.best is None or curves.f1[curves.best] == curves.f1.max()


def test_scores_beyond_one_have_thresholds_of_their_own():
    ground_truth = truth([(1, 10, 0, 0, 10, 10), (2, 10, 0, 0, 10, 10)])
    table = columns(ground_truth, found((1, 10, 250, 0, 0, 10, 10), (2, 10, -50, 30, 30, 10, 10)))
    curves = score_curves(table, match(table, overlaps(table), 0.5))
    assert (curves.score[0], curves.score[-1]) == (-50, 250)
    assert curves.recall.tolist() == [0.5] * 101


def plain_confusion(ground_truth, results, score):
    """{(true category or "false" or "crowd", detected category or "missed"): count}, with loops."""
    counts: dict = {}

    def add(*cell):
        counts[cell] = counts.get(cell, 0) + 1

    for image in ground_truth["images"]:
        own = [a for a in ground_truth["annotations"] if a["image_id"] == image["id"]]
        seen: dict = {}
        free = [a for a in own if not a["iscrowd"]]
        mine = [r for r in results if r["image_id"] == image["id"]]
        for result in sorted(mine, key=lambda r: -r["score"]):
            category = result["category_id"]
            seen[category] = seen.get(category, 0) + 1
            if result["score"] < score or seen[category] > PER_CLASS:
                continue

            def iou(a, result=result):
                return float(mask.iou([result["bbox"]], [a["bbox"]], [a["iscrowd"]])[0, 0])

            best = max(reversed(free), key=iou, default=None)
            if best is not None and iou(best) >= 0.5:
                free = [a for a in free if a is not best]
                add(best["category_id"], category)
            elif any(a["iscrowd"] and a["category_id"] == category and iou(a) >= 0.5 for a in own):
                add("crowd", category)
            else:
                add("false", category)
        for a in free:
            add(a["category_id"], "missed")
    return counts


@pytest.mark.parametrize("score", [0.0, 0.35, 0.8])
def test_confusion_equals_plain_loops(case, score):
    ground_truth, results = case
    table = columns(ground_truth, results)
    result = confusion(table, overlaps(table), score)
    ids = [int(i) for i in table.category_ids]
    rows, names = [*ids, "false", "crowd"], [*ids, "missed"]
    mine = {(rows[r], names[c]): int(result.counts[r, c]) for r, c in np.argwhere(result.counts)}
    assert mine == plain_confusion(ground_truth, results, score)

    # each detection in one cell, each box in one cell, and the counts by image are the same
    assert result.counts[:, :-1].sum() == (table.score >= score).sum()
    assert result.counts[:-2].sum(1).tolist() == table.truths_by_class().tolist()
    diagonal = np.trace(result.counts[:-2, :-1])
    assert result.right.sum() == diagonal
    assert result.wrong_class.sum() == result.counts[:-2, :-1].sum() - diagonal
    assert result.false.sum() == result.counts[-2].sum()
    assert result.missed.sum() == result.counts[:, -1].sum()
    boxes = np.bincount(table.truth_image[~table.ignored], minlength=len(table.image_ids))
    assert (result.right + result.wrong_class + result.missed).tolist() == boxes.tolist()
