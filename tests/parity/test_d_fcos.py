"""Golden cases D of FCOS, plain and with centre sampling, normalised boxes and centreness on the box tower."""

import dataclasses

import numpy as np
import pytest

from dyhead_jax.boxes import geometry
from dyhead_jax.detectors import losses
from dyhead_jax.training import steps
from tests.parity import dense_case
from tests.parity.goldens import nhwc, relative


@pytest.fixture(scope="module", params=dense_case.of_type("FCOS"), ids=lambda c: c.name)
def run(request):
    return dense_case.run(request.param)


def test_pyramids(run):
    dense_case.check_pyramids(run)


def test_names(run):
    dense_case.check_names(run)


def test_maps(run):
    names = {"cls_score": "class", "bbox_pred": "box", "centerness": "centerness"}
    dense_case.check_maps(run, "head/", names)


def test_targets(run):
    """Labels and distances of every point, which the reference counts in strides where boxes are normalised."""
    match = np.asarray(run.model.apply(run.variables, run.shapes, run.truth, method="match"))
    points = run.model.apply(run.variables, run.shapes, method="points")
    background, start = run.model.num_classes, 0
    for level, (point, stride) in enumerate(zip(points, run.model.strides, strict=True)):
        expected_labels = run.case[f"target/labels.{level}"].reshape(len(match), -1)
        expected = run.case[f"target/bbox_targets.{level}"].reshape(*expected_labels.shape, 4)
        for i, matched in enumerate(match[:, start : start + len(point)]):
            positive = matched >= 0
            labels = np.where(positive, np.asarray(run.truth.labels[i])[matched], background)
            np.testing.assert_array_equal(labels, expected_labels[i])
            boxes = np.asarray(run.truth.boxes[i])[matched[positive]]
            sides = geometry.encode_distances(np.asarray(point)[positive], boxes)
            unit = stride if run.model.distance == "relu" else 1
            np.testing.assert_allclose(sides / unit, expected[i][positive], atol=1e-4)
        start += len(point)


def test_losses(run):
    theirs = run
    if run.model.distance == "relu":
        # the cases were made in eval mode, in which the reference multiplies its predictions by the stride, but not the
        # targets: the loss it then gives is that of predictions once more multiplied
        boxes = [x * stride for x, stride in zip(run.maps["box"], run.model.strides, strict=True)]
        again = steps.jit_once(lambda m, t: run.model.apply(run.variables, m, t, method="losses_from_maps"))
        theirs = dataclasses.replace(run, losses=again(run.maps | {"box": boxes}, run.truth))
    ours = {"loss_cls": "loss_class", "loss_bbox": "loss_box", "loss_centerness": "loss_centerness"}
    dense_case.check_losses(theirs, ours)


def test_box_loss_in_training(run):
    """The box loss as the reference has it in train mode, from its own predictions and targets."""
    total, weight = 0.0, 0.0
    for level, stride in enumerate(run.model.strides):
        positive = run.case[f"target/labels.{level}"] < run.model.num_classes
        target = run.case[f"target/bbox_targets.{level}"][positive].astype(np.float64)
        predicted = nhwc(run.case[f"head/bbox_pred.{level}"]).reshape(-1, 4)[positive].astype(np.float64)
        if run.model.distance == "relu":
            predicted = predicted / stride
        low, high = np.minimum(target[:, :2], target[:, 2:]), np.maximum(target[:, :2], target[:, 2:])
        centerness = np.sqrt(np.prod(low / high, axis=1))
        origin = np.zeros((len(target), 2))
        boxes = [geometry.decode_distances(origin, sides) for sides in (predicted, target)]
        loss = losses.iou(*boxes) if run.model.box_loss == "iou" else losses.giou(*boxes)
        total, weight = total + np.sum(loss * centerness), weight + np.sum(centerness)
    assert relative(run.losses["loss_box"], total / weight) <= 1e-4


def test_detections(run):
    dense_case.check_detections(run.case, run.found)
