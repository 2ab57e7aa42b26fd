"""Golden cases D of ATSS (ResNet torch and caffe style, Swin): features, raw outputs, targets, losses, final boxes."""

import numpy as np
import pytest

from dyhead_jax.training import steps
from tests.parity import dense_case

HEADS = {"cls_score": "class", "bbox_pred": "box", "centerness": "centerness"}


@pytest.fixture(scope="module", params=dense_case.of_type("ATSS"), ids=lambda c: c.name)
def run(request):
    return dense_case.run(request.param)


def test_pyramids(run):
    dense_case.check_pyramids(run)


def test_names(run):
    dense_case.check_names(run)


def test_maps(run):
    dense_case.check_maps(run, "head/", HEADS)


def test_targets(run):
    """Matches, their IoU, and the targets, which are the boxes themselves: the reference's loss decodes predictions."""
    match, valid = steps.jit_once(lambda truth: run.model.apply(run.variables, run.shapes, truth, method="match"))(
        run.truth
    )
    dense_case.check_assignment(match, valid, run.case.numbered("assign/*.assigner.gt_inds"))
    anchors = run.model.apply(run.variables, run.shapes, method="anchors")
    overlaps = run.case.numbered("assign/*.assigner.max_overlaps")
    dense_case.check_overlaps(anchors, match, valid, run.truth, overlaps, of_match=True)
    own = lambda image, positive, boxes: boxes  # noqa: E731
    dense_case.check_targets(run.case, "target/", match, valid, run.truth, run.model.num_classes, own)
    given = np.concatenate(run.case.numbered("target/anchors.*"), axis=1)
    real = np.broadcast_to(np.asarray(valid), match.shape)
    for i in range(len(given)):
        # the reference clears those that take no part
        np.testing.assert_allclose(np.where(real[i][:, None], anchors, given[i]), given[i], atol=1e-4)


def test_losses(run):
    ours = {"loss_cls": "loss_class", "loss_bbox": "loss_box", "loss_centerness": "loss_centerness"}
    dense_case.check_losses(run, ours)


def test_detections(run):
    dense_case.check_detections(run.case, run.found)
