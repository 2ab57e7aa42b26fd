"""Golden cases E07: RoIAlign on four levels, adaptive, fixed and unaligned sampling; gradients of the maps."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.boxes.roi_align import roi_align, roi_levels
from tests.parity.goldens import cases, nhwc, relative, stated


@pytest.fixture(scope="module", params=cases("E07"), ids=lambda c: c.name)
def case(request):
    return request.param


def rules(case):
    """Name to sampling ratio and whether pixel centres count, as the name has them: aligned_sr0, legacy_sr0."""
    found = [(key, re.fullmatch(r"(aligned|legacy)_sr(\d+)/out", key)) for key in case.keys]
    return {key.removesuffix("/out"): (int(rule[2]), rule[1] == "aligned") for key, rule in found if rule}


def strides_of(case):
    finest = int(stated(case.manifest["what"], r"strides (\d+)"))
    return tuple(finest << level for level in case.numbers("feat*"))


def inputs(case):
    """Maps, boxes of each image padded with zero boxes, their levels, and the place of each golden box."""
    maps = [jnp.asarray(nhwc(x)) for x in case.numbered("feat*")]
    rois = case["rois"]
    batch = maps[0].shape[0]
    place = np.array([np.sum(rois[:i, 0] == rois[i, 0]) for i in range(len(rois))])
    boxes = np.zeros((batch, place.max() + 3, 4), np.float32)
    boxes[rois[:, 0].astype(int), place] = rois[:, 1:]
    boxes = jnp.asarray(boxes)
    finest = stated(case.manifest["what"], r"finest_scale (\d+)")
    return maps, boxes, roi_levels(boxes, len(maps), finest), (rois[:, 0].astype(int), place)


def test_levels(case):
    _, _, levels, place = inputs(case)
    np.testing.assert_array_equal(np.asarray(levels)[place], case["levels"])


def test_values(case):
    maps, boxes, levels, place = inputs(case)
    assert rules(case)
    for rule, (ratio, aligned) in rules(case).items():
        options = {"size": case.shape("ct")[-1], "sampling_ratio": ratio, "aligned": aligned}
        out = jax.jit(lambda m, b, n, options=options: roi_align(m, b, n, strides_of(case), **options))(
            maps, boxes, levels
        )
        assert relative(np.asarray(out)[place], nhwc(case[f"{rule}/out"])) <= 1e-5, rule
        assert np.isfinite(np.asarray(out)).all(), rule


def test_gradients(case):
    maps, boxes, levels, place = inputs(case)
    size = case.shape("ct")[-1]
    cotangent = np.zeros((*boxes.shape[:2], size, size, maps[0].shape[3]), np.float32)
    cotangent[place] = nhwc(case["ct"])
    with_gradient = {rule: options for rule, options in rules(case).items() if case.has(f"{rule}/grad")}
    assert with_gradient
    for rule, (ratio, aligned) in with_gradient.items():
        options = {"size": size, "sampling_ratio": ratio, "aligned": aligned}
        pooled = lambda m, options=options: roi_align(m, boxes, levels, strides_of(case), **options)  # noqa: E731
        grads = jax.jit(jax.grad(lambda m, pooled=pooled: jnp.sum(pooled(m) * cotangent)))(maps)
        for grad, expected in zip(grads, case.numbered(f"{rule}/grad_feat*"), strict=True):
            if np.any(expected):
                assert relative(grad, nhwc(expected)) <= 1e-4, rule
            else:
                assert not np.any(np.asarray(grad)), rule
