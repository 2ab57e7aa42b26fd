"""Golden cases E07: RoIAlign on four levels, adaptive, fixed and unaligned sampling; gradients of the maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.ops.roi_align import roi_align, roi_levels
from tests.parity.goldens import cases, nhwc, relative

STRIDES = (4, 8, 16, 32)
RULES = {"aligned_sr0": (0, True), "aligned_sr2": (2, True), "legacy_sr0": (0, False)}


@pytest.fixture(scope="module", params=cases("E07"), ids=lambda c: c.name)
def case(request):
    return request.param


def inputs(case):
    """Maps, boxes of each image padded with zero boxes, their levels, and the place of each golden box."""
    maps = [jnp.asarray(nhwc(case[f"feat{level}"])) for level in range(len(STRIDES))]
    rois = case["rois"]
    batch = maps[0].shape[0]
    place = np.array([np.sum(rois[:i, 0] == rois[i, 0]) for i in range(len(rois))])
    boxes = np.zeros((batch, place.max() + 3, 4), np.float32)
    boxes[rois[:, 0].astype(int), place] = rois[:, 1:]
    boxes = jnp.asarray(boxes)
    return maps, boxes, roi_levels(boxes, len(STRIDES)), (rois[:, 0].astype(int), place)


def test_levels(case):
    _, _, levels, place = inputs(case)
    np.testing.assert_array_equal(np.asarray(levels)[place], case["levels"])


@pytest.mark.parametrize("rule", RULES)
def test_values(case, rule):
    maps, boxes, levels, place = inputs(case)
    ratio, aligned = RULES[rule]
    out = jax.jit(lambda m, b, n: roi_align(m, b, n, STRIDES, sampling_ratio=ratio, aligned=aligned))(
        maps, boxes, levels
    )
    assert relative(np.asarray(out)[place], nhwc(case[f"{rule}/out"])) <= 1e-5
    assert np.isfinite(np.asarray(out)).all()


def test_gradients(case):
    maps, boxes, levels, place = inputs(case)
    cotangent = np.zeros((*boxes.shape[:2], 7, 7, maps[0].shape[3]), np.float32)
    cotangent[place] = nhwc(case["ct"])
    grads = jax.jit(jax.grad(lambda m: jnp.sum(roi_align(m, boxes, levels, STRIDES) * cotangent)))(maps)
    for level, grad in enumerate(grads):
        expected = nhwc(case[f"aligned_sr0/grad_feat{level}"])
        if np.any(expected):
            assert relative(grad, expected) <= 1e-4, level
        else:
            assert not np.any(np.asarray(grad)), level
