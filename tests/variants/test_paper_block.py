"""The paper's formula against a loop over levels, cells and samples in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.training import steps
from dyhead_jax.variants.paper_block import LevelGates, PaperBlock, SharedDynamicReLU
from tests.ops.deform_conv_reference import bilinear
from tests.variants import reference as ref
from tests.variants.kinds import C, drawn, pyramid


def by_hand(p, maps):
    """maps: [(h, w, c)], fine to coarse."""
    size, count = maps[1].shape[:2], len(maps)
    levels = [ref.resize(x, size) for x in maps]

    gates = np.clip((ref.dense(p["scale"]["linear"], np.array([x.mean() for x in levels])) + 1) / 2, 0, 1)
    levels = [gate * x for gate, x in zip(gates, levels, strict=True)]

    out = ref.conv(p["spatial"]["offset"], levels[1])
    offsets, mask = out[..., :18].reshape(*size, 9, 2), ref.sigmoid(out[..., 18:])
    sums = [np.zeros((*size, C)) for _ in levels]
    for i, j in np.ndindex(*size):
        for k in range(9):
            at = np.array([i + k // 3 - 1, j + k % 3 - 1]) + offsets[i, j, k]
            for source, x in enumerate(levels):
                sample = bilinear(x, *at) * mask[i, j, k] / count
                for m in range(count):
                    sums[m][i, j] += p["spatial"]["weights"][k // 3, k % 3, source, m] * sample
    levels = [ref.group_norm(p["spatial"]["norm"], x, groups=2) for x in sums]

    mean = np.mean([x.mean((0, 1)) for x in levels], axis=0)
    hidden = ref.relu(ref.dense(p["task"]["squeeze"], mean))
    theta = 2 * ref.sigmoid(ref.layer_norm(p["task"]["norm"], ref.dense(p["task"]["expand"], hidden))) - 1
    a1, a2, b1, b2 = np.split(theta, 4)
    levels = [np.maximum((1 + a1) * x + b1, a2 * x + b2) for x in levels]
    return [ref.resize(y, x.shape[:2]) for y, x in zip(levels, maps, strict=True)]


def test_it_is_the_formula():
    maps, block = pyramid(3, batch=1, size=(7, 9)), PaperBlock(features=C, norm_groups=2)
    variables = drawn(block, maps)
    found = steps.jit_once(block.apply)(variables, maps)
    wanted = by_hand(ref.wide(variables["params"]), [np.asarray(x[0], np.float64) for x in maps])
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_allclose(x[0], y, atol=2e-5)


def test_means_are_those_of_the_valid_cells():
    (x,) = pyramid(1, batch=1)
    valid = jnp.zeros((1, 9, 13), bool).at[:, :6, :8].set(True)
    for module in (LevelGates(), SharedDynamicReLU()):
        variables = drawn(module, [x, x])
        apply = steps.jit_once(lambda v, x, m, module=module: module.apply(v, [x, 2 * x], m))
        whole, cut = apply(variables, x, valid), apply(variables, x[:, :6, :8], valid[:, :6, :8])
        for a, b in zip(whole, cut, strict=True):
            np.testing.assert_allclose(a[:, :6, :8], b, atol=1e-6)


def test_the_median_of_an_even_number_is_the_finer_one():
    maps = pyramid(4)
    text = str(jax.make_jaxpr(PaperBlock(features=C, norm_groups=2).init)(jax.random.key(0), maps))
    assert f"f32[2,5,7,{4 * C}]" in text  # all levels as channels, at the second level's size
