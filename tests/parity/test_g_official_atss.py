"""Golden cases G of the official ATSS head: labels, losses, gradients and inference on given pyramids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.boxes import geometry
from dyhead_jax.config import ATSSConfig, DyHeadConfig, FPNConfig, ModelConfig
from dyhead_jax.detectors import build
from dyhead_jax.training import steps
from dyhead_jax.types import GroundTruth
from dyhead_jax.weights import names
from tests.parity.detections import check_same
from tests.parity.goldens import cases, nhwc, relative

CASES = [c for c in cases("G") if "w/head.cls_logits.weight" in c]


def ground_truth(case) -> GroundTruth:
    images = case.shape("out/logits0")[0]
    padded = max(map(len, case.numbered("gt/*.bboxes"))) + 3
    boxes, labels = np.zeros((images, padded, 4), np.float32), np.zeros((images, padded), np.int32)
    mask = np.zeros((images, padded), bool)
    for i in range(images):
        n = len(case[f"gt/{i}.bboxes"])
        boxes[i, :n], labels[i, :n], mask[i, :n] = case[f"gt/{i}.bboxes"], case[f"gt/{i}.labels0"], True
    return GroundTruth(boxes=boxes, labels=labels, mask=mask, crowd=np.zeros_like(mask))


@pytest.fixture(scope="module", params=CASES, ids=lambda c: c.name)
def run(request):
    """The head alone, as the config's defaults make it: they are the official ones."""
    case = request.param
    params = case.params
    assert params["inference"].startswith("thr .05, pre_nms 1000 per level on cls*ctr scores, nms .6, 100 dets")
    numbers = case.numbers("in/p*")
    classes, features, kernel = case.shape("w/head.cls_logits.weight")[:3]
    config = ModelConfig(
        num_classes=classes,
        neck=FPNConfig(features=features, start=numbers[0] - 2, levels=len(numbers)),
        dyhead=DyHeadConfig(num_blocks=0, features=features),
        head=ATSSConfig(
            kernel=kernel,
            topk=params["topk"],
            box_loss_weight=params["reg_weight"],
            box_std=tuple(1 / weight for weight in params["weights"]),
        ),
    )
    model = build(config)
    pyramid = [jnp.asarray(nhwc(x)) for x in case.numbered("in/p*")]
    shapes = jax.eval_shape(lambda k, x: model.init(k, x, method="predict"), jax.random.key(0), pyramid)
    table = names.atss_official.under("head.", "")
    params = names.load(table, case.under("w/"), shapes)["params"]
    truth = ground_truth(case)
    sizes = jnp.asarray([case.params["img"]] * pyramid[0].shape[0], jnp.int32)

    @steps.jit_once
    def everything(params, pyramid):
        def objective(params, pyramid):
            maps = model.apply({"params": params}, pyramid, method="predict")
            losses = model.apply({"params": params}, maps, truth, method="losses_from_maps")
            return sum(losses.values()), (maps, losses)

        grads, (maps, losses) = jax.grad(objective, argnums=(0, 1), has_aux=True)(params, pyramid)
        grid = [x.shape[1:3] for x in maps["class"]]
        match, _ = model.apply({"params": params}, grid, truth, method="match")
        found = model.apply({"params": params}, maps, sizes, method="detect_from_maps")
        anchors = model.apply({"params": params}, grid, method="anchors")
        return maps, losses, grads, match, found, anchors

    return case, table, truth, model.box_std, everything(params, pyramid)


def test_maps_and_anchors(run):
    case, *_, (maps, _, _, _, _, anchors) = run
    for i in range(len(maps["class"])):
        for ours, theirs in (("class", "logits"), ("box", "reg"), ("centerness", "ctr")):
            assert relative(maps[ours][i], nhwc(case[f"out/{theirs}{i}"])) <= 1e-5
    np.testing.assert_allclose(anchors, np.concatenate(case.numbered("anchors/*")), atol=1e-4)


def test_labels(run):
    case, _, truth, box_std, (_, _, _, match, _, anchors) = run
    for i in range(match.shape[0]):
        got = np.where(match[i] >= 0, truth.labels[i][np.maximum(match[i], 0)] + 1, 0)
        np.testing.assert_array_equal(got, case[f"target/{i}.labels"])
        positive = np.flatnonzero(match[i] >= 0)
        deltas = geometry.encode_deltas(anchors[positive], truth.boxes[i][match[i][positive]], box_std)
        np.testing.assert_allclose(deltas, case[f"target/{i}.deltas_pos"], atol=1e-4)


def test_losses_and_gradients(run):
    case, table, *_, (_, losses, (d_params, d_pyramid), *_) = run
    for ours, theirs in (("loss_class", "loss_cls"), ("loss_centerness", "loss_ctr"), ("loss_box", "loss_box_reg")):
        assert relative(losses[ours], case[f"loss/{theirs}"]) <= 1e-5, ours
    for grad, expected in zip(d_pyramid, case.numbered("grad/in/p*"), strict=True):
        assert relative(grad, nhwc(expected)) <= 1e-4
    got = names.save(table, {"params": d_params})
    for name, expected in case.under("grad/w/").items():
        assert relative(got[name].reshape(expected.shape), expected) <= 1e-4, name


def test_inference(run):
    """The case's boxes are not clipped; ours are, after NMS."""
    case, *_, (_, _, _, _, found, _) = run
    height, width = case.params["img"]
    for i in range(found.boxes.shape[0]):
        expected = np.clip(case[f"det/{i}.bboxes"], 0, [width, height, width, height])
        inside = (expected[:, 2] > expected[:, 0]) & (expected[:, 3] > expected[:, 1])
        real = np.asarray(found.scores[i]) > 0
        mine = tuple(np.asarray(x[i])[real] for x in (found.boxes, found.scores, found.labels))
        scores, labels = (case[f"det/{i}.{name}"][inside] for name in ("scores", "labels"))
        check_same(mine, (expected[inside], scores, labels), 0.01, 1e-5)
