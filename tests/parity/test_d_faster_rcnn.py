"""Golden cases D of Faster R-CNN: maps, targets, proposals, second stage, losses, boxes; nothing is random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import mmdet_model
from tests.parity.detections import check_same
from tests.parity.goldens import cases, nhwc, relative

CASES = [c for c in cases("D") if c.manifest["params"].get("config", {}).get("type") == "FasterRCNN"]


@pytest.fixture(scope="module", params=CASES, ids=lambda c: c.name)
def run(request):
    case = request.param
    model, variables = mmdet_model.load(case, case.manifest["params"]["config"], case.under("w/"))
    truth = mmdet_model.ground_truth(case)

    def everything(module, images, truth, test_rois, train_rois):
        maps = module.features(images, truth.sizes)
        proposals = {when: module.propose(maps, truth.sizes, when == "train") for when in ("train", "test")}
        return {
            "maps": maps,
            "proposals": proposals,
            "match": module.match([x.shape[1:3] for x in maps["objectness"]], truth),
            "candidates": module.match_proposals(proposals["train"], truth),
            "test_head": module.second_stage(maps["dyhead"], test_rois),
            "train_head": module.second_stage(maps["dyhead"], train_rois),
            "losses": module.losses_from_maps(maps, truth, truth.sizes),
            "found": module.detect_from_maps(maps, truth.sizes),
        }

    test_rois, train_rois = (padded(case[f"rcnn_{when}/rois"], truth.boxes.shape[0]) for when in ("test", "train"))
    apply = jax.jit(lambda v, *args: model.apply(v, *args, method=everything))
    got = apply(variables, mmdet_model.images(case), truth, test_rois, train_rois)
    return case, jax.tree.map(np.asarray, got)


def place(rois):
    """Image and slot of each row of an (r, 5) list."""
    image = rois[:, 0].astype(int)
    return image, np.array([np.sum(image[:i] == image[i]) for i in range(len(rois))])


def padded(rois, batch):
    image, slot = place(rois)
    boxes = np.zeros((batch, slot.max() + 1, 4), np.float32)
    boxes[image, slot] = rois[:, 1:]
    return jnp.asarray(boxes)


def test_maps(run):
    case, got = run
    ours = {"cls_score": "objectness", "bbox_pred": "proposal"}
    for level, x in enumerate(got["maps"]["dyhead"]):
        assert relative(x, nhwc(case[f"dyhead/p{level + 2}"])) <= 1e-4, level
        for theirs, name in ours.items():
            assert relative(got["maps"][name][level], nhwc(case[f"rpn/{theirs}.{level}"])) <= 1e-4, (theirs, level)


def test_anchor_assignment(run):
    case, got = run
    levels = range(len(got["maps"]["objectness"]))
    labels = np.concatenate([case[f"target/rpn.labels.{n}"] for n in levels], axis=1)
    weights = np.concatenate([case[f"target/rpn.label_weights.{n}"] for n in levels], axis=1)
    expected = np.where(weights == 0, -2, np.where(labels == 0, 0, -1))
    np.testing.assert_array_equal(np.minimum(got["match"], 0), expected)


@pytest.mark.parametrize("when", ["train", "test"])
def test_proposals(run, when):
    case, got = run
    for i, (boxes, scores, mask) in enumerate(zip(*got["proposals"][when], strict=True)):
        expected = tuple(case[f"proposals_{when}.{i}.{name}"] for name in ("bboxes", "scores", "labels"))
        check_same((boxes[mask], scores[mask], np.zeros(mask.sum())), expected, 0.01)


def test_candidates(run):
    """Boxes and labels of all candidates, which the reference lists positives first."""
    case, got = run
    rois, labels = case["rcnn_train/rois"], case["target/rcnn.labels"]
    background = labels.max() if np.any(labels == labels.max()) else None
    boxes, match = got["candidates"]
    for i in range(len(boxes)):
        real = match[i] != -2
        own = case[f"gt/{i}.labels"][np.maximum(match[i][real], 0)]
        mine = np.column_stack([boxes[i][real], np.where(match[i][real] >= 0, own, background)])
        theirs = np.column_stack([rois[rois[:, 0] == i][:, 1:], labels[rois[:, 0] == i]])
        assert len(mine) == len(theirs)
        # every one of theirs has its own among ours
        gap = np.abs(mine[:, None] - theirs[None]).max(-1)
        assert (gap.min(0) <= 0.01).all()
        assert len(set(gap.argmin(0))) == len(mine)


@pytest.mark.parametrize("when", ["train", "test"])
def test_second_stage(run, when):
    case, got = run
    at = place(case[f"rcnn_{when}/rois"])
    logits, deltas = got[f"{when}_head"]
    assert relative(logits[at], case[f"rcnn_{when}/cls_score"]) <= 1e-4
    assert relative(deltas[at].reshape(len(at[0]), -1), case[f"rcnn_{when}/bbox_pred"]) <= 1e-4


def test_losses(run):
    case, got = run
    total = lambda name: sum(v for k, v in case.under("loss/").items() if k.startswith(name))  # noqa: E731
    ours = {
        "loss_rpn_class": "loss_rpn_cls.",
        "loss_rpn_box": "loss_rpn_bbox.",
        "loss_class": "rcnn_loss_cls",
        "loss_box": "rcnn_loss_bbox",
    }
    assert set(ours) == set(got["losses"])
    for mine, theirs in ours.items():
        assert relative(got["losses"][mine], total(theirs)) <= 1e-4, mine


def test_detections(run):
    case, got = run
    found = got["found"]
    for i in range(len(found.boxes)):
        real = found.scores[i] > 0
        mine = found.boxes[i][real], found.scores[i][real], found.labels[i][real]
        check_same(mine, tuple(case[f"det.{i}.{name}"] for name in ("bboxes", "scores", "labels")), 0.01)
