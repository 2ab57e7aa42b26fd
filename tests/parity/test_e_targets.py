"""Golden cases E01 to E06: priors, coders and overlaps, assigners, FCOS targets, losses with gradients, NMS.

E07 is in test_e_roi_align.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax import anchors as grids
from dyhead_jax import assign, losses, postprocess
from dyhead_jax import boxes as geometry
from dyhead_jax.ops.nms import nms
from tests.parity.goldens import cases, relative

STRIDES = (8, 16, 32, 64, 128)
RPN_STRIDES = (4, 8, 16, 32, 64)
PADDED = 9  # ground-truth boxes of an image, padding included


def each(prefix):
    return pytest.mark.parametrize("case", cases(prefix), ids=lambda c: c.name)


def padded(boxes):
    """Boxes and mask, padded with boxes that must not matter."""
    rows = np.tile(np.float32([0, 0, 150, 150]), (PADDED, 1))
    rows[: len(boxes)] = boxes
    return jnp.asarray(rows), jnp.arange(PADDED) < len(boxes)


def sizes_of(case, key="sizes"):
    return [tuple(size) for size in case.manifest["params"][key]]


@each("E01")
def test_priors(case):
    sizes = sizes_of(case)
    priors = {
        "retina": grids.anchors(sizes, STRIDES, grids.octaves(4.0), (0.5, 1.0, 2.0), 0.0),
        "atss_offset0": grids.anchors(sizes, STRIDES, center_offset=0.0),
        "atss_offset05": grids.anchors(sizes, STRIDES),
        "rpn": grids.anchors(sizes, RPN_STRIDES, (8.0,), (0.5, 1.0, 2.0), 0.0),
        "fcos_points": grids.points(sizes, STRIDES),
        "reppoints_points": grids.points(sizes, STRIDES, 0.0),
    }
    for name, levels in priors.items():
        for level, got in enumerate(levels):
            expected = case[f"{name}/l{level}"]
            np.testing.assert_allclose(got, expected[:, : got.shape[1]], rtol=1e-6, atol=1e-5, err_msg=name)


@each("E02")
def test_coders(case):
    priors, boxes, size = case["in/priors"], case["in/gt"], jnp.asarray([200, 272])
    assert (case.manifest["params"]["H"], case.manifest["params"]["W"]) == (200, 272)
    for name, std in {"delta_std1": (1.0,) * 4, "delta_std0.1": (0.1, 0.1, 0.2, 0.2)}.items():
        decoded = geometry.decode_deltas(priors, case["in/deltas"], std)
        assert relative(geometry.encode_deltas(priors, boxes, std), case[f"{name}/encode"]) <= 1e-5
        assert relative(decoded, case[f"{name}/decode"]) <= 1e-5
        assert relative(geometry.clip(decoded, size[None]), case[f"{name}/decode_clip"]) <= 1e-5
    points = case["in/points"]
    decoded = geometry.decode_distances(points, case["in/dist"])
    assert relative(geometry.encode_distances(points, boxes), case["distance/encode"]) <= 1e-5
    assert relative(decoded, case["distance/decode"]) <= 1e-5
    assert relative(geometry.clip(decoded, size[None]), case["distance/decode_clip"]) <= 1e-5


@each("E02")
def test_overlaps(case):
    priors, boxes = case["in/priors"], case["in/gt"]
    some = boxes[: case["overlaps/iou"].shape[1]]
    got = {
        "iou": geometry.pairwise_iou(priors, some),
        "iof": geometry.pairwise_iof(priors, some),
        "giou": geometry.giou(priors[:, None], some[None]),
        "iou_aligned": geometry.iou(priors, boxes),
        "giou_aligned": geometry.giou(priors, boxes),
    }
    for name, value in got.items():
        assert relative(value, case[f"overlaps/{name}"]) <= 1e-5, name


def retina_anchors(case):
    sizes = sizes_of(case)
    return jnp.concatenate(grids.anchors(sizes, STRIDES, grids.octaves(4.0), (0.5, 1.0, 2.0), 0.0))


def images_of(case):
    """Number of the image, its boxes padded, and their mask."""
    for i in sorted({key.partition("/")[0] for key in case.arrays}):
        yield i, *padded(case[f"{i}/gt"])


@each("E03")
def test_atss(case):
    sizes = sizes_of(case)
    anchors = jnp.concatenate(grids.anchors(sizes, STRIDES))
    counts = [h * w for h, w in sizes]
    run = jax.jit(lambda boxes, mask: assign.atss(anchors, counts, boxes, mask, jnp.ones(len(anchors), bool)))
    for i, boxes, mask in images_of(case):
        match, overlap = run(boxes, mask)
        np.testing.assert_array_equal(match + 1, case[f"{i}/atss.gt_inds"])
        positive = np.asarray(match) >= 0
        np.testing.assert_allclose(
            np.asarray(overlap)[positive], case[f"{i}/atss.max_overlaps"][positive], rtol=1e-4, atol=1e-6
        )


@each("E03")
@pytest.mark.parametrize("kind", ["retina", "rpn", "rcnn", "ignore"])
def test_max_iou(case, kind):
    rpn = jnp.concatenate(grids.anchors(sizes_of(case, "rpn_sizes"), RPN_STRIDES, (8.0,), (0.5, 1.0, 2.0), 0.0))
    thresholds = {
        "retina": {"positive": 0.5, "negative": 0.4},
        "rpn": {"positive": 0.7, "negative": 0.3, "min_positive": 0.3},
        "rcnn": {"positive": 0.5, "negative": 0.5, "low_quality": False},
        "ignore": {"positive": 0.5, "negative": 0.4, "ignore_iof": 0.5},
    }[kind]
    run = jax.jit(lambda priors, boxes, mask, *ignored: assign.max_iou(priors, boxes, mask, None, **thresholds))
    if kind == "ignore":
        run = jax.jit(
            lambda priors, boxes, mask, ignored, real: assign.max_iou(
                priors, boxes, mask, None, ignored_boxes=ignored, ignored_mask=real, **thresholds
            )
        )
    for i, boxes, mask in images_of(case):
        if f"{i}/maxiou_{kind}.gt_inds" not in case:
            assert not mask.any()  # an image without boxes has no regions to ignore either
            continue
        priors = {"rpn": rpn, "rcnn": case.arrays.get(f"{i}/rcnn_priors")}.get(kind, retina_anchors(case))
        ignored = padded(case[f"{i}/gt_ignore"]) if kind == "ignore" else ()
        match = run(priors, boxes, mask, *ignored)
        np.testing.assert_array_equal(match + 1, case[f"{i}/maxiou_{kind}.gt_inds"])


@each("E03")
def test_points(case):
    sizes = sizes_of(case)
    centers = jnp.concatenate(grids.points(sizes, STRIDES, 0.0))
    strides = jnp.asarray(np.repeat(STRIDES, [h * w for h, w in sizes]), jnp.float32)
    everywhere = jnp.ones(len(centers), bool)
    run = jax.jit(lambda boxes, mask: assign.points(centers, strides, boxes, mask, everywhere))
    for i, boxes, mask in images_of(case):
        expected = case.arrays.get(f"{i}/point.gt_inds", np.zeros(len(centers)))  # the case leaves out 0 boxes
        assert mask.any() or f"{i}/point.gt_inds" not in case
        np.testing.assert_array_equal(run(boxes, mask) + 1, expected)


@each("E04")
def test_fcos_targets(case):
    """plain: targets in pixels; plus: centre sampling, targets in strides."""
    sizes, background = sizes_of(case), 8
    points = grids.points(sizes, STRIDES)
    counts = [len(level) for level in points]
    ranges = jnp.asarray(np.repeat(np.float32(case.manifest["params"]["regress_ranges"]), counts, axis=0))
    reach = case.manifest["params"]["center_sample_radius"] * np.float32(STRIDES)
    flat = jnp.concatenate(points)
    images = sorted({key.split("/")[1].split(".")[0] for key in case.arrays if key.startswith("gt/")})
    for kind, radius in {"plain": None, "plus": jnp.asarray(np.repeat(reach, counts))}.items():
        run = jax.jit(lambda boxes, mask, radius=radius: assign.fcos(flat, boxes, mask, ranges, radius))
        labels, targets, centerness = [], [], []
        for i in images:
            boxes, mask = padded(case[f"gt/{i}.bboxes"])
            match = np.asarray(run(boxes, mask))
            own = np.append(case[f"gt/{i}.labels"], background)
            labels.append(own[match])  # -1 is the background's place
            sides = geometry.encode_distances(flat, boxes[np.maximum(match, 0)])
            targets.append(np.where(match[:, None] >= 0, sides, 0.0))
            centerness.append(np.where(match >= 0, geometry.centerness(flat, boxes[np.maximum(match, 0)]), -1.0))
        got_centerness, start = [], 0
        for level, (count, stride) in enumerate(zip(counts, STRIDES, strict=True)):
            part = slice(start, start + count)
            got = np.concatenate([t[part] for t in targets]) / (stride if kind == "plus" else 1)
            np.testing.assert_array_equal(np.concatenate([x[part] for x in labels]), case[f"{kind}/labels{level}"])
            np.testing.assert_allclose(got, case[f"{kind}/bbox_targets{level}"], atol=1e-4)
            got_centerness += [c for x in centerness for c in x[part] if c >= 0]
            start += count
        assert relative(got_centerness, case[f"{kind}/centerness_pos"]) <= 1e-5


def box_losses(case):
    """Name to (element-wise loss, predictions, targets, weight of each element, factor)."""
    predicted, target, weight = case["box/pred"], case["box/target"], case["box/weight"]
    smooth = lambda p, t: losses.smooth_l1(p, t, 0.11)  # noqa: E731
    offsets = case["reg/pred"], case["reg/target"], np.broadcast_to(weight[:, None], case["reg/pred"].shape)
    return {
        "giou": (losses.giou, predicted, target, weight, 2 / 9),
        "iou_log": (losses.iou, predicted, target, weight, 1 / 9),
        "iou_linear": (lambda p, t: losses.iou(p, t, "linear"), predicted, target, weight, 1 / 9),
        "l1": (losses.l1, *offsets, 1 / 11),
        "smooth_l1_b0.11": (smooth, *offsets, 0.5 / 11),
    }


@each("E05")
@pytest.mark.parametrize("name", ["giou", "iou_log", "iou_linear", "l1", "smooth_l1_b0.11"])
def test_box_losses(case, name):
    loss, predicted, target, weight, factor = box_losses(case)[name]
    if f"{name}/elementwise" in case:
        weighted = 2 if name == "giou" else 1  # its own weight is inside
        assert relative(weighted * loss(predicted, target), case[f"{name}/elementwise"]) <= 1e-5
    value, gradient = jax.value_and_grad(lambda p: factor * jnp.sum(loss(p, target) * weight))(predicted)
    assert relative(value, case[f"{name}/loss"]) <= 1e-5
    assert relative(gradient, case[f"{name}/grad"]) <= 1e-4


@each("E05")
def test_class_losses(case):
    logits, labels, weight = case["focal/logits"], case["focal/target"], case["focal/weight"]
    targets = losses.one_hot(jnp.where(labels < logits.shape[1], labels, -1), logits.shape[1])
    assert relative(losses.focal(logits, targets), case["focal/elementwise"]) <= 1e-5
    focal = lambda x: jnp.sum(losses.focal(x, targets) * weight[:, None]) / 17  # noqa: E731
    entropy = lambda x: jnp.sum(losses.binary_cross_entropy(x, case["bce/target"])) / 13  # noqa: E731
    softmax = lambda x: jnp.sum(losses.cross_entropy(x, labels) * weight) / 19  # noqa: E731
    for name, loss in {"focal": focal, "bce": entropy, "ce": softmax}.items():
        value, gradient = jax.value_and_grad(loss)(case[f"{name}/logits"])
        assert relative(value, case[f"{name}/loss"]) <= 1e-5, name
        assert relative(gradient, case[f"{name}/grad"]) <= 1e-4, name


@each("E06")
@pytest.mark.parametrize(("name", "threshold"), [("batched_0.5", 0.5), ("batched_0.6", 0.6), ("agnostic_0.5", 0.5)])
def test_nms(case, name, threshold):
    boxes, scores, labels = (jnp.asarray(case[f"in/{key}"]) for key in ("boxes", "scores", "labels"))
    labels = jnp.zeros_like(labels) if name.startswith("agnostic") else labels
    index, real = nms(boxes, scores, labels, threshold, len(scores))
    np.testing.assert_array_equal(np.asarray(index)[np.asarray(real)], case[f"{name}/keep"])
    if name == "batched_0.5":
        first, real = nms(boxes, scores, labels, threshold, 20)
        np.testing.assert_array_equal(first, case["batched_0.5_max20/keep"])
        got = np.concatenate([boxes[first], scores[first][:, None]], axis=1)
        np.testing.assert_allclose(got, case["batched_0.5_max20/dets"], atol=1e-5)
        assert real.all()


@each("E06")
def test_select_and_suppress(case):
    """multiclass: every pair above 0.3, without a cut before NMS at 0.5; filter: the best 100 pairs above 0.4."""
    boxes, scores = jnp.asarray(case["multiclass/boxes"]), jnp.asarray(case["multiclass/scores"])[:, :-1]
    scores = jnp.where(scores > 0.3, scores, 0.0)
    candidates = postprocess.select(boxes, scores, scores, scores.size)
    index, real = nms(*candidates, 0.5, len(candidates.scores))
    rows = [np.asarray(v)[np.asarray(index)[np.asarray(real)]] for v in candidates]
    got = np.column_stack([*rows])  # x1 y1 x2 y2 score label
    expected = np.column_stack([case["multiclass/dets"], case["multiclass/labels"]])
    # equal scores come in no particular order there, and the cut at 100 may fall among them
    np.testing.assert_array_equal(got[: len(expected), 4], expected[:, 4])
    assert set(map(tuple, expected)) <= set(map(tuple, got))

    scores = case["filter/scores"]
    rows = np.tile(np.arange(len(scores), dtype=np.float32)[:, None], (1, 4))
    kept = postprocess.select(rows, scores, np.where(scores > 0.4, scores, 0.0), 100)
    np.testing.assert_array_equal(kept.boxes[:, 0], case["filter/keep"])
    np.testing.assert_array_equal(kept.labels, case["filter/labels"])
    np.testing.assert_allclose(kept.scores, case["filter/out_scores"], rtol=1e-6)
