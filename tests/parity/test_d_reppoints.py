"""Golden cases D of RepPoints by moments: pyramid, points, both assignments, losses, final boxes."""

import pytest

from dyhead_jax.detectors.detector import flatten
from tests.parity import dense_case
from tests.parity.goldens import relative


@pytest.fixture(scope="module", params=dense_case.of_type("RepPointsDetector"), ids=lambda c: c.name)
def run(request):
    return dense_case.run(request.param)


def test_pyramid(run):
    dense_case.check_pyramid(run)


def test_names(run):
    dense_case.check_names(run)


def test_maps(run):
    dense_case.check_maps(run, "head/", {"cls_score": "class", "bbox_from_refined_points": "box"})
    dense_case.check_maps(
        run, "head_train/", {"cls_score": "class", "pts_init": "points_first", "pts_refine": "points"}
    )


def test_assignments(run):
    """The reference assigns all images in the first stage, then all in the second, and counts on."""
    images = run.truth.boxes.shape[0]
    match, valid = run.model.apply(run.variables, run.shapes, run.truth, method="match")
    expected = [run.case[f"assign/{i}.init_assigner.gt_inds"] for i in range(images)]
    dense_case.check_assignment(match, valid, expected)
    boxes = run.model.apply(run.variables, run.shapes, flatten(run.maps["box_first"], 4), method="in_pixels")
    match, valid = run.model.apply(run.variables, run.shapes, boxes, run.truth, method="match_boxes")
    expected = [run.case[f"assign/{images + i}.refine_assigner.gt_inds"] for i in range(images)]
    dense_case.check_assignment(match, valid, expected)


def test_losses(run):
    names = {"loss_cls": "loss_class", "loss_pts_init": "loss_box_first", "loss_pts_refine": "loss_box"}
    for name, mine in names.items():
        assert relative(run.losses[mine], dense_case.expected_loss(run.case, name)) <= 1e-4, name


def test_detections(run):
    dense_case.check_detections(run)
