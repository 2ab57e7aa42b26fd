"""Grouped deformable sampling between pointwise layers, against a loop over samples in float64."""

import numpy as np
import pytest

from dyhead_jax.training import steps
from dyhead_jax.variants.dcn_v4 import DCNv3, DCNv4
from tests.ops.deform_conv_reference import bilinear
from tests.variants import reference as ref
from tests.variants.kinds import C, drawn, pyramid

GROUP = 4


def sampled(value, offsets, weights, stride):
    """value: (h, w, c); offsets: (i, j, g, 9, 2) in its pixels; weights: (i, j, g, 9). Returns (i, j, c)."""
    out = np.zeros((*offsets.shape[:2], C))
    for i, j, g, k in np.ndindex(offsets.shape[:4]):
        at = np.array([i * stride + k // 3 - 1, j * stride + k % 3 - 1]) + offsets[i, j, g, k]
        part = slice(g * GROUP, (g + 1) * GROUP)
        out[i, j, part] += weights[i, j, g, k] * bilinear(value[..., part], *at)
    return out


def by_hand(p, maps, softmax, gelu):
    values, predicted = [ref.dense(p["value"], x) for x in maps], []
    for x in maps:
        if "query" in p:
            kernel = np.zeros((3, 3, C, C))
            kernel[:, :, range(C), range(C)] = p["query"]["kernel"][:, :, 0]
            x = gelu(ref.layer_norm(p["query_norm"], ref.conv({"kernel": kernel, "bias": p["query"]["bias"]}, x)))
        shape = (*x.shape[:2], 3, C // GROUP, 9)
        weights = ref.dense(p["modulation"], x).reshape(shape)
        if softmax:
            weights = np.apply_along_axis(ref.softmax, -1, weights)
        predicted.append((ref.dense(p["offset"], x).reshape(*shape, 2), weights))

    def candidate(number, kind, value, level, stride=1):
        offsets, weights = (v[:, :, number] for v in predicted[level])
        out = ref.dense(p[f"{kind}_out"], sampled(value, offsets, weights, stride))
        return ref.group_norm(p[f"{kind}_norm"], out, groups=2)

    result = []
    for level, x in enumerate(maps):
        found = [candidate(0, "mid", values[level], level)]
        if level:
            found.append(candidate(1, "low", values[level - 1], level, stride=2))
        if level + 1 < len(maps):
            coarser = candidate(2, "high", values[level + 1], level + 1)
            found.append(ref.upsample(coarser, x.shape[:2]))
        result.append(found)
    return result


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("make", [DCNv3, DCNv4], ids=["v3", "v4"])
def test_it_is_the_formula(make):
    maps, module = pyramid(3, batch=1, size=(5, 7)), make(features=C, group_features=GROUP, norm_groups=2)
    variables = drawn(module, maps)
    found = steps.jit_once(module.apply)(variables, maps)
    p = ref.wide(variables["params"])
    wanted = by_hand(p, [np.asarray(x[0], np.float64) for x in maps], make is DCNv3, tanh_gelu)
    assert [len(level) for level in found] == [2, 3, 2]
    for level, own in zip(found, wanted, strict=True):
        for x, y in zip(level, own, strict=True):
            np.testing.assert_allclose(x[0], y, atol=3e-5)
