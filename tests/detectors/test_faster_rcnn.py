"""Faster R-CNN: gradients, empty images, crowds, proposals, sampling, devices; with fully connected layers and as the
paper draws it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dyhead_jax.boxes import geometry
from dyhead_jax.detectors.faster_rcnn import FasterRCNN
from dyhead_jax.training import steps
from dyhead_jax.types import Batch
from dyhead_jax.weights import names
from tests.detectors import tiny

TASK = "dyhead_jax.dyhead.task:TaskAttention"
OPTIONS = {
    "anchor_scale": 2.0,
    "rpn_features": 16,
    "rpn_samples": 60,
    "proposals_before": (40, 30),
    "proposals": (24, 20),
    "roi_levels": 2,
    "roi_size": 3,
    "roi_samples": 20,
    "fc_features": 12,
    "max_detections": 15,
    "score_threshold": 0.01,
}
TRUTH = tiny.truth(
    [[[10, 10, 34, 40], [50, 20, 80, 60]], [[4, 30, 20, 50], [30, 5, 60, 55], [60, 40, 80, 56]]],
    sizes=[tiny.CANVAS, (60, 90)],
)


@pytest.fixture(scope="module", params=["fc", pytest.param("task", marks=pytest.mark.long)])
def detector(request):
    """The model, its variables, and a jitted function of variables, images, truth and key to losses and gradients."""
    model = tiny.make(FasterRCNN, **OPTIONS, task=TASK if request.param == "task" else "none")

    @steps.jit_once
    def losses(variables, images, truth, key):
        def total(params):
            rngs = {"sampling": key}
            terms = model.apply({"params": params}, images, truth, method="losses", rngs=rngs)
            return sum(terms.values()), terms

        (_, terms), gradients = jax.value_and_grad(total, has_aux=True)(variables["params"])
        return terms, gradients

    return model, tiny.init(model), lambda *args, key=0: losses(*args, jax.random.key(key))


@pytest.mark.long
def test_gradient_reaches_every_parameter(detector):
    _, variables, losses = detector
    terms, gradients = losses(variables, tiny.images(2), TRUTH)
    assert all(np.isfinite(value) and value > 0 for value in terms.values())
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(gradient).all(), name
        assert np.abs(gradient).max() > 0, name


@pytest.mark.long
def test_no_boxes(detector):
    """Finite, with nothing but class terms; crowds count for nothing."""
    _, variables, losses = detector
    terms, gradients = losses(variables, tiny.images(2), tiny.truth([[], []], sizes=[tiny.CANVAS] * 2))
    crowds, _ = losses(variables, tiny.images(2), TRUTH.replace(crowd=TRUTH.mask))
    for got in (terms, crowds):
        assert got["loss_rpn_box"] == got["loss_box"] == 0
        assert got["loss_rpn_class"] > 0
        assert got["loss_class"] > 0
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.long
def test_samples_follow_the_key(detector):
    _, variables, losses = detector
    first, again, other = (losses(variables, tiny.images(2), TRUTH, key=k)[0] for k in (0, 0, 1))
    assert first == again
    assert first["loss_rpn_class"] != other["loss_rpn_class"]


@pytest.mark.long
@pytest.mark.parametrize("detector", ["fc"], indirect=True)
def test_two_devices_equal_one(detector):
    """The mean over devices of the losses of one image each is the loss of the batch (samples by the fixed key)."""
    model, variables, _ = detector
    whole = steps.jit_once(lambda i, t: model.apply(variables, i, t, method="losses"))(tiny.images(2), TRUTH)
    split = model.clone(axis_name="batch")
    apply = lambda image, truth: split.apply(variables, image, truth, method="losses")  # noqa: E731
    pieces = jax.tree.map(lambda x: x[:, None], (tiny.images(2), TRUTH))
    each = jax.pmap(apply, axis_name="batch")(*pieces)
    for name, value in whole.items():
        np.testing.assert_allclose(jnp.mean(each[name]), value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("detector", ["fc"], indirect=True)
def test_detections(detector):
    """Fixed shapes, best first, inside the image, empty slots marked; each image for itself."""
    model, variables, _ = detector
    detect = steps.jit_once(lambda i, s: model.apply(variables, i, s, method="detect"))
    sizes = jnp.asarray([tiny.CANVAS, (40, 50)], jnp.int32)
    found = detect(tiny.images(2), sizes)
    assert found.boxes.shape == (2, model.max_detections, 4)
    scores, boxes = np.asarray(found.scores), np.asarray(found.boxes)
    assert (scores > 0).any()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert ((scores == 0) == (np.asarray(found.labels) == -1)).all()
    assert (boxes >= 0).all()
    assert (boxes[1, :, 2:] <= [50, 40]).all()
    swapped = detect(tiny.images(2)[::-1], sizes[::-1])
    np.testing.assert_allclose(swapped.boxes[::-1], boxes, atol=1e-3)


@pytest.fixture(scope="module")
def stages():
    """Maps, proposals and their matches of the two images."""
    model = tiny.make(FasterRCNN, **OPTIONS)
    variables = tiny.init(model)

    def run(module, images, truth):
        maps = module.features(images, truth.sizes)
        proposals = module.propose(maps, truth.sizes, train=True)
        return proposals, module.match_proposals(proposals, truth)

    return steps.jit_once(lambda i: model.apply(variables, i, TRUTH, method=run))(tiny.images(2))


def test_proposals(stages):
    """Inside the image, with area, best first; and of three anchors a cell no more than asked for."""
    proposals, _ = stages
    assert proposals.boxes.shape == (2, 24, 4)
    for i, (height, width) in enumerate(np.asarray(TRUTH.sizes)):
        boxes, scores = (np.asarray(x[i])[np.asarray(proposals.mask[i])] for x in (proposals.boxes, proposals.scores))
        assert len(boxes) > 5
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= [width, height]).all()
        assert (np.diff(scores) <= 0).all()


def test_ground_truth_is_among_the_candidates(stages):
    """It matches itself; a proposal matches the box it overlaps most, by at least a half."""
    proposals, (candidates, match) = stages
    count = TRUTH.boxes.shape[1]
    for i in range(2):
        real = np.asarray(TRUTH.mask[i])
        np.testing.assert_array_equal(np.asarray(match[i, :count]), np.where(real, np.arange(count), -2))
        overlap = np.asarray(geometry.pairwise_iou(candidates[i, count:], TRUTH.boxes[i])) * real
        expected = np.where(overlap.max(1) >= 0.5, overlap.argmax(1), -1)
        np.testing.assert_array_equal(match[i, count:], np.where(proposals.mask[i], expected, -2))


def test_truth_comes_back():
    """Objectness sure at the positives and deltas that lead to the truth: the truth is proposed."""
    model = tiny.make(FasterRCNN, **OPTIONS | {"center_offset": 0.5})
    shapes = [(8, 12), (4, 6), (2, 3)]
    truth = TRUTH.replace(sizes=None)

    def run(module, truth):
        match = module.match(shapes, truth)
        anchors = jnp.concatenate(module.anchors(shapes))[None]
        boxes = jnp.take_along_axis(truth.boxes, jnp.maximum(match, 0)[..., None], axis=1)
        boxes = jnp.where((match >= 0)[..., None], boxes, anchors)
        flat = {
            "objectness": jnp.where(match >= 0, 9.0, -9.0)[..., None],
            "proposal": geometry.encode_deltas(anchors, boxes),
        }
        cuts = np.cumsum([3 * h * w for h, w in shapes])[:-1]
        maps = {
            name: [x.reshape(2, h, w, -1) for x, (h, w) in zip(jnp.split(v, cuts, axis=1), shapes, strict=True)]
            for name, v in flat.items()
        }
        return module.propose(maps, jnp.asarray([tiny.CANVAS] * 2), train=True)

    found = steps.jit_once(lambda t: model.apply({}, t, method=run))(truth)
    for i in range(2):
        sure = np.asarray(found.boxes[i])[np.asarray(found.scores[i]) > 0.5]
        wanted = np.asarray(truth.boxes[i])[np.asarray(truth.mask[i])]
        gap = np.abs(sure[:, None] - wanted[None]).max(-1)
        assert (gap.min(0) < 0.01).all()
        assert (gap.min(1) < 0.01).all()


def test_parts_by_configuration():
    """Convolutions and fully connected layers, or none, or attention in their place."""
    for options, present, absent in (
        ({"layers": 2}, "fc_1", "task_0"),
        ({"layers": 0}, "class_predictor", "fc_0"),
        ({"task": TASK}, "task_1", "fc_0"),
    ):
        model = tiny.make(FasterRCNN, **OPTIONS | options)
        make = lambda k, i, model=model: model.init(k, i, None, method="detect")  # noqa: E731
        head = jax.eval_shape(make, jax.random.key(0), tiny.images(1))["params"]["roi_head"]
        assert present in head
        assert absent not in head


@pytest.mark.long
def test_a_train_step_draws_samples():
    """By its seed, anew at every step, and in every micro-batch of its own."""
    model = tiny.make(FasterRCNN, **OPTIONS | {"rpn_samples": 8, "roi_samples": 8})
    optimizer = optax.sgd(0.0)  # so that nothing but the samples changes
    batch = Batch(images=(60 * tiny.images(2) + 120).astype(jnp.uint8), ground_truth=TRUTH)
    parameters = steps.survey(model, (64, 64))
    state = steps.create_state(parameters, optimizer, {"params": tiny.init(model)["params"], "batch_stats": {}})
    step = steps.jit_once(steps.make_train_step(model, optimizer, lambda _: 0.0, parameters, accumulate=2))
    state, first = step(state, batch)
    again = step(state.replace(step=state.step - 1), batch)[1]
    _, second = step(state, batch)
    assert first["loss_rpn_class"] == again["loss_rpn_class"]
    assert first["loss_rpn_class"] != second["loss_rpn_class"]
    assert all(np.isfinite(value) for value in second.values())


def head_of(variables):
    return {"params": {k: v for k, v in variables["params"].items() if k.startswith(("rpn", "roi"))}}


@pytest.mark.parametrize(
    ("table", "convs"),
    [(names.faster_rcnn_mmdet(), 1), (names.faster_rcnn_mmdet(2), 2), (names.faster_rcnn_detectron2(), 1)],
)
def test_names_go_both_ways(table, convs):
    model = tiny.make(FasterRCNN, **OPTIONS | {"rpn_convs": convs})
    make = lambda k, i: model.init(k, i, None, method="detect")  # noqa: E731
    shapes = head_of(jax.eval_shape(make, jax.random.key(0), tiny.images(1)))
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), shapes)
    state_dict = names.save(table, variables)
    assert len(state_dict) == len(jax.tree.leaves(variables))
    jax.tree.map(np.testing.assert_array_equal, names.load(table, state_dict, shapes), variables)


def test_too_many_levels():
    model = tiny.make(FasterRCNN, **OPTIONS | {"roi_levels": 4})
    with pytest.raises(ValueError, match="roi_levels"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), tiny.images(1), None, method="detect"))
