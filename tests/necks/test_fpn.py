"""FPN: levels, extra levels, upsampling, initialisation. The numbers are held by tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.necks.fpn import FPN, upsample_nearest

SIZES = ((25, 19), (13, 10), (7, 5), (4, 3))


@pytest.fixture(scope="module")
def maps():
    keys = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(k, (2, *size, 4 * 2**i)) for i, (k, size) in enumerate(zip(keys, SIZES, strict=True))]


def _shapes(maps, **fields):
    pyramid = jax.eval_shape(lambda: FPN(8, **fields).init_with_output(jax.random.key(0), maps)[0])
    return [p.shape[1:3] for p in pyramid]


@pytest.mark.parametrize("extra", ["p5", "c5", "pool"])
def test_levels(maps, extra):
    assert _shapes(maps, extra=extra) == [(13, 10), (7, 5), (4, 3), (2, 2), (1, 1)]
    assert _shapes(maps, extra=extra, start=0) == [(25, 19), (13, 10), (7, 5), (4, 3), (2, 2)]
    assert _shapes(maps, extra=extra, levels=3) == [(13, 10), (7, 5), (4, 3)]
    assert _shapes(maps, extra=extra, levels=1) == [(13, 10)]


def test_extra_levels_come_from_where_they_say(maps):
    def apply(**fields):
        model = FPN(8, **fields)
        variables = model.init(jax.random.key(0), maps)
        return model.apply(variables, maps), variables["params"]

    pool, _ = apply(extra="pool", levels=4)
    np.testing.assert_array_equal(pool[3], pool[2][:, ::2, ::2])
    plain, params = apply(extra="c5")
    assert params["extra_0"]["kernel"].shape == (3, 3, 32, 8)
    rectified, _ = apply(extra="c5", relu_before_extra=True)
    for i, (a, b) in enumerate(zip(plain, rectified, strict=True)):
        assert np.allclose(a, b) == (i < 4)


def test_top_down_path(maps):
    """With identity outputs, P3 is its lateral plus everything coarser, upsampled."""
    model = FPN(8, levels=3)
    params = jax.tree.map(jnp.asarray, model.init(jax.random.key(1), maps)["params"])
    identity = jnp.zeros((3, 3, 8, 8)).at[1, 1].set(jnp.eye(8))
    for i in range(3):
        params[f"output_{i}"]["kernel"] = identity
    p3, p4, p5 = model.apply({"params": params}, maps)
    laterals = [m @ params[f"lateral_{i}"]["kernel"][0, 0] for i, m in enumerate(maps[1:])]
    np.testing.assert_allclose(p5, laterals[2], atol=1e-5)
    np.testing.assert_allclose(p4, laterals[1] + upsample_nearest(p5, (7, 5)), atol=1e-5)
    np.testing.assert_allclose(p3, laterals[0] + upsample_nearest(p4, (13, 10)), atol=1e-5)


@pytest.mark.parametrize("size", [(14, 10), (13, 9), (7, 5), (21, 12), (3, 2)])
def test_nearest_upsampling_repeats_the_floor_pixel(size):
    x = jnp.arange(35.0).reshape(1, 7, 5, 1)
    expected = [[x[0, i * 7 // size[0], j * 5 // size[1], 0] for j in range(size[1])] for i in range(size[0])]
    np.testing.assert_array_equal(upsample_nearest(x, size)[0, ..., 0], np.asarray(expected))


def test_initialisation(maps):
    params = FPN(64).init(jax.random.key(0), maps)["params"]
    kernel = np.asarray(params["output_0"]["kernel"])
    bound = np.sqrt(6 / (9 * 64 + 9 * 64))
    assert np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.02)
    assert not any(np.any(p["bias"]) for p in params.values())


@pytest.mark.parametrize("fields", [{"start": 4}, {"levels": 0}, {"extra": "p6"}])
def test_wrong_fields_are_named(maps, fields):
    with pytest.raises(ValueError, match=f"neck {next(iter(fields))} is"):
        _shapes(maps, **fields)
