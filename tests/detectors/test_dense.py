"""What holds for RetinaNet, FCOS and RepPoints alike, and that maps made from the truth give it back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.boxes import geometry
from dyhead_jax.detectors.fcos import FCOS
from dyhead_jax.detectors.reppoints import POINTS, RepPoints
from dyhead_jax.detectors.retinanet import RetinaNet
from dyhead_jax.training import steps
from tests.detectors import tiny

KINDS = {
    "retinanet": (RetinaNet, {"towers": 1}),
    "fcos": (FCOS, {"towers": 1, "norm_groups": 4}),
    "fcos_tricks": (
        FCOS,
        {"towers": 0, "distance": "relu", "centerness_on": "box", "center_radius": 1.5, "box_loss": "giou"},
    ),
    "reppoints": (RepPoints, {"towers": 1, "norm_groups": 4}),
}
TRUTH = tiny.truth(
    [[[10, 10, 34, 40], [50, 20, 80, 60]], [[4, 30, 20, 60], [30, 5, 90, 55], [60, 40, 80, 60]]],
    sizes=[tiny.CANVAS, (60, 90)],
)
NOBODY = tiny.truth([[], []], sizes=[tiny.CANVAS] * 2)


def options(kind):
    extra = {"level_limits": (32.0, 64.0)} if kind.startswith("fcos") else {}
    return KINDS[kind][1] | extra


@pytest.fixture(
    scope="module",
    params=[pytest.param(k, marks=[] if k in ("atss", "fcos") else pytest.mark.long) for k in KINDS],
)
def detector(request):
    """The kind, model, variables, and a jitted function of variables, images and truth to losses and gradients."""
    model = tiny.make(KINDS[request.param][0], **options(request.param))

    @steps.jit_once
    def losses(variables, images, truth):
        def total(params):
            terms = model.apply({"params": params}, images, truth, method="losses")
            return sum(terms.values()), terms

        (_, terms), gradients = jax.value_and_grad(total, has_aux=True)(variables["params"])
        return terms, gradients

    return request.param, model, tiny.init(model, seed=2), losses  # a draw in which no gate of DyHead is shut


def test_gradient_reaches_every_parameter(detector):
    _, _, variables, losses = detector
    terms, gradients = losses(variables, tiny.images(2), TRUTH)
    assert all(np.isfinite(value) and value > 0 for value in terms.values())
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(gradient).all(), name
        assert np.abs(gradient).max() > 0, name


def test_no_boxes(detector):
    """Finite, with nothing but the class term; crowds count for nothing."""
    _, _, variables, losses = detector
    terms, gradients = losses(variables, tiny.images(2), NOBODY)
    assert terms.pop("loss_class") > 0
    assert all(value == 0 for value in terms.values())
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    crowds = TRUTH.replace(crowd=TRUTH.mask)
    again, _ = losses(variables, tiny.images(2), crowds)
    assert again.pop("loss_class") > 0
    assert all(value == 0 for value in again.values())


def test_two_devices_equal_one(detector):
    """The mean over devices of the losses of one image each is the loss of the batch."""
    _, model, variables, losses = detector
    whole, _ = losses(variables, tiny.images(2), TRUTH)
    split = model.clone(axis_name="batch")
    apply = lambda image, truth: split.apply(variables, image, truth, method="losses")  # noqa: E731
    pieces = jax.tree.map(lambda x: x[:, None], (tiny.images(2), TRUTH))
    each = steps.jit_once(jax.vmap(apply, axis_name="batch"))(*pieces)
    for name, value in whole.items():
        np.testing.assert_allclose(jnp.mean(each[name]), value, rtol=1e-5, err_msg=name)


def test_detections(detector):
    """Fixed shapes, best first, inside the image, empty slots marked; each image for itself."""
    _, model, variables, _ = detector
    detect = steps.jit_once(lambda i, s: model.apply(variables, i, s, method="detect"))
    sizes = jnp.asarray([tiny.CANVAS, (40, 50)], jnp.int32)
    found = detect(tiny.images(2), sizes)
    assert found.boxes.shape == (2, model.max_detections, 4)
    scores, boxes = np.asarray(found.scores), np.asarray(found.boxes)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert ((scores == 0) == (np.asarray(found.labels) == -1)).all()
    assert (scores[scores > 0] <= 1).all()
    assert (boxes >= 0).all()
    assert (boxes[1, :, 2:] <= [50, 40]).all()
    swapped = detect(tiny.images(2)[::-1], sizes[::-1])
    np.testing.assert_allclose(swapped.boxes[::-1], boxes, atol=1e-3)


@pytest.mark.long
def test_parts_by_configuration():
    """Towers behind DyHead, DyHead in their place, or towers alone, are a matter of two numbers."""
    for detector, layer in ((RetinaNet, "class_tower"), (FCOS, "box_tower"), (RepPoints, "point_tower")):
        extra = {"level_limits": (32.0, 64.0)} if detector is FCOS else {}
        extra |= {} if detector is RetinaNet else {"norm_groups": 4}
        for towers, blocks in ((2, 1), (0, 1), (2, 0)):
            model = tiny.make(detector, blocks=blocks, towers=towers, **extra)
            shapes = jax.eval_shape(
                lambda k, i, model=model: model.init(k, i, None, method="detect"), jax.random.key(0), tiny.images(1)
            )
            assert ("conv_1" in shapes["params"].get(layer, {})) == (towers == 2)
            assert ("dyhead" in shapes["params"]) == (blocks == 1)


@pytest.mark.long
def test_reppoints_from_a_grid():
    """With grid_start the first boxes are squares around their cells before any training, so that some overlap a box
    of their level's size well; without it they have no size to speak of, and none does."""
    truth, sure = TRUTH.replace(sizes=None), {}
    for start in (0.0, 2.0):
        model = tiny.make(RepPoints, towers=1, norm_groups=4, grid_start=start)

        @steps.jit_once
        def matched(variables, images, truth, model=model):
            maps = model.apply(variables, images, None, method="features")
            boxes = jnp.concatenate([x.reshape(len(images), -1, 4) for x in maps["box_first"]], axis=1)
            boxes = model.apply(variables, SHAPES, boxes, method="in_pixels")
            return maps["box_first"], geometry.pairwise_iou(truth.boxes[0], boxes[0])

        images = tiny.images(2)
        variables = steps.jit_once(lambda i, m=model: m.init(jax.random.key(0), i, None, method="detect"))(images)
        first, overlap = matched(variables, images, truth)
        sides = [np.asarray(x[..., 2:] - x[..., :2]) for x in first]
        # nine points, `start` apart: the unbiased deviation is start * sqrt(6 / 8), a box two of them
        for side in sides:
            np.testing.assert_allclose(side, start * 3**0.5, atol=0.5)
        sure[start] = float(np.asarray(overlap)[truth.mask[0]].max())
    assert sure[2.0] > 0.5 > sure[0.0]


def test_wrong_options():
    for bad, name in (
        ({"distance": "log"}, "distance"),
        ({"centerness_on": "all"}, "centerness_on"),
        ({"box_loss": "l1"}, "box_loss"),
        ({"clip_boxes": "never"}, "clip_boxes"),
    ):
        model = tiny.make(FCOS, level_limits=(32.0, 64.0), norm_groups=4, **bad)
        with pytest.raises(ValueError, match=name):
            jax.eval_shape(lambda m=model: m.init(jax.random.key(0), tiny.images(1), None, method="detect"))
    with pytest.raises(ValueError, match="level_limits"):
        jax.eval_shape(lambda: tiny.make(FCOS).init(jax.random.key(0), tiny.images(1), None, method="detect"))


SHAPES = [(8, 12), (4, 6), (2, 3)]


def maps_of_truth(kind, model, truth):
    """Raw predictions that say exactly what the matches say: class sure, boxes the matched ones."""
    apply = lambda *args, method: model.apply({"params": PARAMS[kind]}, *args, method=method)  # noqa: E731
    if kind == "retinanet":
        match = apply(SHAPES, truth, method="match")[0]
        anchors = jnp.concatenate(apply(SHAPES, method="anchors"))
    elif kind == "reppoints":
        match = apply(SHAPES, truth, method="match")[0]
    else:
        match = apply(SHAPES, truth, method="match")
    positive, index = match >= 0, jnp.maximum(match, 0)
    boxes = jnp.take_along_axis(truth.boxes, index[..., None], axis=1)
    labels = jnp.where(positive, jnp.take_along_axis(truth.labels, index, axis=1), -1)
    maps = {"class": 40.0 * jax.nn.one_hot(labels, tiny.CLASSES) - 20.0}
    if kind == "retinanet":
        deltas = geometry.encode_deltas(anchors[None], jnp.where(positive[..., None], boxes, anchors[None]))
        maps["box"] = deltas
    elif kind.startswith("fcos"):
        points = jnp.concatenate(apply(SHAPES, method="points"))[None]
        maps["box"] = jnp.where(positive[..., None], geometry.encode_distances(points, boxes), 1.0)
        maps["centerness"] = jnp.full((*match.shape, 1), 20.0)
    else:
        strides = np.repeat(model.strides, [h * w for h, w in SHAPES])[None, :, None]
        points = jnp.concatenate(apply(SHAPES, method="points"))[None]
        middle = (geometry.center(boxes) - points) / strides
        half = (boxes[..., 2:] - boxes[..., :2]) / 2 / strides
        # four points on either side of the ninth have their distance from it as unbiased deviation
        side = jnp.asarray([-1.0] * 4 + [0.0] + [1.0] * 4).reshape(1, 1, POINTS, 1)
        moved = (middle[:, :, None] + side * half[:, :, None])[..., ::-1].reshape(*match.shape, 2 * POINTS)
        box = apply(jnp.where(positive[..., None], moved, 0.0), method="to_boxes")
        maps |= {"box": box, "box_first": box}
    cuts = np.cumsum([h * w for h, w in SHAPES])[:-1] * (match.shape[1] // sum(h * w for h, w in SHAPES))
    return {
        name: [x.reshape(len(match), h, w, -1) for x, (h, w) in zip(jnp.split(v, cuts, axis=1), SHAPES, strict=True)]
        for name, v in maps.items()
    }


# all that these maps need of the parameters
PARAMS = {"retinanet": {}, "fcos": {"scales": jnp.ones(3)}, "fcos_tricks": {"scales": jnp.ones(3)}}
PARAMS["reppoints"] = {
    "moment_transfer": jnp.zeros(2),
    "class_deform_kernel": jnp.zeros((3, 3, 16, 16)),
    "second_deform_kernel": jnp.zeros((3, 3, 16, 16)),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k in ("fcos", "reppoints") else pytest.mark.long) for k in KINDS]
)
def test_truth_comes_back(kind):
    """The box terms are 0, the class term nearly so, and detection gives each box and label once."""
    model = tiny.make(KINDS[kind][0], **options(kind))
    truth = TRUTH.replace(sizes=None)
    apply = lambda *args, method: model.apply({"params": PARAMS[kind]}, *args, method=method)  # noqa: E731
    maps = steps.jit_once(lambda t: maps_of_truth(kind, model, t))(truth)
    # the truth is an argument: XLA would take a minute to fold constants
    terms = steps.jit_once(lambda m, t: apply(m, t, method="losses_from_maps"))(maps, truth)
    for name, value in terms.items():
        if name == "loss_centerness":
            continue  # these maps are sure of the centre everywhere
        assert value < 1e-4, name
    sizes = jnp.asarray([tiny.CANVAS] * 2, jnp.int32)
    found = steps.jit_once(lambda m: apply(m, sizes, method="detect_from_maps"))(maps)
    for i in range(2):
        real, mask = np.asarray(found.scores[i]) > 0.5, np.asarray(truth.mask[i])
        got = np.column_stack([np.asarray(found.labels[i]), np.asarray(found.boxes[i])])[real]
        expected = np.column_stack([np.asarray(truth.labels[i]), np.asarray(truth.boxes[i])])[mask]
        np.testing.assert_allclose(got[got[:, 0].argsort()], expected, atol=1e-2)
