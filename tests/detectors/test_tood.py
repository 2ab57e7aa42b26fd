"""TOOD's head: the aligned probability and the deformed boxes against their formulas, and the whole on ATSS."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.detectors.tood import TOOD, aligned_logits, deformed
from dyhead_jax.training import steps
from tests.detectors import tiny
from tests.ops.deform_conv_reference import bilinear
from tests.variants.reference import sigmoid

SMALL = {"layers": 2, "norm_groups": 4, "anchor_scale": 2.0}


def test_the_logit_is_that_of_the_root_of_the_product():
    logits, alignment = np.linspace(-30, 9, 40)[:, None], np.array([[-20.0, -3.0, 0.0, 4.0]])
    found = np.asarray(
        aligned_logits(jnp.asarray(logits, jnp.float32), jnp.asarray(alignment, jnp.float32)), np.float64
    )
    wanted = np.sqrt(sigmoid(logits) * sigmoid(alignment))
    np.testing.assert_allclose(sigmoid(found), wanted, rtol=1e-5)
    gradient = jax.grad(lambda x: aligned_logits(x, x))
    assert all(np.isfinite(gradient(x)) for x in (-200.0, 0.0, 200.0))
    assert np.isfinite(aligned_logits(jnp.float32(200.0), jnp.float32(200.0)))


def test_each_coordinate_is_read_at_its_own_place():
    draw = np.random.default_rng(0)
    low = draw.uniform(0, 50, (1, 4, 5, 2))
    boxes = np.concatenate([low, low + draw.uniform(20, 60, (1, 4, 5, 2))], axis=-1)
    offsets = draw.normal(0, 1.5, (1, 4, 5, 8))
    found = np.asarray(jax.jit(deformed)(jnp.asarray(boxes, jnp.float32), jnp.asarray(offsets, jnp.float32)))
    stayed = 0
    for i, j in np.ndindex(4, 5):
        points = np.clip(offsets[0, i, j].reshape(4, 2) + np.array([i, j]), 0, [3, 4])
        moved = np.array([bilinear(boxes[0, :, :, c : c + 1], *points[c])[0] for c in range(4)])
        wrong = bool(np.any(moved[2:] <= moved[:2]))
        stayed += wrong
        np.testing.assert_allclose(found[0, i, j], boxes[0, i, j] if wrong else moved, rtol=1e-5)
    assert 0 < stayed < 10


def test_it_has_the_maps_of_atss_and_says_what_predicts_positions():
    model = tiny.make(TOOD, **SMALL)
    parameters = steps.survey(model, tiny.CANVAS)
    assert {path[0] for path in parameters.offsets} == {"offset_predictor"}
    assert "class_predictor" in {path[0] for path in parameters.classes}
    maps = jax.eval_shape(
        lambda v: model.apply(v, tiny.images(2), None, method="features"), {"params": parameters.shapes["params"]}
    )
    assert [x.shape for x in maps["class"]] == [(2, 8, 12, 3), (2, 4, 6, 3), (2, 2, 3, 3)]
    assert [x.shape[-1] for x in maps["box"] + maps["centerness"]] == [4, 4, 4, 1, 1, 1]


def test_towers_are_refused():
    with pytest.raises(ValueError, match="TOOD towers is 4; its layers take their place, so it must be 0"):
        steps.survey(tiny.make(TOOD, towers=4), tiny.CANVAS)


@pytest.mark.long
def test_it_starts_as_the_paper_says_and_all_of_it_learns():
    model = tiny.make(TOOD, blocks=0, **SMALL)
    truth = tiny.truth([[[2, 2, 60, 62]], [[16, 4, 80, 60]]], sizes=[[64, 96], [64, 96]])
    fresh = steps.jit_once(lambda k, i: model.init(k, i, None, method="detect"))(jax.random.key(0), tiny.images(1))
    maps = steps.jit_once(lambda v, i: model.apply(v, i, None, method="features"))(fresh, tiny.images(2))
    np.testing.assert_allclose(sigmoid(np.asarray(maps["class"][0], np.float64)), 0.01, rtol=0.3)
    assert max(float(jnp.abs(x).max()) for x in maps["box"]) < 0.5  # near the anchors

    variables = tiny.init(model)

    @steps.jit_once
    def gradients(v):
        return jax.grad(lambda v: sum(model.apply(v, tiny.images(2), truth, method="losses").values()))(v)

    for path, g in jax.tree_util.tree_leaves_with_path(gradients(variables)["params"]):
        assert np.isfinite(g).all(), path
        assert np.any(np.asarray(g) != 0), path
