"""Multi-scale deformable attention against a loop over heads, levels and points in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.training import steps
from dyhead_jax.variants.ms_deform import MultiScaleDeformable
from tests.ops.deform_conv_reference import bilinear
from tests.variants import reference as ref
from tests.variants.kinds import C, drawn, pyramid

HEADS, POINTS = 2, 3
MODULE = MultiScaleDeformable(features=C, heads=HEADS, points=POINTS, norm_groups=2)


def by_hand(p, maps):
    values, width = [ref.dense(p["value"], x) for x in maps], C // HEADS
    result = []
    for level, x in enumerate(maps):
        query = x + p["level"][level]
        shape = (*x.shape[:2], HEADS, len(maps), POINTS)
        offsets = ref.dense(p["offset"], query).reshape(*shape, 2)
        logits = ref.dense(p["weight"], query).reshape(*shape[:3], -1)
        weights = np.apply_along_axis(ref.softmax, -1, logits).reshape(shape)
        out = np.zeros((*x.shape[:2], C))
        for i, j, head, source, k in np.ndindex(shape):
            h, w = maps[source].shape[:2]
            centre = (i + 0.5) / x.shape[0] * h - 0.5, (j + 0.5) / x.shape[1] * w - 0.5
            part = slice(head * width, (head + 1) * width)
            sample = bilinear(values[source][..., part], *(centre + offsets[i, j, head, source, k]))
            out[i, j, part] += weights[i, j, head, source, k] * sample
        result.append(ref.group_norm(p["norm"], x + ref.dense(p["out"], out), groups=2))
    return result


def test_it_is_the_formula():
    maps = pyramid(3, batch=1, size=(5, 7))
    variables = drawn(MODULE, maps)
    found = steps.jit_once(MODULE.apply)(variables, maps)
    wanted = by_hand(ref.wide(variables["params"]), [np.asarray(x[0], np.float64) for x in maps])
    for (x,), y in zip(found, wanted, strict=True):
        np.testing.assert_allclose(x[0], y, atol=3e-5)


def test_offsets_start_as_a_star():
    """Head 0 looks to the right, head 1 to the left, in every level; point k in a distance of k pixels."""
    shapes = jax.eval_shape(MODULE.init, jax.random.key(0), pyramid(2))["params"]
    bias = jax.jit(lambda: MODULE.init(jax.random.key(0), pyramid(2))["params"]["offset"]["bias"])()
    assert shapes["offset"]["kernel"].shape == (C, HEADS * 2 * POINTS * 2)
    star = np.asarray(bias).reshape(HEADS, 2, POINTS, 2)
    np.testing.assert_allclose(star[0], [[[0, 1], [0, 2], [0, 3]]] * 2, atol=1e-6)
    np.testing.assert_allclose(star[1], [[[0, -1], [0, -2], [0, -3]]] * 2, atol=1e-6)


def test_what_lies_in_the_padding_is_not_read():
    maps = pyramid(2)
    valid = [jnp.zeros(x.shape[:3], bool).at[:, : x.shape[1] - 2, : x.shape[2] - 1].set(True) for x in maps]
    noise = [jnp.where(v[..., None], x, 7.0) for x, v in zip(maps, valid, strict=True)]
    variables = drawn(MODULE, maps)
    apply = steps.jit_once(MODULE.apply)
    for (a,), (b,), mask in zip(apply(variables, maps, valid), apply(variables, noise, valid), valid, strict=True):
        np.testing.assert_array_equal(np.asarray(a)[np.asarray(mask)], np.asarray(b)[np.asarray(mask)])
