"""ATSS' divisor_eps, which real values make visible in float64 only: here it is 1; and its choices."""

import jax
import numpy as np
import pytest

from dyhead_jax.detectors.atss import ATSS
from dyhead_jax.training import steps
from tests.detectors import tiny
from tests.detectors.test_dense import NOBODY, SHAPES, TRUTH

DRAW = np.random.default_rng(0)
MAPS = {
    name: [DRAW.normal(size=(2, *shape, channels)).astype(np.float32) for shape in SHAPES]
    for name, channels in {"class": tiny.CLASSES, "box": 4, "centerness": 1}.items()
}
PARAMS = {"params": {"scales": np.ones(len(SHAPES))}}  # all that is read of them behind raw predictions


def losses(truth, maps=MAPS, **options):
    """Of raw predictions."""
    model = tiny.make(ATSS, **options)
    apply = lambda m, t: model.apply(PARAMS, m, t, method="losses_from_maps")  # noqa: E731
    if options.get("axis_name") is None:
        return steps.jit_once(apply)(maps, truth)
    each = jax.vmap(apply, axis_name=options["axis_name"])
    terms = steps.jit_once(each)(*jax.tree.map(lambda x: x[:, None], (maps, truth)))
    return {name: np.mean(values) for name, values in terms.items()}


@pytest.mark.long
def test_divisor_eps():
    """Of n positives, two terms shrink by n / (n + 1), the box term by 1 / 2."""
    match, _ = tiny.make(ATSS).apply(PARAMS, SHAPES, TRUTH, method="match")
    positives = int(np.sum(np.asarray(match) >= 0))
    assert positives > 1
    plain, changed = losses(TRUTH), losses(TRUTH, divisor_eps=1.0)
    share = {
        "loss_class": positives / (positives + 1),
        "loss_box": 1 / 2,
        "loss_centerness": positives / (positives + 1),
    }
    for name, value in plain.items():
        assert value > 0
        np.testing.assert_allclose(changed[name], value * share[name], rtol=1e-5, err_msg=name)
    alone = losses(NOBODY), losses(NOBODY, divisor_eps=1.0)  # the divisor is 1 where there is no positive
    np.testing.assert_allclose(alone[1]["loss_class"], alone[0]["loss_class"] / 2, rtol=1e-5)


def test_divisor_eps_on_two_devices():
    """The mean over devices of the losses of one image each is the loss of the batch, as without it."""
    whole = losses(TRUTH, divisor_eps=1.0)
    for name, value in losses(TRUTH, divisor_eps=1.0, axis_name="batch").items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["giou_eps", "delta_clamp", "rank_by", "clip_boxes"])
def test_wrong_choices(name):
    with pytest.raises(ValueError, match=f"ATSS {name} is 'both ways'; it may be '"):
        tiny.make(ATSS, **{name: "both ways"}).apply(PARAMS, SHAPES, TRUTH, method="match")
