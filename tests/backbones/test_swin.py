"""Swin: shapes, shifted windows, stochastic depth, frozen stages. The numbers are held by tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.backbones.swin import PatchMerging, Swin, bicubic, shift_mask, window_index
from dyhead_jax.training import steps
from tests.backbones.variables import random_variables

TINY = Swin(8, (2, 1), (1, 2), 3, absolute_position=True, position_size=5, frozen_stages=1)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (2, 30, 41, 3))


@pytest.fixture(scope="module")
def variables(images):
    return random_variables(TINY, images, False)


def test_strides_and_channels(images):
    maps = jax.eval_shape(lambda: Swin().init_with_output(jax.random.key(0), images, False)[0])
    assert [m.shape for m in maps] == [(2, 8, 11, 96), (2, 4, 6, 192), (2, 2, 3, 384), (2, 1, 2, 768)]


def test_parameter_count_of_swin_t():
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(lambda x: Swin().init(jax.random.key(0), x, False), image)["params"]
    # 28,288,354 of the classifier, less its norm and its linear layer, and four output norms
    expected = 28_288_354 - (2 * 768 + 769_000) + 2 * (96 + 192 + 384 + 768)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


@pytest.mark.long
def test_gradient_is_zero_exactly_where_frozen(images, variables):
    def objective(params):
        maps = TINY.apply({"params": params}, images, True, rngs={"dropout": jax.random.key(3)})
        return sum(jnp.sin(m).sum() for m in maps)

    gradients = steps.jit_once(jax.grad(objective))(variables["params"])
    for keys, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        path = tuple(key.key for key in keys)
        assert (float(jnp.abs(leaf).max()) == 0) == TINY.is_frozen(path), path


def test_drop_path_is_per_sample_and_only_in_training(images, variables):
    apply = jax.jit(
        lambda key: TINY.clone(frozen_stages=-1, drop_path=0.5).apply(variables, images, True, rngs={"dropout": key})[1]
    )
    quiet = jax.jit(lambda: TINY.apply(variables, images, False)[1])()
    maps = np.stack([apply(jax.random.key(i)) for i in range(12)])
    kinds = [len({m[b].tobytes() for m in maps}) for b in (0, 1)]
    assert min(kinds) > 1
    assert not any(np.array_equal(m, quiet) for m in maps)  # kept branches are scaled up
    together = {(m[0].tobytes(), m[1].tobytes()) for m in maps}
    assert len(together) > max(kinds)  # the samples do not drop together


def test_an_image_does_not_depend_on_its_batch(images, variables):
    apply = jax.jit(lambda x: TINY.apply(variables, x, False))
    for whole, single in zip(apply(images), apply(images[1:]), strict=True):
        np.testing.assert_allclose(whole[1:], single, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_remat_changes_nothing(images, variables):
    got = jax.jit(lambda: TINY.clone(remat=True).apply(variables, images, False))()
    for a, b in zip(got, jax.jit(lambda: TINY.apply(variables, images, False))(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_shift_mask_separates_what_the_shift_joined():
    """Two pixels of a shifted window see each other exactly if they were less than a window apart before the roll."""
    n, shift, height, width = 3, 1, 6, 9
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    place = np.roll(np.stack([rows, columns], -1), (-shift, -shift), (0, 1))
    place = place.reshape(height // n, n, width // n, n, 2).swapaxes(1, 2).reshape(-1, n * n, 2)
    near = (np.abs(place[:, :, None] - place[:, None]) < n).all(-1)
    np.testing.assert_array_equal(shift_mask(height, width, n, shift) == 0, near)


def test_window_index_names_each_displacement_once():
    index = window_index(3)
    assert index.shape == (9, 9)
    assert len(np.unique(index)) == 25
    assert index[0, 8] == 0
    assert index[8, 0] == 24
    assert (np.diag(index) == 12).all()
    assert index[0, 1] == 11  # the key to the right: dx = -1


def test_bicubic_matrix():
    np.testing.assert_allclose(bicubic(5, 5), np.eye(5), atol=1e-7)
    np.testing.assert_allclose(bicubic(7, 16).sum(1), 1, atol=1e-6)
    line = bicubic(9, 20) @ np.arange(9.0)
    inner = (np.arange(20) + 0.5) * 9 / 20 - 0.5
    np.testing.assert_allclose(line[6:14], inner[6:14], atol=0.15)  # a = -0.75 is not exact on lines


def test_initialisation():
    params = PatchMerging(jnp.float32).init(jax.random.key(0), jnp.zeros((1, 2, 2, 32)))["params"]
    np.testing.assert_allclose(params["reduction"]["kernel"].std(), 0.02, rtol=0.05)
    assert (params["norm"]["scale"] == 1).all()


def test_wrong_fields_are_named(images):
    for fields, message in (({"heads": (3, 6)}, "differ in length"), ({"heads": (5, 6, 12, 24)}, "do not divide")):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda fields=fields: Swin(**fields).init(jax.random.key(0), images, False))
