"""RoIAlign: exact on constants and ramps, gradients against differences, boxes of any shape, several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.boxes.roi_align import roi_align, roi_levels

STRIDES = (4, 8)


def maps(seed=0, channels=3, dtype=jnp.float32):
    draw = np.random.default_rng(seed)
    return [jnp.asarray(draw.normal(size=(2, *size, channels)), dtype) for size in ((16, 20), (8, 10))]


def ramps():
    """Maps whose two channels are x and y of the cells' centres, in pixels."""
    levels = []
    for (h, w), stride in zip(((16, 20), (8, 10)), STRIDES, strict=True):
        y, x = np.mgrid[:h, :w]
        level = (np.stack([x, y], axis=-1) + 0.5) * stride
        levels.append(np.broadcast_to(level[None].astype(np.float32), (2, h, w, 2)))
    return levels


BOXES = jnp.asarray(
    [[[10, 12, 60, 50], [8, 30, 70, 34], [20.5, 5, 22, 59]], [[4.3, 9.7, 20, 15], [30, 20, 30, 40], [0, 0, 0, 0]]],
    jnp.float32,
)
LEVELS = jnp.asarray([[0, 1, 0], [1, 0, 1]])


@pytest.fixture(scope="module", params=[0, 2, 3], ids=lambda r: f"ratio{r}")
def align(request):
    return jax.jit(lambda m, b: roi_align(m, b, LEVELS, STRIDES, size=3, sampling_ratio=request.param))


def test_constant_stays_constant(align):
    out = np.asarray(align([jnp.full_like(m, 2.5) for m in maps()], BOXES))
    np.testing.assert_allclose(out[0], 2.5, rtol=1e-6)
    np.testing.assert_allclose(out[1, 0], 2.5, rtol=1e-6)


def test_ramp_gives_the_middle_of_each_bin(align):
    out = np.asarray(align(ramps(), BOXES))
    for i, k in ((0, 0), (0, 1), (0, 2), (1, 0)):
        x1, y1, x2, y2 = np.asarray(BOXES[i, k])
        bins = (np.arange(3) + 0.5) / 3
        np.testing.assert_allclose(out[i, k, :, :, 0], np.tile(x1 + bins * (x2 - x1), (3, 1)), rtol=1e-5)
        np.testing.assert_allclose(out[i, k, :, :, 1], np.tile(y1 + bins * (y2 - y1), (3, 1)).T, rtol=1e-5)


def test_boxes_without_area():
    """No points, so 0 and no gradient where the number of points follows the size."""

    @jax.jit
    def run(maps):
        out, vjp = jax.vjp(lambda m: roi_align(m, BOXES[:, 1:], LEVELS[:, 1:], STRIDES, size=3)[1], maps)
        return out, vjp(jnp.ones_like(out))[0]

    out, gradients = run(maps())
    assert not np.any(np.asarray(out))
    assert not any(np.any(np.asarray(g)) for g in gradients)


def test_long_boxes_are_not_capped():
    """14 points a bin across, more than any square box of its area has, and still exact."""
    boxes = jnp.broadcast_to(jnp.asarray([[1.0, 20.0, 79.0, 23.0]]), (2, 1, 4))
    levels = jnp.zeros((2, 1), jnp.int32)
    x = maps()
    coarse = jax.jit(lambda x: roi_align(x, boxes, levels, STRIDES, size=2))(x)
    fine = jax.jit(lambda x: roi_align(x, boxes, levels, STRIDES, size=2, sampling_ratio=0))(x)
    np.testing.assert_array_equal(coarse, fine)
    expected = plain(np.asarray(x[0][0]), np.asarray(boxes[0, 0]) / 4, 2)
    np.testing.assert_allclose(coarse[0, 0], expected, rtol=1e-4, atol=1e-5)


def plain(x, box, size):
    """One box, point by point, as the formula says; inside the map only."""
    h, w, c = x.shape
    x1, y1, x2, y2 = box - 0.5
    rows, columns = int(np.ceil((y2 - y1) / size)), int(np.ceil((x2 - x1) / size))
    out = np.zeros((size, size, c))
    for p in range(size):
        for q in range(size):
            for i in range(rows):
                for j in range(columns):
                    y = np.clip(y1 + (p + (i + 0.5) / rows) * (y2 - y1) / size, 0, h - 1)
                    v = np.clip(x1 + (q + (j + 0.5) / columns) * (x2 - x1) / size, 0, w - 1)
                    t, s = int(y), int(v)
                    b, r = min(t + 1, h - 1), min(s + 1, w - 1)
                    fy, fx = y - t, v - s
                    top = x[t, s] * (1 - fx) + x[t, r] * fx
                    out[p, q] += (top * (1 - fy) + (x[b, s] * (1 - fx) + x[b, r] * fx) * fy) / (rows * columns)
    return out


def test_gradient_against_differences():
    with jax.enable_x64(True):
        x = maps(dtype=jnp.float64)
        boxes = jnp.asarray(BOXES, jnp.float64)
        draw = np.random.default_rng(5)
        weights = draw.normal(size=(2, 3, 3, 3, 3))
        loss = jax.jit(lambda m: jnp.sum(roi_align(m, boxes, LEVELS, STRIDES, size=3) ** 2 * weights))
        gradient = jax.jit(jax.grad(loss))(x)
        x, gradient = jax.device_get((x, gradient))
        step = [draw.normal(size=m.shape) for m in x]
        move = lambda e: loss([m + e * s for m, s in zip(x, step, strict=True)])  # noqa: E731
        expected = (move(1e-5) - move(-1e-5)) / 2e-5
        got = sum(np.sum(g * s) for g, s in zip(gradient, step, strict=True))
        np.testing.assert_allclose(got, expected, rtol=1e-7)


def test_devices_and_batches_agree():
    """Each device walks as many points as its own boxes ask for."""
    loss = lambda m, b, n: jnp.sum(roi_align(m, b, n, STRIDES, size=3) ** 2)  # noqa: E731
    x = maps()
    whole = jax.jit(jax.grad(loss))(x, BOXES, LEVELS)
    pieces = jax.tree.map(lambda v: v[:, None], (x, BOXES, LEVELS))
    each = jax.pmap(jax.grad(loss))(*pieces)
    for a, b in zip(whole, each, strict=True):
        np.testing.assert_allclose(a, b[:, 0], rtol=1e-5, atol=1e-6)


def test_half_precision_sums_in_float32():
    run = jax.jit(lambda m: roi_align(m, BOXES, LEVELS, STRIDES))
    small = run(maps(dtype=jnp.bfloat16))
    assert small.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(small, np.float32), run(maps()), atol=0.03)


def test_levels():
    sides = jnp.asarray([0.0, 10, 55.9, 56, 111.9, 112.1, 224.1, 447, 448.1, 5000])
    boxes = jnp.stack([jnp.zeros_like(sides), jnp.zeros_like(sides), sides, sides], axis=-1)
    np.testing.assert_array_equal(roi_levels(boxes, 4), [0, 0, 0, 0, 0, 1, 2, 2, 3, 3])


def test_wrong_shapes():
    x = maps()
    with pytest.raises(ValueError, match="level 1"):
        roi_align([x[0], x[1][..., :2]], BOXES, LEVELS, STRIDES)
    with pytest.raises(ValueError, match="boxes"):
        roi_align(x, BOXES[0], LEVELS, STRIDES)
    with pytest.raises(ValueError, match="levels"):
        roi_align(x, BOXES, LEVELS[:1], STRIDES)
    with pytest.raises(ValueError, match="strides"):
        roi_align(x, BOXES, LEVELS, (4,))
