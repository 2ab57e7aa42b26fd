"""Golden cases D of ATSS (ResNet torch and caffe style): features, raw outputs, assignment, losses, final boxes."""

import jax
import numpy as np
import pytest

from tests.parity import mmdet_model
from tests.parity.goldens import cases, nhwc, relative

CASES = [c for c in cases("D") if c.manifest["params"].get("config", {}).get("type") == "ATSS"]


@pytest.fixture(scope="module", params=CASES, ids=lambda c: c.name)
def run(request):
    """The case, its maps, losses, matches and detections."""
    case = request.param
    config = case.manifest["params"]["config"]
    model, variables = mmdet_model.load(case, config, case.under("w/"))
    truth = mmdet_model.ground_truth(case)

    @jax.jit
    def everything(variables, images, truth):
        maps = model.apply(variables, images, truth.sizes, method="features")
        shapes = [x.shape[1:3] for x in maps["class"]]
        losses = model.apply(variables, images, truth, False, method="losses")
        match, valid = model.apply(variables, shapes, truth, method="match")
        found = model.apply(variables, images, truth.sizes, method="detect")
        return maps, losses, match, valid, found

    return case, *everything(variables, mmdet_model.images(case), truth)


def test_maps(run):
    case, maps, *_ = run
    ours = {"fpn": "neck", "dyhead": "dyhead", "backbone": "backbone"}
    heads = {"cls_score": "class", "bbox_pred": "box", "centerness": "centerness"}
    checked = 0
    for key, value in case.arrays.items():
        part, _, rest = key.partition("/")
        if part in ours:
            first = min(int(k.split("/")[1][1:]) for k in case.arrays if k.startswith(part + "/"))
            got = maps[ours[part]][int(rest[1:]) - first]
        elif part == "head":
            name, level = rest.split(".")
            got = maps[heads[name]][int(level)]
        else:
            continue
        checked += 1
        assert relative(got, nhwc(value)) <= 1e-4, key
    assert checked >= 20


def test_assignment(run):
    case, _, _, match, valid, _ = run
    for i in range(match.shape[0]):
        expected = case[f"assign/{i}.assigner.gt_inds"]  # of the anchors inside the image's own padding
        got = np.asarray(match[i])[np.asarray(valid[i])]
        np.testing.assert_array_equal(got + 1, expected)


def test_losses(run):
    case, _, losses, *_ = run
    ours = {"loss_cls": "loss_class", "loss_bbox": "loss_box", "loss_centerness": "loss_centerness"}
    for name, mine in ours.items():
        expected = sum(v for k, v in case.under("loss/").items() if k.startswith(name + "."))
        assert relative(losses[mine], expected) <= 1e-4, name


def test_detections(run):
    case, *_, found = run
    for i in range(found.boxes.shape[0]):
        real = np.asarray(found.scores[i]) > 0
        np.testing.assert_array_equal(np.asarray(found.labels[i])[real], case[f"det.{i}.labels"])
        np.testing.assert_allclose(np.asarray(found.boxes[i])[real], case[f"det.{i}.bboxes"], atol=0.01)
        np.testing.assert_allclose(np.asarray(found.scores[i])[real], case[f"det.{i}.scores"], atol=1e-4)
