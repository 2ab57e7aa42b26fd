"""Golden cases E02, E05 and E06: box coders and overlaps, losses with gradients, NMS and the choice of candidates.

Settings come from the manifests, which state some in words, and from the names of the arrays.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.boxes import geometry, postprocess
from dyhead_jax.boxes.nms import nms
from dyhead_jax.detectors import losses
from tests.parity.goldens import cases, relative, stated


def each(prefix):
    return pytest.mark.parametrize("case", cases(prefix), ids=lambda c: c.name)


def names_like(case, pattern):
    """The keys that match, and the pattern's first group of each."""
    found = [(key, match[1]) for key in case.keys if (match := re.fullmatch(pattern, key))]
    assert found, f"{case.name} has no {pattern}"
    return found


def check_close(got, case):
    for name, value in got.items():
        assert relative(value, case[name]) <= 1e-5, name


def size_of(case):
    return jnp.asarray([case.params["H"], case.params["W"]])[None]


@each("E02")
def test_deltas(case):
    """std in the name: all 1, or one for places and twice as much for sizes."""
    priors, boxes = case["in/priors"], case["in/gt"]
    for _, std in names_like(case, r"delta_std([\d.]+)/encode"):
        place = float(std)
        stds = (place, place, *((place, place) if place == 1 else (2 * place, 2 * place)))
        decoded = geometry.decode_deltas(priors, case["in/deltas"], stds)
        got = {
            "encode": geometry.encode_deltas(priors, boxes, stds),
            "decode": decoded,
            "decode_clip": geometry.clip(decoded, size_of(case)),
        }
        check_close({f"delta_std{std}/{name}": value for name, value in got.items()}, case)


@each("E02")
def test_distances(case):
    """encode_maxdis: cut to 0 ... max - 0.1, as the reference's bbox2distance does where a limit is given."""
    points, decoded = case["in/points"], geometry.decode_distances(case["in/points"], case["in/dist"])
    encoded = geometry.encode_distances(points, case["in/gt"])
    got = {
        "distance/encode": encoded,
        "distance/decode": decoded,
        "distance/decode_clip": geometry.clip(decoded, size_of(case)),
    }
    for key, most in names_like(case, r"distance/encode_maxdis([\d.]+)"):
        got[key] = jnp.clip(encoded, 0.0, float(most) - 0.1)
    check_close(got, case)


@each("E02")
def test_sides(case):
    """TBLR: distances from the prior's centre as (top, bottom, left, right), in prior heights and widths over a
    normaliser. No detector here has that coder; it is our distances in another order and unit."""
    priors = case["in/priors"]
    centers, size = geometry.center(priors), np.asarray(priors[:, 2:] - priors[:, :2])
    unit = stated(case.manifest["what"], r"TBLR \(normalizer ([\d.]*\d)") * size[:, [1, 1, 0, 0]]
    encoded = geometry.encode_distances(centers, case["in/gt"])[:, np.array([1, 3, 0, 2])] / unit
    decoded = geometry.decode_distances(centers, (case["in/tblr"] * unit)[:, [2, 0, 3, 1]])
    clipped = geometry.clip(decoded, size_of(case))
    check_close({"tblr/encode": encoded, "tblr/decode": decoded, "tblr/decode_clip": clipped}, case)


@each("E02")
def test_overlaps(case):
    priors, boxes = case["in/priors"], case["in/gt"]
    some = boxes[: case.shape("overlaps/iou")[1]]
    aligned = jax.vmap(lambda prior, box: geometry.pairwise_iof(prior[None], box[None])[0, 0])
    got = {
        "iou": geometry.pairwise_iou(priors, some),
        "iof": geometry.pairwise_iof(priors, some),
        "giou": geometry.giou(priors[:, None], some[None]),
        "iou_aligned": geometry.iou(priors, boxes),
        "iof_aligned": aligned(priors, boxes),
        "giou_aligned": geometry.giou(priors, boxes),
    }
    check_close({f"overlaps/{name}": value for name, value in got.items()}, case)


NUMBER = r"(\d*\.?\d+)"


def factor(case, name):
    """Weight over normaliser."""
    text = case.params[name]
    weight = stated(text, rf"loss_weight {NUMBER}") if "loss_weight" in text else 1.0
    return weight, weight / stated(text, rf"avg(?:_factor)? {NUMBER}")


def check_loss(case, name, loss, predicted, of):
    """Value and gradient of of * sum(loss), and the reference's own loss of each element where the case has it."""
    value, gradient = jax.jit(jax.value_and_grad(lambda p: of * jnp.sum(loss(p))))(predicted)
    assert relative(value, case[f"{name}/loss"]) <= 1e-5, name
    assert relative(gradient, case[f"{name}/grad"]) <= 1e-4, name


@each("E05")
@pytest.mark.parametrize("name", ["giou", "iou_log", "iou_linear"])
def test_box_losses(case, name):
    loss = {"giou": losses.giou, "iou_log": losses.iou, "iou_linear": lambda p, t: losses.iou(p, t, "linear")}[name]
    predicted, target, weight = case["box/pred"], case["box/target"], case["box/weight"]
    own_weight, of = factor(case, name)  # the own weight is inside the reference's element-wise values
    assert relative(own_weight * loss(predicted, target), case[f"{name}/elementwise"]) <= 1e-5
    check_loss(case, name, lambda p: loss(p, target) * weight, predicted, of)


@each("E05")
def test_offset_losses(case):
    predicted, target, weight = case["reg/pred"], case["reg/target"], case["box/weight"][:, None]
    check_loss(case, "l1", lambda p: losses.l1(p, target) * weight, predicted, factor(case, "l1")[1])
    for key, beta in names_like(case, rf"smooth_l1_b{NUMBER}/loss"):
        smooth = lambda p, beta=float(beta): losses.smooth_l1(p, target, beta) * weight  # noqa: E731
        check_loss(case, key.removesuffix("/loss"), smooth, predicted, factor(case, "smooth")[1])


@each("E05")
def test_class_losses(case):
    logits, labels, weight = case["focal/logits"], case["focal/target"], case["focal/weight"]
    text = case.params["focal"]
    gamma, alpha = stated(text, rf"gamma {NUMBER}"), stated(text, rf"alpha {NUMBER}")
    targets = losses.one_hot(jnp.where(labels < logits.shape[1], labels, -1), logits.shape[1])
    assert relative(losses.focal(logits, targets, alpha, gamma), case["focal/elementwise"]) <= 1e-5
    focal = lambda x: losses.focal(x, targets, alpha, gamma) * weight[:, None]  # noqa: E731
    entropy = lambda x: losses.binary_cross_entropy(x, case["bce/target"])  # noqa: E731
    softmax = lambda x: losses.cross_entropy(x, labels) * weight  # noqa: E731
    for name, loss in {"focal": focal, "bce": entropy, "ce": softmax}.items():
        check_loss(case, name, loss, case[f"{name}/logits"], factor(case, name)[1])


@each("E06")
def test_nms(case):
    """Threshold and number in the name: batched_0.5, batched_0.5_max20, agnostic_0.5."""
    boxes, scores, labels = (jnp.asarray(case[f"in/{key}"]) for key in ("boxes", "scores", "labels"))
    for key, name in names_like(case, r"((?:batched|agnostic)_[\d.]+(?:_max\d+)?)/keep"):
        kind, threshold, *most = name.split("_")
        count = int(most[0].removeprefix("max")) if most else len(scores)
        classes = jnp.zeros_like(labels) if kind == "agnostic" else labels
        index, real = nms(boxes, scores, classes, float(threshold), count)
        kept = np.asarray(index)[np.asarray(real)]
        np.testing.assert_array_equal(kept, case[key])
        if f"{name}/dets" in case:
            got = np.concatenate([boxes[kept], scores[kept][:, None]], axis=1)
            np.testing.assert_allclose(got, case[f"{name}/dets"], atol=1e-5)


def rows(count):
    """Boxes that carry their own number."""
    return np.tile(np.arange(count, dtype=np.float32)[:, None], (1, 4))


@each("E06")
def test_multiclass(case):
    """Every pair above the threshold, without a cut before NMS (at the threshold of the first batched one)."""
    least = stated(case.manifest["what"], rf"multiclass_nms \(score_thr {NUMBER}")
    threshold = min(float(name) for _, name in names_like(case, r"batched_([\d.]+)/keep"))
    boxes, scores = jnp.asarray(case["multiclass/boxes"]), jnp.asarray(case["multiclass/scores"])[:, :-1]
    scores = jnp.where(scores > least, scores, 0.0)
    candidates = postprocess.select(boxes, scores, scores, scores.size)
    anchor = np.asarray(postprocess.select(rows(len(boxes)), scores, scores, scores.size).boxes[:, 0], int)
    index, real = nms(*candidates, threshold, len(candidates.scores))
    kept = np.asarray(index)[np.asarray(real)]
    pair = anchor * scores.shape[1] + np.asarray(candidates.labels)
    got = np.column_stack([*(np.asarray(v)[kept] for v in candidates), pair[kept]])  # x1 y1 x2 y2 score label pair
    expected = np.column_stack([case[f"multiclass/{name}"] for name in ("dets", "labels", "inds")])
    # equal scores come in no particular order there, and the cut at the most detections may fall among them
    np.testing.assert_array_equal(got[: len(expected), 4], expected[:, 4])
    assert set(map(tuple, expected)) <= set(map(tuple, got))


@each("E06")
def test_select(case):
    """The best pairs above the threshold."""
    scores, what = case["filter/scores"], case.manifest["what"]
    least, most = stated(what, rf"\(thr {NUMBER}"), int(stated(what, r"k (\d+)\)"))
    kept = postprocess.select(rows(len(scores)), scores, np.where(scores > least, scores, 0.0), most)
    real = np.asarray(kept.scores) > 0
    np.testing.assert_array_equal(kept.boxes[real, 0], case["filter/keep"])
    np.testing.assert_array_equal(kept.labels[real], case["filter/labels"])
    np.testing.assert_allclose(kept.scores[real], case["filter/out_scores"], rtol=1e-6)
