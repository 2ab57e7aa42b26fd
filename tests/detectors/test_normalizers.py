"""What losses are divided by: one batch in two halves trains as the whole batch does, and names have to be returned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dyhead_jax.detectors.retinanet import RetinaNet
from dyhead_jax.training import steps
from dyhead_jax.types import Batch
from tests.detectors import tiny
from tests.detectors.kinds import KINDS
from tests.tiny_detector import max_relative_difference, quickly_compiled

pytestmark = pytest.mark.long

# 2, 3, 0 and 1 boxes: every second image makes a half, so one half has 2 boxes and the other 4
TRUTH = tiny.truth(
    [[[10, 10, 34, 40], [50, 20, 80, 60]], [[4, 30, 20, 60], [30, 5, 90, 55], [60, 40, 80, 60]], [], [[4, 3, 20, 20]]],
    sizes=[tiny.CANVAS, (60, 90), (40, 96), (64, 50)],
)
# every anchor and every proposal trains, so that nothing is random
ALL_SAMPLES = {
    "rpn_samples": 10000,
    "rpn_positive_fraction": 1.0,
    "roi_samples": 10000,
    "roi_positive_fraction": 1.0,
}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_two_halves_train_as_the_whole(kind):
    cls, options = KINDS[kind]
    model = tiny.make(cls, blocks=0, **options | (ALL_SAMPLES if kind == "faster_rcnn" else {}))
    variables = tiny.init(model, seed=2)
    if kind == "borderdet":  # coarse boxes of a useful size, so that some are corrected
        variables["params"]["box_predictor"]["bias"] += 1.5
    parameters = steps.survey(model, (64, 64))
    optimizer = optax.sgd(0.01)
    state = steps.create_state(parameters, optimizer, {"params": variables["params"], "batch_stats": {}})
    batch = Batch(images=(60 * tiny.images(4) + 120).astype(jnp.uint8), ground_truth=TRUTH)
    after = {}
    for accumulate in (1, 2):
        step = jax.jit(steps.make_train_step(model, optimizer, lambda _: 0.01, parameters, accumulate=accumulate))
        after[accumulate] = quickly_compiled(step, state, batch)(state, batch)
    (whole, whole_metrics), (halves, halves_metrics) = after[1], after[2]
    assert all(np.isfinite(value) and value > 0 for value in whole_metrics.values())
    assert max_relative_difference(halves_metrics, whole_metrics) < 1e-4
    assert max_relative_difference(whole.params, state.params) > 1e-4
    change = jax.tree.map(lambda new, old: np.asarray(new - old), whole.params, state.params)
    change_of_halves = jax.tree.map(lambda new, old: np.asarray(new - old), halves.params, state.params)
    gap = jax.tree.map(np.subtract, change_of_halves, change)
    assert float(optax.tree.norm(gap)) < 1e-3 * float(optax.tree.norm(change))


def test_counting_draws_the_samples_of_the_losses():
    cls, options = KINDS["faster_rcnn"]
    model = tiny.make(cls, blocks=0, **options, rpn_samples=8, roi_samples=8, empty_counts_one=True)
    variables = tiny.init(model)

    @steps.jit_once
    def run(key):
        given = {"rngs": {"sampling": key}}
        counts = model.apply(variables, tiny.images(4), TRUTH, method="count", **given)
        alone = model.apply(variables, tiny.images(4), TRUTH, method="losses", **given)
        told = model.apply(variables, tiny.images(4), TRUTH, normalizers=counts, method="losses", **given)
        return counts, alone, told

    counts, alone, told = run(jax.random.key(5))
    assert alone == told
    assert counts["anchors"] == 4 * 8 + 1  # one image has no boxes
    assert counts["proposals"] == 4 * 8


class Forgetful(RetinaNet):
    def loss_terms(self, maps, targets, normalizers):
        return {"loss": 1.0 / normalizers["boxes"]}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_normalizer_that_is_not_returned_is_an_error(accumulate):
    model = tiny.make(Forgetful, blocks=0, towers=0)
    parameters = steps.survey(model, (64, 64))
    optimizer = optax.sgd(0.01)
    state = steps.create_state(parameters, optimizer, {"params": tiny.init(model)["params"], "batch_stats": {}})
    step = steps.make_train_step(model, optimizer, lambda _: 0.01, parameters, accumulate=accumulate)
    batch = Batch(images=tiny.images(4), ground_truth=TRUTH)
    with pytest.raises(KeyError, match="normalizer 'boxes'; normalizers returns positives"):
        jax.eval_shape(step, state, batch)
