"""Golden cases D of RepPoints by moments: pyramid, points, both assignments and targets, losses, final boxes."""

import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.detectors.detector import flatten
from tests.parity import dense_case


@pytest.fixture(scope="module", params=dense_case.of_type("RepPointsDetector"), ids=lambda c: c.name)
def run(request):
    return dense_case.run(request.param)


def test_pyramids(run):
    dense_case.check_pyramids(run)


def test_names(run):
    dense_case.check_names(run)


def test_maps(run):
    dense_case.check_maps(run, "head/", {"cls_score": "class", "bbox_from_refined_points": "box"})
    dense_case.check_maps(
        run, "head_train/", {"cls_score": "class", "pts_init": "points_first", "pts_refine": "points"}
    )


def check_stage(run, stage, match, valid, candidates):
    """candidates: (b, n, .) what the reference lists for the positives of a stage."""
    own = lambda image, positive, boxes: boxes  # noqa: E731
    prefix = f"target/{stage}."
    dense_case.check_targets(run.case, prefix, match, valid, run.truth, run.model.num_classes, own)
    given = np.concatenate(run.case.numbered(f"{prefix}candidates.*"), axis=1)
    positive = np.asarray(match) >= 0
    np.testing.assert_allclose(np.asarray(candidates)[positive], given[positive][:, : candidates.shape[-1]], atol=0.01)
    assert not given[~positive].any()


def test_first_stage(run):
    """The candidates are the points: (x, y, stride, stride)."""
    images = run.truth.boxes.shape[0]
    match, valid = run.model.apply(run.variables, run.shapes, run.truth, method="match")
    dense_case.check_assignment(match, valid, run.case.numbered("assign/*.init_assigner.gt_inds"))
    points = jnp.concatenate(run.model.apply(run.variables, run.shapes, method="points"))
    stride = np.repeat(np.float32(run.model.strides), [h * w for h, w in run.shapes])[:, None]
    check_stage(run, "init", match, valid, np.repeat(np.column_stack([points, stride, stride])[None], images, axis=0))


def test_second_stage(run):
    """The candidates are the boxes that the first stage's points make."""
    boxes = run.model.apply(run.variables, run.shapes, flatten(run.maps["box_first"], 4), method="in_pixels")
    match, valid = run.model.apply(run.variables, run.shapes, boxes, run.truth, method="match_boxes")
    # the reference assigns all images in the first stage, then all in the second, and counts on
    dense_case.check_assignment(match, valid, run.case.numbered("assign/*.refine_assigner.gt_inds"))
    overlaps = run.case.numbered("assign/*.refine_assigner.max_overlaps")
    dense_case.check_overlaps(boxes, match, valid, run.truth, overlaps, of_match=False)
    check_stage(run, "refine", match, valid, boxes)


def test_losses(run):
    names = {"loss_cls": "loss_class", "loss_pts_init": "loss_box_first", "loss_pts_refine": "loss_box"}
    dense_case.check_losses(run, names)


def test_detections(run):
    dense_case.check_detections(run.case, run.found)
