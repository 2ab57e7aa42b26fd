"""BorderDet: gradients and where they stop, empty images, crowds, devices, and truth that comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.boxes import geometry
from dyhead_jax.detectors.borderdet import BorderDet, instance_norm
from dyhead_jax.training import steps
from dyhead_jax.weights import names
from tests.detectors import tiny

pytestmark = pytest.mark.long

OPTIONS = {
    "norm_groups": 4,
    "border_class_features": 6,
    "border_box_features": 4,
    "pool_size": 3,
    "level_limits": (32.0, 64.0),
    "border_iou": 0.2,
    "score_threshold": 0.01,
}
TRUTH = tiny.truth(
    [[[10, 10, 34, 40], [50, 20, 80, 60]], [[4, 30, 20, 60], [30, 5, 90, 55], [60, 40, 80, 60]]],
    sizes=[tiny.CANVAS, (60, 90)],
)
SHAPES = [(8, 12), (4, 6), (2, 3)]


@pytest.fixture(scope="module")
def detector():
    """The model, its variables, and a jitted function of variables, images and truth to losses and gradients."""
    model = tiny.make(BorderDet, towers=1, **OPTIONS)

    @steps.jit_once
    def losses(variables, images, truth):
        def total(params):
            terms = model.apply({"params": params}, images, truth, method="losses")
            return sum(terms.values()), terms

        (_, terms), gradients = jax.value_and_grad(total, has_aux=True)(variables["params"])
        return terms, gradients

    variables = tiny.init(model, seed=2)  # a draw in which no gate of DyHead is shut
    # coarse boxes of a useful size from the start, so that some are corrected
    variables["params"]["box_predictor"]["bias"] += 1.5
    return model, variables, losses


def test_gradient_reaches_every_parameter(detector):
    """But for biases that an instance norm takes out again."""
    _, variables, losses = detector
    terms, gradients = losses(variables, tiny.images(2), TRUTH)
    assert all(np.isfinite(value) and value > 0 for value in terms.values()), terms
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(gradient).all(), name
        if name.endswith(("point_conv/bias", "side_conv/bias")):
            np.testing.assert_allclose(gradient, 0, atol=1e-4, err_msg=name)
        else:
            assert np.abs(gradient).max() > 0, name


def test_no_boxes(detector):
    """Finite, with nothing but class terms; crowds count for nothing."""
    _, variables, losses = detector
    terms, gradients = losses(variables, tiny.images(2), tiny.truth([[], []], sizes=[tiny.CANVAS] * 2))
    crowds, _ = losses(variables, tiny.images(2), TRUTH.replace(crowd=TRUTH.mask))
    for got in (terms, crowds):
        assert got["loss_box"] == got["loss_border_box"] == got["loss_centerness"] == 0
        assert got["loss_class"] > 0
        assert got["loss_border_class"] > 0
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_coarse_boxes_of_no_size(detector):
    """A ReLU makes them; they must divide nothing."""
    _, variables, losses = detector
    params = variables["params"] | {"scales": jnp.zeros(3)}
    terms, gradients = losses({"params": params}, tiny.images(2), TRUTH)
    assert terms["loss_border_box"] == 0
    assert all(np.isfinite(g).all() for g in jax.tree.leaves((terms, gradients)))


@pytest.mark.long
def test_two_devices_equal_one(detector):
    """The mean over devices of the losses of one image each is the loss of the batch."""
    model, variables, losses = detector
    whole, _ = losses(variables, tiny.images(2), TRUTH)
    split = model.clone(axis_name="batch")
    apply = lambda image, truth: split.apply(variables, image, truth, method="losses")  # noqa: E731
    pieces = jax.tree.map(lambda x: x[:, None], (tiny.images(2), TRUTH))
    each = jax.pmap(apply, axis_name="batch")(*pieces)
    for name, value in whole.items():
        np.testing.assert_allclose(jnp.mean(each[name]), value, rtol=1e-5, err_msg=name)


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


def test_border_terms_do_not_move_the_coarse_boxes():
    """Through neither the borders' places nor the corrections' base."""
    model = tiny.make(BorderDet, towers=0, **OPTIONS)
    variables = {"params": {"scales": jnp.ones(3)}}
    key = jax.random.key(3)
    widths = {"class": 3, "box": 4, "centerness": 1, "border_class": 3, "border_box": 4}
    maps = {n: [jnp.abs(8 * jax.random.normal(key, (2, *s, c))) for s in SHAPES] for n, c in widths.items()}

    @steps.jit_once
    @jax.grad
    def border(maps, truth):
        terms = model.apply(variables, maps, truth, method="losses_from_maps")
        return terms["loss_border_class"] + terms["loss_border_box"]

    got = border(maps, TRUTH)
    for name in widths:
        moved = any(np.any(np.asarray(g)) for g in got[name])
        assert moved == name.startswith("border"), name


def test_truth_comes_back():
    """Coarse boxes off by a little, corrected as the targets say: no border terms, detection gives the truth."""
    model = tiny.make(BorderDet, towers=0, **OPTIONS | {"border_iou": 0.5})
    variables, truth = {"params": {"scales": jnp.ones(3)}}, TRUTH.replace(sizes=None)

    def run(module, truth):
        cuts = np.cumsum([h * w for h, w in SHAPES])[:-1]
        split = lambda v: [  # noqa: E731
            x.reshape(2, h, w, -1) for x, (h, w) in zip(jnp.split(v, cuts, axis=1), SHAPES, strict=True)
        ]
        zeros = split(jnp.zeros((2, 126, 4)))
        match, _ = module.match({"class": zeros, "box": zeros}, truth)
        positive, index = match >= 0, jnp.maximum(match, 0)
        points = jnp.concatenate(module.points(SHAPES))[None]
        boxes = jnp.take_along_axis(truth.boxes, index[..., None], axis=1)
        box = split(jnp.where(positive[..., None], geometry.encode_distances(points, boxes) + 1.5, 0.0))
        coarse = jnp.concatenate(module.coarse_boxes(box), axis=1)
        size = jnp.where(positive[..., None], jnp.tile(coarse[..., 2:] - coarse[..., :2], 2), 1.0)
        correction = jnp.where(positive[..., None], (boxes - coarse) / (size * module.border_std), 0.0)
        labels = jnp.where(positive, jnp.take_along_axis(truth.labels, index, axis=1), -1)
        sure = split(40.0 * jax.nn.one_hot(labels, tiny.CLASSES) - 20.0)
        center = split(jnp.full((2, 126, 1), 20.0))
        maps = {"class": sure, "box": box, "centerness": center, "border_class": sure, "border_box": split(correction)}
        sizes = jnp.asarray([tiny.CANVAS] * 2)
        return module.losses_from_maps(maps, truth), module.detect_from_maps(maps, sizes)

    terms, found = steps.jit_once(lambda t: model.apply(variables, t, method=run))(truth)
    for name in ("loss_class", "loss_border_class", "loss_border_box"):
        assert terms[name] < 1e-4, name
    assert terms["loss_box"] > 0.01  # the coarse ones are off
    for i in range(2):
        real, mask = np.asarray(found.scores[i]) > 0.5, np.asarray(truth.mask[i])
        got = np.column_stack([np.asarray(found.labels[i]), np.asarray(found.boxes[i])])[real]
        expected = np.column_stack([np.asarray(truth.labels[i]), np.asarray(truth.boxes[i])])[mask]
        np.testing.assert_allclose(got[got[:, 0].argsort()], expected, atol=1e-2)


def test_instance_norm():
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3)) * 4 + 9
    got = np.asarray(instance_norm(x))
    np.testing.assert_allclose(got.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(got.var((1, 2)), 1, atol=1e-4)
    assert not np.any(np.asarray(instance_norm(x[:, :1, :1])))


def test_names_go_both_ways():
    model = tiny.make(BorderDet, towers=2, **OPTIONS)
    make = lambda k, i: model.init(k, i, None, method="detect")["params"]  # noqa: E731
    shapes = jax.eval_shape(make, jax.random.key(0), tiny.images(1))
    shapes = {"params": {k: v for k, v in shapes.items() if k not in ("backbone", "neck", "dyhead")}}
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), shapes)
    table = names.borderdet_official(2)
    state_dict = names.save(table, variables)
    assert len(state_dict) == len(jax.tree.leaves(variables)) + 2  # the scales come one by one
    jax.tree.map(np.testing.assert_array_equal, names.load(table, state_dict, shapes), variables)


def test_wrong_options():
    model = tiny.make(BorderDet)
    with pytest.raises(ValueError, match="level_limits"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), tiny.images(1), None, method="detect"))
