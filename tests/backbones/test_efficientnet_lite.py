"""EfficientNet-Lite0: shapes, frozen stages, the pretrained file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax import steps
from dyhead_jax.backbones import efficientnet_lite as lite
from dyhead_jax.backbones.efficientnet_lite import EfficientNetLite, InvertedResidual
from tests.backbones.variables import random_variables

MODEL = EfficientNetLite(frozen_stages=6)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (2, 33, 64, 3))


@pytest.fixture(scope="module")
def variables(images):
    return random_variables(MODEL, images, False)


def test_strides_and_channels(images):
    maps = jax.eval_shape(lambda: EfficientNetLite().init_with_output(jax.random.key(0), images, False)[0])
    assert [m.shape for m in maps] == [(2, 9, 16, 24), (2, 5, 8, 40), (2, 3, 4, 112), (2, 2, 2, 320)]


def test_gradient_is_zero_exactly_where_frozen(images, variables):
    def objective(params):
        maps = MODEL.apply({**variables, "params": params}, images, True)
        return sum(jnp.square(m).sum() for m in maps)

    gradients = steps.jit_once(jax.grad(objective))(variables["params"])
    for keys, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        path = tuple(key.key for key in keys)
        assert (float(jnp.abs(leaf).max()) == 0) == MODEL.is_frozen(path), path


def test_is_frozen_counts_stages():
    assert MODEL.is_frozen(("conv_stem", "kernel"))
    assert MODEL.is_frozen(("block_14", "bn1", "scale"))
    assert not MODEL.is_frozen(("block_15", "bn1", "scale"))
    assert EfficientNetLite(norm="frozen", frozen_stages=-1).is_frozen(("block_8", "bn1", "scale"))
    assert not EfficientNetLite(frozen_stages=-1).is_frozen(("conv_stem", "kernel"))


def test_initial_variances():
    block = InvertedResidual(96, 5, 1, 6, "eval", jnp.float32, None)
    params = block.init(jax.random.key(0), jnp.zeros((1, 2, 2, 96)), False)["params"]
    np.testing.assert_allclose(params["depthwise_conv"]["kernel"].var(), 2 / 25, rtol=0.05)
    np.testing.assert_allclose(params["project_conv"]["kernel"].var(), 2 / 96, rtol=0.05)


def test_pretrained_weights():
    """Statistics that only the right file in the right layout has, and maps like the reference's."""
    pytest.importorskip(lite.PACKAGE, reason="the extra lite0 is not installed")
    variables = lite.pretrained()
    ramp = np.linspace(-1, 1, 40 * 36 * 3, dtype=np.float32).reshape(1, 40, 36, 3)
    maps = jax.jit(lambda v, x: EfficientNetLite().apply(v, x, False))(variables, ramp)
    assert [m.shape for m in maps] == [(1, 10, 9, 24), (1, 5, 5, 40), (1, 3, 3, 112), (1, 2, 2, 320)]
    # mean of absolute values and one value of each map, from the same network written in PyTorch 2.13
    expected = [(6.619159, -0.591667), (7.50344, 0.702393), (5.69509, 2.532008), (1.62423, 2.320919)]
    for m, (size, value) in zip(maps, expected, strict=True):
        np.testing.assert_allclose(np.abs(m).mean(), size, rtol=1e-4)
        np.testing.assert_allclose(m[0, 1, 1, 7], value, rtol=1e-3, atol=1e-4)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(lite, "PACKAGE", "no_such_package")
    with pytest.raises(lite.PretrainedError, match=r"pip install 'dyhead-jax\[lite0\]'"):
        lite.pretrained()
