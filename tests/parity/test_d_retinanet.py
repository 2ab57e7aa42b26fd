"""Golden cases D of RetinaNet: pyramid, raw outputs, targets, losses, final boxes."""

import jax.numpy as jnp
import pytest

from dyhead_jax.boxes import geometry
from tests.parity import dense_case


@pytest.fixture(scope="module", params=dense_case.of_type("RetinaNet"), ids=lambda c: c.name)
def run(request):
    return dense_case.run(request.param)


def test_pyramids(run):
    dense_case.check_pyramids(run)


def test_names(run):
    dense_case.check_names(run)


def test_maps(run):
    dense_case.check_maps(run, "head/", {"cls_score": "class", "bbox_pred": "box"})


def test_targets(run):
    match, valid = run.model.apply(run.variables, run.shapes, run.truth, method="match")
    dense_case.check_assignment(match, valid, run.case.numbered("assign/*.assigner.gt_inds"))
    anchors = jnp.concatenate(run.model.apply(run.variables, run.shapes, method="anchors"))
    overlaps = run.case.numbered("assign/*.assigner.max_overlaps")
    dense_case.check_overlaps(anchors, match, valid, run.truth, overlaps, of_match=False)

    def deltas(image, positive, boxes):
        return geometry.encode_deltas(anchors[positive], boxes, run.model.box_std)

    dense_case.check_targets(run.case, "target/", match, valid, run.truth, run.model.num_classes, deltas, atol=1e-4)


def test_losses(run):
    dense_case.check_losses(run, {"loss_cls": "loss_class", "loss_bbox": "loss_box"})


def test_detections(run):
    dense_case.check_detections(run.case, run.found)
