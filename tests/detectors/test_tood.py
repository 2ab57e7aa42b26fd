"""TOOD's head: the aligned probability and the deformed boxes against their formulas, and the whole on ATSS."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.detectors.tood import TOOD, aligned_logits, deformed
from dyhead_jax.training import steps
from dyhead_jax.training.parameters import trace_parameters
from tests.detectors import tiny
from tests.ops.deform_conv_reference import bilinear
from tests.variants.reference import sigmoid

SMALL = {"layers": 2, "norm_groups": 4, "anchor_scale": 2.0}


def test_the_logit_is_that_of_the_root_of_the_product():
    grid = np.meshgrid(np.linspace(-30, 9, 40), [-20.0, -3.0, 0.0, 4.0])
    logits, alignment = (x.astype(np.float32) for x in grid)

    @steps.jit_once
    def with_gradients(a, m):
        values, back = jax.vjp(aligned_logits, a, m)
        return values, back(jnp.ones_like(values))

    found, _ = with_gradients(logits, alignment)
    wanted = np.sqrt(sigmoid(grid[0]) * sigmoid(grid[1]))
    np.testing.assert_allclose(sigmoid(np.asarray(found, np.float64)), wanted, rtol=1e-5)
    for far in (-200.0, 200.0):
        extreme = np.full_like(logits, far)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(with_gradients(extreme, extreme)))


def test_each_coordinate_is_read_at_its_own_place():
    draw = np.random.default_rng(0)
    low = draw.uniform(0, 50, (1, 4, 5, 2))
    boxes = np.concatenate([low, low + draw.uniform(5, 30, (1, 4, 5, 2))], axis=-1)
    offsets = draw.normal(0, 1.5, (1, 4, 5, 8))
    found = np.asarray(steps.jit_once(deformed)(boxes.astype(np.float32), offsets.astype(np.float32)))
    stayed = 0
    for i, j in np.ndindex(4, 5):
        points = np.clip(offsets[0, i, j].reshape(4, 2) + np.array([i, j]), 0, [3, 4])
        moved = np.array([bilinear(boxes[0, :, :, c : c + 1], *points[c])[0] for c in range(4)])
        wrong = bool(np.any(moved[2:] <= moved[:2]))
        stayed += wrong
        np.testing.assert_allclose(found[0, i, j], boxes[0, i, j] if wrong else moved, rtol=1e-5)
    assert 0 < stayed < 15


def test_it_has_the_maps_of_atss_and_says_what_predicts_positions():
    model = tiny.make(TOOD, blocks=0, **SMALL)
    init = lambda: model.init_with_output(jax.random.key(0), tiny.images(2), None, method="features")  # noqa: E731
    parameters = trace_parameters(model, lambda: init()[1])
    assert {path[0] for path in parameters.offsets} == {"offset_predictor"}
    assert "class_predictor" in {path[0] for path in parameters.classes}
    maps, _ = jax.eval_shape(init)
    assert [x.shape for x in maps["class"]] == [(2, 8, 12, 3), (2, 4, 6, 3), (2, 2, 3, 3)]
    assert [x.shape[-1] for x in maps["box"] + maps["centerness"]] == [4, 4, 4, 1, 1, 1]


def test_towers_are_refused():
    with pytest.raises(ValueError, match="TOOD towers is 4; its layers take their place, so it must be 0"):
        steps.survey(tiny.make(TOOD, towers=4), tiny.CANVAS)


@pytest.mark.long
def test_it_starts_as_the_paper_says_and_all_of_it_learns():
    model = tiny.make(TOOD, blocks=0, **SMALL)
    truth = tiny.truth([[[2, 2, 60, 62]], [[16, 4, 80, 60]]], sizes=[[64, 96], [64, 96]])

    @steps.jit_once
    def start(key, images):
        return model.init_with_output(key, images, None, method="features")

    maps, fresh = start(jax.random.key(0), tiny.images(2))
    np.testing.assert_allclose(sigmoid(np.asarray(maps["class"][0], np.float64)), 0.01, rtol=0.3)
    assert max(float(jnp.abs(x).max()) for x in maps["box"]) < 0.5  # near the anchors

    @steps.jit_once
    def gradients(v):
        return jax.grad(lambda v: sum(model.apply(v, tiny.images(2), truth, method="losses").values()))(v)

    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: draw.normal(0, 0.2, x.shape).astype(x.dtype), fresh)
    for path, g in jax.tree_util.tree_leaves_with_path(gradients(variables)["params"]):
        assert np.isfinite(g).all(), path
        assert np.any(np.asarray(g) != 0), path
