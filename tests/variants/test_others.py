"""Pyramid convolution, selective kernel, gates a branch and task decomposition against their formulas in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.dyhead import TaskAttention
from dyhead_jax.training import steps
from dyhead_jax.variants.branch_gates import BranchGates
from dyhead_jax.variants.pyramid_conv import PyramidConv
from dyhead_jax.variants.selective_kernel import SelectiveKernel
from dyhead_jax.variants.task_decomposition import TaskDecomposition
from tests.variants import reference as ref
from tests.variants.kinds import C, drawn, pyramid


def wide(maps):
    return [np.asarray(x[0], np.float64) for x in maps]


def test_pyramid_convolution():
    maps, module = pyramid(3, batch=1, size=(5, 7)), PyramidConv(features=C, norm_groups=2)
    variables = drawn(module, maps)
    p, xs = ref.wide(variables["params"]), wide(maps)
    sums = [ref.conv(p["mid"], x) for x in xs]
    for level in (1, 2):
        sums[level] += ref.conv(p["low"], xs[level - 1], stride=2)
        sums[level - 1] += ref.upsample(ref.conv(p["high"], xs[level]), xs[level - 1].shape[:2])

    def normed(sums):
        """One norm over the cells of all levels."""
        cells = ref.group_norm(p["norm"], np.concatenate([x.reshape(-1, C) for x in sums]), groups=2)
        parts = np.split(cells, np.cumsum([len(x.reshape(-1, C)) for x in sums])[:-1])
        return [part.reshape(x.shape) for part, x in zip(parts, sums, strict=True)]

    apply = steps.jit_once(module.apply)
    for (x,), y in zip(apply(variables, maps), normed(sums), strict=True):
        np.testing.assert_allclose(x[0], y, atol=2e-5)
    valid = [jnp.ones(x.shape[:3], bool).at[:, :, -1].set(False) for x in maps]
    for (x,), y in zip(apply(variables, maps, valid), normed([x[:, :-1] for x in sums]), strict=True):
        np.testing.assert_allclose(x[0, :, :-1], y, atol=2e-5)


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
def test_selective_kernel(gate):
    """Of one, two and three candidates with the same weights; in any order; padding does not count."""
    maps = [pyramid(1, batch=1, seed=seed)[0] for seed in range(3)]
    module = SelectiveKernel(gate=gate, smallest=4)
    variables = drawn(module, maps, deviation=1.0)
    p = ref.wide(variables["params"])
    apply = steps.jit_once(module.apply)
    for count in (1, 2, 3):
        xs = wide(maps[:count])
        means = np.stack([x.mean((0, 1)) for x in xs])
        both = np.concatenate([means, np.broadcast_to(means.mean(0), means.shape)], axis=1)
        logits = ref.dense(p["expand"], ref.relu(ref.dense(p["squeeze"], both)))
        weights = np.apply_along_axis(ref.softmax, 0, logits) if gate == "softmax" else ref.sigmoid(logits) / count
        wanted = sum(w * x for w, x in zip(weights, xs, strict=True))
        np.testing.assert_allclose(apply(variables, maps[:count])[0], wanted, atol=1e-5)
    np.testing.assert_allclose(apply(variables, maps[::-1])[0], wanted, atol=1e-5)
    valid = jnp.zeros((1, 9, 13), bool).at[:, :5, :6].set(True)
    cut = apply(variables, [x[:, :5, :6] for x in maps])
    np.testing.assert_allclose(apply(variables, maps, valid)[:, :5, :6], cut, atol=1e-6)


def test_gates_of_branches_are_two_task_attentions():
    (x,) = pyramid(1)
    module = BranchGates(reduction=2)
    variables = drawn(module, x)
    found = steps.jit_once(module.apply)(variables, x)
    alone = steps.jit_once(TaskAttention(reduction=2).apply)
    for name, result in found._asdict().items():
        np.testing.assert_array_equal(result, alone({"params": variables["params"][name]}, x))
    assert np.abs(found.classification - found.regression).max() > 0.01


def test_task_decomposition():
    (x,) = pyramid(1, batch=1, size=(5, 6))
    module = TaskDecomposition(features=C, layers=3, reduction=4, norm_groups=2)
    variables = drawn(module, x)
    p = ref.wide(variables["params"])
    layers, (y,) = [], wide([x])
    for k in range(3):
        own = p["interactive"]
        y = ref.relu(ref.group_norm(own[f"norm_{k}"], ref.conv(own[f"conv_{k}"], y), groups=2))
        layers.append(y)
    means = np.concatenate([layer.mean((0, 1)) for layer in layers])
    found = steps.jit_once(module.apply)(variables, x)
    for name, result in found._asdict().items():
        own = p[name]
        weights = ref.sigmoid(ref.dense(own["expand"], ref.relu(ref.dense(own["squeeze"], means))))
        joined = sum(w * layer @ kernel for w, layer, kernel in zip(weights, layers, own["kernel"], strict=True))
        np.testing.assert_allclose(result[0], ref.relu(ref.group_norm(own["norm"], joined, groups=2)), atol=2e-5)
    valid = jnp.zeros((1, 5, 6), bool).at[:, :3, :4].set(True)
    apply = steps.jit_once(module.apply)
    for whole, alone in zip(apply(variables, x, valid), apply(variables, x[:, :3, :4]), strict=True):
        np.testing.assert_allclose(whole[:, :3, :4], alone, atol=2e-5)
