"""Golden cases D of Faster R-CNN: maps, targets, proposals, second stage, losses, boxes; nothing is random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from dyhead_jax.boxes import geometry
from dyhead_jax.boxes.roi_align import roi_align, roi_levels
from dyhead_jax.training import steps
from tests.parity import dense_case, mmdet_model
from tests.parity.detections import check_same
from tests.parity.goldens import nhwc, relative


@pytest.fixture(scope="module", params=dense_case.of_type("FasterRCNN"), ids=lambda c: c.name)
def run(request):
    case = request.param
    model, variables = mmdet_model.load(case, case.params["config"], case.under("w/"))
    truth = mmdet_model.ground_truth(case)
    dense_case.check_padding(case, model.pad_divisor)

    def everything(module, images, truth, test_rois, train_rois):
        maps = module.features(images, truth.sizes)
        proposals = {when: module.propose(maps, truth.sizes, when == "train") for when in ("train", "test")}
        return {
            "maps": maps,
            "proposals": proposals,
            "match": module.match([x.shape[1:3] for x in maps["objectness"]], truth),
            "candidates": module.match_proposals(proposals["train"], truth),
            "test_head": module.second_stage(maps["dyhead"], test_rois),
            "levels": roi_levels(test_rois, module.roi_levels, module.finest_scale),
            "pooled": roi_align(
                maps["dyhead"][: module.roi_levels],
                test_rois,
                roi_levels(test_rois, module.roi_levels, module.finest_scale),
                module.strides[: module.roi_levels],
                size=module.roi_size,
                sampling_ratio=module.roi_sampling_ratio,
            ),
            "anchors": module.anchors([x.shape[1:3] for x in maps["objectness"]]),
            "train_head": module.second_stage(maps["dyhead"], train_rois),
            "losses": module.losses_from_maps(maps, truth),
            "found": module.detect_from_maps(maps, truth.sizes),
        }

    test_rois, train_rois = (padded(case[f"rcnn_{when}/rois"], truth.boxes.shape[0]) for when in ("test", "train"))
    apply = steps.jit_once(lambda v, *args: model.apply(v, *args, method=everything))
    got = apply(variables, mmdet_model.images(case), truth, test_rois, train_rois)
    return case, model, truth, jax.tree.map(np.asarray, got)


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
    case, _, _, got = run
    ours = {"cls_score": "objectness", "bbox_pred": "proposal"}
    for level, (x, expected) in enumerate(zip(got["maps"]["dyhead"], case.numbered("dyhead/p*"), strict=True)):
        assert relative(x, nhwc(expected)) <= 1e-4, level
        for theirs, name in ours.items():
            assert relative(got["maps"][name][level], nhwc(case[f"rpn/{theirs}.{level}"])) <= 1e-4, (theirs, level)


def test_anchor_targets(run):
    """Of the first stage: there is one class, and the normaliser counts every sampled anchor, and one more for an image
    without positives."""
    case, model, truth, got = run
    match, anchors = got["match"], np.concatenate(got["anchors"])
    labels, weights, targets = (
        np.concatenate(case.numbered(f"target/rpn.{name}.*"), axis=1)
        for name in ("labels", "label_weights", "bbox_targets")
    )
    np.testing.assert_array_equal(np.minimum(match, 0), np.where(weights == 0, -2, np.where(labels == 0, 0, -1)))
    positives, negatives = np.sum(match >= 0, axis=1), np.sum(match == -1, axis=1)
    assert case["target/rpn.avg_factor"] == np.sum(np.maximum(positives, 1) + negatives)
    for i in range(len(match)):
        positive = match[i] >= 0
        deltas = geometry.encode_deltas(anchors[positive], truth.boxes[i][match[i][positive]], model.rpn_box_std)
        np.testing.assert_allclose(deltas, targets[i][positive], atol=1e-4)
        assert not targets[i][~positive].any()


@pytest.mark.parametrize("when", ["train", "test"])
def test_proposals(run, when):
    case, _, _, got = run
    for i, (boxes, scores, mask) in enumerate(zip(*got["proposals"][when], strict=True)):
        expected = tuple(case[f"proposals_{when}.{i}.{name}"] for name in ("bboxes", "scores", "labels"))
        check_same((boxes[mask], scores[mask], np.zeros(mask.sum())), expected, 0.01)


def test_candidates(run):
    """Boxes, labels and box targets of all candidates, which the reference lists positives first."""
    case, model, truth, got = run
    rois, labels = case["rcnn_train/rois"], case["target/rcnn.labels"]
    targets, weights = case["target/rcnn.bbox_targets"], case["target/rcnn.bbox_weights"]
    assert (case["target/rcnn.label_weights"] == 1).all()
    np.testing.assert_array_equal(weights, np.repeat((labels < model.num_classes)[:, None], 4, axis=1))
    boxes, match = got["candidates"]
    for i in range(len(boxes)):
        real, here = match[i] != -2, rois[:, 0] == i
        index = np.maximum(match[i][real], 0)
        positive = (match[i][real] >= 0)[:, None]
        own = np.where(positive[:, 0], np.asarray(truth.labels[i])[index], model.num_classes)
        deltas = geometry.encode_deltas(boxes[i][real], truth.boxes[i][index], model.box_std)
        mine = np.column_stack([boxes[i][real], own])
        theirs = np.column_stack([rois[here][:, 1:], labels[here]])
        assert len(mine) == len(theirs)
        # every one of theirs has its own among ours; two levels may propose the same clipped box
        gap = np.abs(mine[:, None] - theirs[None]).max(-1)
        ours, order = scipy.optimize.linear_sum_assignment(gap)
        assert (gap[ours, order] <= 0.01).all()
        mine = np.where(positive, deltas, 0.0)[ours[np.argsort(order)]]
        np.testing.assert_allclose(mine, targets[here], rtol=1e-3, atol=1e-2)  # a proposal may be 0.01 pixel off


@pytest.mark.parametrize("when", ["train", "test"])
def test_second_stage(run, when):
    case, _, _, got = run
    at = place(case[f"rcnn_{when}/rois"])
    logits, deltas = got[f"{when}_head"]
    assert relative(logits[at], case[f"rcnn_{when}/cls_score"]) <= 1e-4
    assert relative(deltas[at].reshape(len(at[0]), -1), case[f"rcnn_{when}/bbox_pred"]) <= 1e-4


def test_pooling(run):
    """The case has the features of its first boxes."""
    case, _, _, got = run
    at = place(case["rcnn_test/rois"])
    np.testing.assert_array_equal(got["levels"][at], case["rcnn_test/levels"])
    expected = nhwc(case["rcnn_test/roi_feats"])
    assert relative(got["pooled"][at][: len(expected)], expected) <= 1e-4


def test_accuracy(run):
    """Percent of the candidates whose class comes first: the reference's counter beside the losses."""
    case, _, _, got = run
    at = place(case["rcnn_train/rois"])
    right = np.argmax(got["train_head"][0][at], axis=-1) == case["target/rcnn.labels"]
    np.testing.assert_allclose(100 * np.mean(right), case["loss/rcnn_acc"][0], rtol=1e-6)


def test_losses(run):
    case, _, _, got = run
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
    case, _, _, got = run
    dense_case.check_detections(case, got["found"])
