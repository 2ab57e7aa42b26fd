"""Geometry, coders, suppression and assignment for any boxes, against the same rules written plainly."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dyhead_jax.boxes import anchors as grids
from dyhead_jax.boxes import assign, geometry
from dyhead_jax.boxes.nms import nms
from tests.properties import drawn

N = 8
place = st.floats(-100, 400, width=32, allow_subnormal=False)
side = st.floats(0, 500, width=32, allow_subnormal=False)  # XLA takes those for zero


@st.composite
def boxes(draw, least=0.0):
    """(N, 4) float32 with sides of at least `least`, whole numbers among them, equal ones too."""
    corner = draw(
        hnp.arrays(
            np.float32, (N, 2), elements=st.floats(-100, 400, width=32, allow_subnormal=False), fill=st.just(3.0)
        )
    )
    size = draw(hnp.arrays(np.float32, (N, 2), elements=side, fill=st.just(16.0)))
    return np.concatenate([corner, corner + np.maximum(size, np.float32(least))], axis=1)


def plain_iou(a, b):
    """float64, one pair."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    width, height = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / max(sum(areas) - width * height, 1e-6)


pairwise, union_free = jax.jit(geometry.pairwise_iou), jax.jit(geometry.pairwise_iof)


@drawn
@given(a=boxes(least=0.125), b=boxes(least=0.125))
def test_overlaps(a, b):
    got = np.asarray(pairwise(a, b))
    np.testing.assert_allclose(got, [[plain_iou(x, y) for y in b] for x in a], atol=5e-3)
    np.testing.assert_allclose(got, np.asarray(pairwise(b, a)).T, rtol=1e-5)
    assert (got >= 0).all()
    assert (got <= 1.001).all()
    assert (np.asarray(union_free(a, b)) >= got - 5e-3).all()  # the area of one is part of the union
    own = np.diagonal(np.asarray(pairwise(a, a)))
    np.testing.assert_allclose(own, 1, atol=5e-3)


giou = jax.jit(lambda a, b: (geometry.giou(a, b), geometry.giou(a, b, "added"), geometry.iou(a, b)))


@drawn
@given(a=boxes(least=1), b=boxes(least=1))
def test_generalised_iou_is_below_iou(a, b):
    for value in giou(a, b)[:2]:
        assert (value <= giou(a, b)[2] + 1e-4).all()
        assert (value >= -1.0001).all()


STD = (0.1, 0.1, 0.2, 0.2)
coded = jax.jit(lambda p, b: geometry.decode_deltas(p, geometry.encode_deltas(p, b, STD), STD))
distances = jax.jit(lambda p, b: geometry.decode_distances(p, geometry.encode_distances(p, b)))


@drawn
@given(priors=boxes(least=8), targets=boxes(least=8))
def test_coders_there_and_back(priors, targets):
    """Sides differ by less than 1000 / 16 here, where decoding would clamp."""
    np.testing.assert_allclose(coded(priors, targets), targets, atol=2e-3)
    np.testing.assert_allclose(distances(priors[:, :2], targets), targets, atol=2e-4)


clip = jax.jit(geometry.clip)
centerness = jax.jit(geometry.centerness)


@drawn
@given(own=boxes(), size=st.tuples(st.integers(1, 300), st.integers(1, 300)), points=boxes())
def test_clipping_and_centerness(own, size, points):
    sizes = np.array([size], np.int32)
    clipped = np.asarray(clip(own, sizes))
    np.testing.assert_array_equal(clipped, np.clip(own, 0, np.array([size[1], size[0]] * 2, np.float32)[None]))
    np.testing.assert_array_equal(clip(clipped, sizes), clipped)
    value = np.asarray(centerness(points[:, :2], own))
    assert ((value >= 0) & (value <= 1)).all()
    inside = (points[:, :2] > own[:, :2]).all(1) & (points[:, :2] < own[:, 2:]).all(1)
    assert (value[~inside] == 0).all()


suppress = jax.jit(lambda b, s, c, t: nms(b, s, c, t, 5))


@drawn
@given(
    own=boxes(least=1),
    scores=hnp.arrays(np.float32, N, elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
    labels=hnp.arrays(np.int32, N, elements=st.integers(0, 1)),
    threshold=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_suppression_is_greedy(own, scores, labels, threshold):
    """With ties, which the earlier box wins, and boxes without a score."""
    overlap = np.asarray(pairwise(own, own))
    left, expected = [i for i in np.argsort(-scores, kind="stable") if scores[i] > 0], []
    while left and len(expected) < 5:
        best, *rest = left
        expected.append(best)
        left = [i for i in rest if labels[i] != labels[best] or overlap[i, best] <= np.float32(threshold)]
    index, real = suppress(own, scores, labels, np.float32(threshold))
    assert np.asarray(index)[np.asarray(real)].tolist() == expected
    assert not real[len(expected) :].any()


SIZES, STRIDES = [(8, 12), (4, 6), (2, 3)], (8, 16, 32)
ANCHORS = np.concatenate(grids.anchors(SIZES, STRIDES))
COUNTS = [h * w for h, w in SIZES]
VALID = np.ones(len(ANCHORS), bool)
adaptive = jax.jit(lambda b, mask: assign.atss(jnp.asarray(ANCHORS), COUNTS, b, mask, jnp.asarray(VALID), 4))
by_iou = jax.jit(lambda b, mask: assign.max_iou(jnp.asarray(ANCHORS), b, mask))
by_point = jax.jit(
    lambda b, mask: assign.fcos(jnp.asarray(CENTERS), b, mask, jnp.broadcast_to(jnp.array([[0.0, 1e8]]), CENTERS.shape))
)
CENTERS = (ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2
in_picture = st.tuples(*(st.floats(*limits, width=32) for limits in ((0, 60), (0, 40), (4, 60), (4, 60))))
truths = st.lists(in_picture, max_size=4)


@drawn
@given(found=truths, padding=st.integers(0, 2**31))
def test_assignment_keeps_to_real_boxes_whatever_the_padding_holds(found, padding):
    own = np.array([[x, y, x + w, y + h] for x, y, w, h in found], np.float32).reshape(-1, 4)
    mask = np.arange(6) < len(own)
    noise = np.random.default_rng(padding).uniform(0, 96, (2, 6, 4)).astype(np.float32)
    filled = [np.concatenate([own, rest[len(own) :]]) for rest in noise]
    first, iou = (np.asarray(x) for x in adaptive(filled[0], mask))
    np.testing.assert_array_equal(first, adaptive(filled[1], mask)[0])
    overlap = np.asarray(pairwise(np.resize(own, (N, 4)), ANCHORS)) if len(own) else np.zeros((N, len(ANCHORS)))
    positive = first >= 0
    assert (first[positive] < len(own)).all()
    assert (first[~positive] == assign.MatchStatus.NEGATIVE).all()
    np.testing.assert_allclose(iou[positive], overlap[first[positive], positive], rtol=1e-6)
    assert (iou[~positive] == 0).all()
    center = CENTERS[positive]
    assert (center > own[first[positive], :2]).all()
    assert (center < own[first[positive], 2:]).all()
    for run in (by_iou, by_point):
        match = np.asarray(run(filled[0], mask))
        np.testing.assert_array_equal(match, run(filled[1], mask))
        assert (match < len(own)).all()
        if not len(own):
            assert (match == assign.MatchStatus.NEGATIVE).all()
    for row, box in enumerate(own):  # the anchor that fits a box best takes it or another that fits as well
        best = int(np.argmax(overlap[row]))
        if overlap[row, best] > 0:
            taken = int(by_iou(filled[0], mask)[best])
            assert taken >= 0, box
