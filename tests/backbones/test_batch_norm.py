"""Batch norm: the three modes, and statistics of the global batch over a mapped axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.backbones.batch_norm import BatchNorm, conv_norm
from dyhead_jax.ops.conv import Conv


@pytest.fixture(scope="module")
def x():
    return 3 * jax.random.normal(jax.random.key(0), (4, 3, 5, 2)) + 1


def _variables(x):
    stats = {"mean": jnp.array([0.3, -1.0]), "var": jnp.array([2.0, 0.5])}
    return {"params": {"scale": jnp.array([1.5, 0.7]), "bias": jnp.array([0.1, 0.2])}, "batch_stats": stats}


@pytest.mark.parametrize("norm", ["frozen", "eval"])
def test_fixed_statistics(x, norm):
    variables = _variables(x)
    (p, s) = variables["params"], variables["batch_stats"]
    wide = lambda v: np.asarray(v).reshape(1, 1, 1, 2)  # noqa: E731
    expected = (x - wide(s["mean"])) / np.sqrt(wide(s["var"]) + 1e-5) * wide(p["scale"]) + wide(p["bias"])
    for train in (False, True):
        np.testing.assert_allclose(BatchNorm(norm).apply(variables, x, train), expected, rtol=1e-5, atol=1e-6)


def test_sync_uses_the_batch_and_moves_the_running_statistics_as_pytorch_does(x):
    variables = _variables(x)
    y, updated = BatchNorm("sync").apply(variables, x, True, mutable=["batch_stats"])
    flat = np.asarray(y).reshape(-1, 2)
    np.testing.assert_allclose(flat.mean(0), variables["params"]["bias"], atol=1e-5)
    np.testing.assert_allclose(flat.std(0), variables["params"]["scale"], rtol=1e-4)
    values = np.asarray(x, np.float64).reshape(-1, 2)
    stats = variables["batch_stats"]
    mean = 0.9 * stats["mean"] + 0.1 * values.mean(0)
    var = 0.9 * stats["var"] + 0.1 * values.var(0, ddof=1)  # unbiased
    np.testing.assert_allclose(updated["batch_stats"]["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["var"], var, rtol=1e-5)


def test_sync_over_devices_equals_one_device(x):
    variables = _variables(x)

    def step(norm, variables, x):
        def objective(params):
            y, updated = norm.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
            return jnp.sin(y).sum(), updated

        return jax.value_and_grad(objective, has_aux=True)(variables["params"])

    (_, one), d_one = step(BatchNorm("sync"), variables, x)
    mapped = BatchNorm("sync", axis_name="device")
    split = x.reshape(4, 1, *x.shape[1:])
    (_, four), d_four = jax.pmap(lambda x: step(mapped, variables, x), axis_name="device")(split)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], rtol=1e-5), one, four)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b.sum(0), rtol=1e-4, atol=1e-5), d_one, d_four)


@pytest.mark.parametrize("norm", ["eval", "frozen"])
def test_folding_changes_neither_values_nor_gradients(x, norm):
    conv, bn = Conv(2, 3, 2), BatchNorm(norm)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 2))
    stats = _variables(x)["batch_stats"]

    def folded(params):
        return conv_norm(
            conv.bind({"params": params["conv"]}), bn.bind({"params": params["norm"], "batch_stats": stats}), x, True
        )

    def plain(params):
        y = conv.apply({"params": params["conv"]}, x)
        return bn.apply({"params": params["norm"], "batch_stats": stats}, y, True)

    params = {"conv": {"kernel": kernel}, "norm": _variables(x)["params"]}
    got, expected = (jax.value_and_grad(lambda p, f=f: jnp.sin(f(p)).sum())(params) for f in (folded, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected)
    assert norm == "eval" or not any(map(np.any, got[1]["norm"].values()))


def test_bfloat16_statistics_are_float32():
    x = (jnp.arange(4096.0).reshape(1, 64, 64, 1) / 4096 + 10).astype(jnp.bfloat16)
    variables = BatchNorm("sync").init(jax.random.key(0), x, True)
    y, updated = BatchNorm("sync").apply(variables, x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    expected = 0.1 * np.asarray(x, np.float64).mean()
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [expected], rtol=1e-5)
