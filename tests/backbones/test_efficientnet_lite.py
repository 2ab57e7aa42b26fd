"""EfficientNet-Lite0: shapes, frozen stages, the pretrained file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.backbones.efficientnet_lite import EfficientNetLite, InvertedResidual
from dyhead_jax.training import steps
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


@pytest.mark.long
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
    params = steps.jit_once(lambda key: block.init(key, jnp.zeros((1, 2, 2, 96)), False))(jax.random.key(0))["params"]
    np.testing.assert_allclose(params["depthwise_conv"]["kernel"].var(), 2 / 25, rtol=0.05)
    np.testing.assert_allclose(params["project_conv"]["kernel"].var(), 2 / 96, rtol=0.05)
