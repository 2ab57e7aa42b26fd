"""ResNet: shapes, frozen stages, initialisation, deformable blocks. The numbers are held by tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.backbones.resnet import BasicBlock, Bottleneck, ResNet, max_pool
from dyhead_jax.training import steps
from tests.backbones.variables import random_variables

TINY = ResNet(depth=18, width=8, frozen_stages=1)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (2, 33, 64, 3))


@pytest.fixture(scope="module")
def variables(images):
    return random_variables(TINY, images, False)


@pytest.mark.parametrize(
    ("depth", "channels"), [(34, (4, 8, 16, 32)), (50, (16, 32, 64, 128)), (101, (16, 32, 64, 128))]
)
def test_strides_and_channels(images, depth, channels):
    model = ResNet(depth=depth, width=4)
    maps = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, False)[0])
    sizes = ((9, 16), (5, 8), (3, 4), (2, 2))
    assert [m.shape for m in maps] == [(2, *size, c) for size, c in zip(sizes, channels, strict=True)]


def test_parameter_count_of_resnet50():
    model, image = ResNet(depth=50), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, False), image)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 25_557_032 - 2_049_000  # torchvision without its fc


@pytest.mark.parametrize("norm", ["frozen", pytest.param("eval", marks=pytest.mark.long), "sync"])
def test_gradient_is_zero_exactly_where_frozen(images, variables, norm):
    model = TINY.clone(norm=norm)

    def objective(params):
        maps, _ = model.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
        return sum(jnp.square(m).sum() for m in maps)

    gradients = steps.jit_once(jax.grad(objective))(variables["params"])
    for keys, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        path = tuple(key.key for key in keys)
        assert (float(jnp.abs(leaf).max()) == 0) == model.is_frozen(path), path


@pytest.mark.long
def test_remat_changes_nothing(images, variables):
    def run(model):
        def objective(params):
            maps, moved = model.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
            return sum(jnp.square(m).sum() for m in maps), moved

        return steps.jit_once(jax.value_and_grad(objective, has_aux=True))(variables["params"])

    model = TINY.clone(norm="sync")
    got, expected = run(model.clone(remat=True)), run(model)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()))


def test_only_trained_stages_move_their_statistics(images, variables):
    model = TINY.clone(norm="sync")
    _, updated = jax.jit(lambda v, x: model.apply(v, x, True, mutable=["batch_stats"]))(variables, images)
    before, after = variables["batch_stats"], updated["batch_stats"]
    for name in before:
        same = jax.tree.map(lambda a, b: bool((a == b).all()), before[name], after[name])
        assert all(jax.tree.leaves(same)) == (name == "bn1" or name.startswith("layer1")), name


def test_initialisation():
    block = BasicBlock(64, 2, "eval", jnp.float32, None)
    params = block.init(jax.random.key(0), jnp.zeros((1, 2, 2, 32)), False)["params"]
    np.testing.assert_allclose(params["conv1"]["kernel"].std(), np.sqrt(2 / (9 * 64)), rtol=0.03)
    np.testing.assert_allclose(params["downsample_conv"]["kernel"].std(), np.sqrt(2 / 64), rtol=0.05)
    assert (params["bn2"]["scale"] == 1).all()
    assert (params["downsample_bn"]["bias"] == 0).all()


@pytest.mark.parametrize("size", [(7, 8), (8, 7), (1, 1)])
def test_max_pool_forms_agree(size):
    x = np.random.default_rng(0).normal(-2, 1, (2, *size, 3)).astype(np.float32)
    run = jax.jit(jax.value_and_grad(lambda x, form: jnp.sin(max_pool(x, form)).sum()), static_argnums=1)
    got, expected = run(x, "shifted"), run(x, "lax")
    assert jax.eval_shape(max_pool, x).shape == (2, (size[0] + 1) // 2, (size[1] + 1) // 2, 3)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_offset_biases_train_under_frozen_norms():
    model = ResNet(norm="frozen", frozen_stages=0)
    assert not model.is_frozen(("layer2_0", "conv2_offset", "bias"))
    assert model.is_frozen(("layer2_0", "bn1", "bias"))
    assert model.is_frozen(("bn1", "scale"))


@pytest.mark.long
@pytest.mark.parametrize(("deform", "share"), [("v1", 1.0), ("v2", 0.5)])
def test_deformable_block_starts_as_the_plain_one(deform, share):
    """Zero offsets are the plain convolution; v2's masks of sigmoid(0) halve it."""
    x = jax.random.normal(jax.random.key(0), (1, 7, 6, 16))
    fields = {"planes": 8, "inner": 8, "stride": 2, "style": "torch", "groups": 2, "norm": "eval"}
    plain = Bottleneck(**fields, deform="none", dtype=jnp.float32, axis_name=None)
    deformable = Bottleneck(**fields, deform=deform, dtype=jnp.float32, axis_name=None)
    variables = deformable.init(jax.random.key(1), x, False)
    params = dict(variables["params"])
    assert params["conv2_offset"]["kernel"].shape[-1] == (18 if deform == "v1" else 27)
    assert not params["conv2_offset"]["kernel"].any()
    got = deformable.apply(variables, x, False)
    del params["conv2_offset"]
    params["conv2"] = {"kernel": share * params["conv2"]["kernel"]}
    expected = plain.apply({**variables, "params": params}, x, False)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 26}, "depth is 26"),
        ({"style": "tf"}, "style is 'tf'"),
        ({"norm": "batch", "frozen_stages": -1}, "norm is 'batch'"),
        ({"depth": 18, "deform": "v2"}, "no bottlenecks"),
        ({"deform_stages": (1,)}, "deform_stages"),
    ],
)
def test_wrong_fields_are_named(images, fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: ResNet(**fields).init(jax.random.key(0), images, False))
