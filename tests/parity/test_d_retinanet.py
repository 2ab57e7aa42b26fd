"""Golden cases D of RetinaNet: pyramid, raw outputs, assignment, losses, final boxes."""

import numpy as np
import pytest

from tests.parity import dense_case
from tests.parity.goldens import relative


@pytest.fixture(scope="module", params=dense_case.of_type("RetinaNet"), ids=lambda c: c.name)
def run(request):
    return dense_case.run(request.param)


def test_pyramid(run):
    dense_case.check_pyramid(run)


def test_names(run):
    dense_case.check_names(run)


def test_maps(run):
    dense_case.check_maps(run, "head/", {"cls_score": "class", "bbox_pred": "box"})


def test_assignment(run):
    match, valid = run.model.apply(run.variables, run.shapes, run.truth, method="match")
    expected = [run.case[f"assign/{i}.assigner.gt_inds"] for i in range(len(match))]
    dense_case.check_assignment(match, valid, expected)
    counts = np.maximum(np.sum(np.asarray(match) >= 0, axis=1), 1)
    assert counts.sum() == run.case["target/avg_factor"]


def test_losses(run):
    for name, mine in {"loss_cls": "loss_class", "loss_bbox": "loss_box"}.items():
        assert relative(run.losses[mine], dense_case.expected_loss(run.case, name)) <= 1e-4, name


def test_detections(run):
    dense_case.check_detections(run)
