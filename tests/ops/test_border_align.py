"""BorderAlign: against a plain loop, ties, several levels at once, gradients against differences, several devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.ops.border_align import border_align, border_align_levels

pytestmark = pytest.mark.long

POOL = 4


def inputs(size=(6, 9), count=7, channels=3, seed=0, dtype=jnp.float32):
    a, b = jax.random.split(jax.random.key(seed))
    feature = jax.random.normal(a, (2, *size, 4 * channels), dtype)
    corners = jax.random.uniform(b, (2, count, 4), dtype) * jnp.asarray([size[1] - 1, size[0] - 1] * 2).reshape(1, 1, 4)
    boxes = jnp.concatenate(
        [jnp.minimum(corners[..., :2], corners[..., 2:]), jnp.maximum(corners[..., :2], corners[..., 2:])], axis=-1
    )
    return feature, boxes


def plain(feature, boxes, pool):
    """Point by point. feature: (h, w, 4 * c); boxes: (n, 4)."""
    h, w, c = feature.shape
    sides = feature.reshape(h, w, 4, c // 4)
    out = np.full((len(boxes), 4, c // 4), -np.inf)
    for n, (x1, y1, x2, y2) in enumerate(boxes):
        dx, dy = (x2 - x1) / pool, (y2 - y1) / pool
        for p in range(pool + 1):
            points = [(y1, x1 + p * dx), (y1 + p * dy, x1), (y2, x2 - p * dx), (y2 - p * dy, x2)]
            for side, (y, x) in enumerate(points):
                t, s = int(y), int(x)
                b, r, fy, fx = min(t + 1, h - 1), min(s + 1, w - 1), y - t, x - s
                top = sides[t, s, side] * (1 - fx) + sides[t, r, side] * fx
                low = sides[b, s, side] * (1 - fx) + sides[b, r, side] * fx
                out[n, side] = np.maximum(out[n, side], top * (1 - fy) + low * fy)
    return out


def test_against_a_plain_loop():
    feature, boxes = inputs()
    got = jax.jit(lambda f, b: border_align(f, b, POOL))(feature, boxes)
    for i in range(2):
        np.testing.assert_allclose(got[i], plain(np.asarray(feature[i]), np.asarray(boxes[i]), POOL), atol=1e-5)


def test_first_of_equal_maxima_gets_the_gradient():
    """On a constant map every point is a maximum: all the gradient goes to where the walk begins."""
    feature = jnp.ones((1, 5, 6, 4))
    boxes = jnp.asarray([[[1.0, 1.0, 4.0, 3.0]]])
    got = jax.jit(jax.grad(lambda f: jnp.sum(border_align(f, boxes, POOL))))(feature)
    expected = np.zeros((1, 5, 6, 4))
    expected[0, 1, 1, :2] = 1  # top and left begin at (x1, y1)
    expected[0, 3, 4, 2:] = 1  # bottom and right at (x2, y2)
    np.testing.assert_array_equal(got, expected)


def test_levels_at_once_equal_each_alone():
    levels = [inputs((6, 9), 7, seed=1), inputs((3, 5), 4, seed=2), inputs((1, 1), 2, seed=3)]
    features, boxes = [f for f, _ in levels], [b for _, b in levels]

    def together(features):
        return border_align_levels(features, boxes, POOL)

    def alone(features):
        return [border_align(f, b, POOL) for f, b in zip(features, boxes, strict=True)]

    def both_ways(function, features):
        out, vjp = jax.vjp(function, features)
        return out, vjp([jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape) for x in out])

    got, expected = (jax.jit(partial(both_ways, function))(features) for function in (together, alone))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_gradient_against_differences():
    with jax.enable_x64(True):
        feature, boxes = inputs(dtype=jnp.float64)
        loss = jax.jit(lambda f: jnp.sum(jnp.sin(border_align(f, boxes, POOL))))
        step = jax.random.normal(jax.random.key(3), feature.shape, feature.dtype)
        expected = (loss(feature + 1e-6 * step) - loss(feature - 1e-6 * step)) / 2e-6
        np.testing.assert_allclose(jnp.sum(jax.grad(loss)(feature) * step), expected, rtol=1e-6)


def test_boxes_get_no_gradient():
    feature, boxes = inputs()
    gradient = jax.jit(jax.grad(lambda b: jnp.sum(border_align(feature, b, POOL))))(boxes)
    assert not np.any(np.asarray(gradient))


def test_points_outside_are_cut_to_the_map():
    feature, _ = inputs()
    limit = jnp.asarray([8.0, 5.0, 8.0, 5.0]).reshape(1, 1, 4)
    far = jnp.asarray([[[-9.0, -9.0, -4.0, -2.0], [20.0, 30.0, 40.0, 50.0]]] * 2)
    align = jax.jit(lambda b: border_align(feature, b, POOL))
    np.testing.assert_array_equal(align(far), align(jnp.clip(far, 0.0, limit)))


def test_devices_and_batches_agree():
    feature, boxes = inputs()
    loss = lambda f, b: jnp.sum(border_align(f, b, POOL) ** 2)  # noqa: E731
    whole = jax.jit(jax.grad(loss))(feature, boxes)
    mapped = jax.pmap(jax.grad(loss))(feature[:, None], boxes[:, None])
    np.testing.assert_allclose(whole, mapped[:, 0], rtol=1e-5, atol=1e-6)


def test_wrong_shapes():
    feature, boxes = inputs()
    with pytest.raises(ValueError, match="feature 0"):
        border_align(feature[..., :3], boxes)
    with pytest.raises(ValueError, match="boxes 0"):
        border_align(feature, boxes[:1])
    with pytest.raises(ValueError, match="pool_size"):
        border_align(feature, boxes, 0)
