"""The three attentions, the block and the stack: properties that shapes alone do not show."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dyhead_jax.dyhead import DyHead, DyHeadBlock, ScaleAttention, SpatialAttention, TaskAttention
from dyhead_jax.dyhead.coarse_offsets import CoarseOffsets, crop, flat, resize
from dyhead_jax.dyhead.spatial import PlainNeighbours
from dyhead_jax.training import steps
from dyhead_jax.variants.dcn_v4 import DCNv3, DCNv4
from tests.variables import draw

SIZES = [(8, 11), (4, 6), (2, 3)]
C = 16


@pytest.fixture(scope="module")
def pyramid():
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(2, *s, C)), jnp.float32) for s in SIZES]


def small_block(**fields):
    return DyHeadBlock(features=C, norm_groups=4, **fields)


def run(module, *args):
    variables = draw(lambda: module.init(jax.random.key(1), *args), noise=0)
    return variables, steps.jit_once(module.apply)(variables, *args)


@pytest.mark.parametrize(
    "coarse_offsets",
    [pytest.param(c, marks=[] if c == CoarseOffsets.FLAT else pytest.mark.long) for c in CoarseOffsets],
)
def test_every_choice_of_coarse_offsets_runs_and_differs(pyramid, coarse_offsets):
    _, out = run(small_block(coarse_offsets=coarse_offsets), pyramid)
    assert [x.shape for x in out] == [x.shape for x in pyramid]
    another = CoarseOffsets.CROP if coarse_offsets == CoarseOffsets.FLAT else CoarseOffsets.FLAT
    _, other = run(small_block(coarse_offsets=another), pyramid)
    assert not np.allclose(out[0], other[0])  # the finest level reads a coarser one
    np.testing.assert_allclose(out[-1], other[-1], atol=1e-6)  # the coarsest reads none


def test_unknown_coarse_offsets_are_named(pyramid):
    with pytest.raises(ValueError, match="coarse_offsets is 'sharp'"):
        SpatialAttention(C, coarse_offsets="sharp").init(jax.random.key(0), pyramid)


def test_flat_reads_the_channel_first_buffer_of_each_image():
    rng = np.random.default_rng(0)
    offsets, mask = rng.normal(size=(2, 5, 7, 9, 2)), rng.normal(size=(2, 5, 7, 9))
    got_offsets, got_mask = flat(jnp.asarray(offsets), jnp.asarray(mask), (3, 4))
    for image in range(2):
        channel_first = np.asarray(offsets[image], np.float32).reshape(5, 7, 18).transpose(2, 0, 1)
        expected = channel_first.ravel()[: 18 * 12].reshape(18, 3, 4).transpose(1, 2, 0).reshape(3, 4, 9, 2)
        np.testing.assert_array_equal(got_offsets[image], expected)
        channel_first = np.asarray(mask[image], np.float32).transpose(2, 0, 1)
        np.testing.assert_array_equal(
            got_mask[image], channel_first.ravel()[: 9 * 12].reshape(9, 3, 4).transpose(1, 2, 0)
        )


def test_crop_and_resize_of_constant_offsets():
    offsets, mask = jnp.full((1, 6, 8, 9, 2), 3.0), jnp.full((1, 6, 8, 9), 0.5)
    assert crop(offsets, mask, (3, 4))[0].shape == (1, 3, 4, 9, 2)
    small, small_mask = resize(offsets, mask, (3, 4))
    np.testing.assert_allclose(small, 1.5)  # a pixel of the coarser map is two of the finer
    np.testing.assert_allclose(small_mask, 0.5)


@pytest.mark.parametrize(
    "off",
    [
        *(pytest.param((one,), marks=pytest.mark.long) for one in ("spatial", "scale", "task")),
        ("spatial", "scale", "task"),
    ],
    ids="+".join,
)
def test_attentions_switch_off(pyramid, off):
    block = small_block(**dict.fromkeys(off, "none"))
    variables, out = run(block, pyramid)
    assert [x.shape for x in out] == [x.shape for x in pyramid]
    names = set(variables["params"])
    assert names == ({"spatial", "scale", "task"} - set(off)) | {"spatial"}  # spatial off is plain convolutions
    assert ("offset" in variables["params"]["spatial"]) == ("spatial" not in off)
    none = small_block(**dict.fromkeys(off))  # None as well
    assert jax.eval_shape(none.apply, variables, pyramid)[0].shape == out[0].shape


def test_all_off_is_the_mean_of_three_plain_convolutions(pyramid):
    block = small_block(spatial=None, scale=None, task=None)
    variables, out = run(block, pyramid)
    p = variables["params"]["spatial"]

    def branch(kind, x, stride=1):
        y = jax.lax.conv_general_dilated(
            x, p[kind]["kernel"], (stride,) * 2, ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return nn.GroupNorm(4, epsilon=1e-5).apply({"params": p[f"{kind}_norm"]}, y)

    middle = (branch("mid", pyramid[1]) + branch("low", pyramid[0], 2) + up(branch("high", pyramid[2]), SIZES[1])) / 3
    np.testing.assert_allclose(out[1], nn.relu(middle), atol=1e-5)


def up(x, size):
    """Bilinear with aligned corners, point by point."""
    h, w = x.shape[1:3]
    rows, columns = (np.arange(n) * ((m - 1) / (n - 1)) for n, m in ((size[0], h), (size[1], w)))
    blend = np.zeros((x.shape[0], *size, x.shape[3]), np.float32)
    for i, y in enumerate(rows):
        for j, z in enumerate(columns):
            y0, z0 = min(int(y), h - 2), min(int(z), w - 2)
            fy, fz = y - y0, z - z0
            blend[:, i, j] = (1 - fy) * ((1 - fz) * x[:, y0, z0] + fz * x[:, y0, z0 + 1]) + fy * (
                (1 - fz) * x[:, y0 + 1, z0] + fz * x[:, y0 + 1, z0 + 1]
            )
    return blend


class Halve(nn.Module):
    """A fork's task attention that declares no options at all."""

    def __call__(self, x):
        return x / 2


class Wide(nn.Module):
    """A fork's scale attention that asks for `features`."""

    features: int

    @nn.compact
    def __call__(self, candidates):
        return nn.Dense(self.features)(candidates[0])


def test_attentions_swap_by_import_path(pyramid):
    _, plain = run(small_block(task=None), pyramid)
    variables, out = run(small_block(task=f"{__name__}:Halve", scale=f"{__name__}:Wide"), pyramid)
    assert out[0].shape == plain[0].shape
    assert variables["params"]["scale"]["Dense_0"]["kernel"].shape == (C, C)


class Twice(DyHeadBlock):
    """A fork's block of another structure."""

    def __call__(self, pyramid):
        return [2 * x for x in pyramid]


def test_the_block_swaps_too(pyramid):
    head = DyHead(num_blocks=2, features=C, block=f"{__name__}:Twice")
    np.testing.assert_allclose(run(head, pyramid)[1][0], 4 * pyramid[0])


@pytest.mark.parametrize(("levels", "blocks"), [(1, 1), (2, 0), pytest.param(3, 1, marks=pytest.mark.long)])
def test_any_number_of_levels_and_blocks(pyramid, levels, blocks):
    _, out = run(DyHead(num_blocks=blocks, features=C, norm_groups=4), pyramid[:levels])
    assert [x.shape for x in out] == [x.shape for x in pyramid[:levels]]


@pytest.mark.long
def test_input_channels_may_differ(pyramid):
    _, out = run(DyHead(num_blocks=2, features=8, norm_groups=4), pyramid)
    assert {x.shape[-1] for x in out} == {8}


@pytest.mark.long
def test_scan_and_remat_change_nothing(pyramid):
    """On two levels: the program of two blocks with gradients is the longest of this file to compile."""
    pyramid = pyramid[1:]
    plain = DyHead(num_blocks=2, features=C, norm_groups=4)
    variables, out = run(plain, pyramid)
    blocks = [variables["params"][f"block_{i}"] for i in range(2)]
    stacked = {"params": {"blocks": jax.tree.map(lambda *v: jnp.stack(v), *blocks)}}
    fields = {f.name for f in dataclasses.fields(plain)} & {"scan", "remat"}
    assert fields == {"scan", "remat"}
    scanned = plain.clone(scan=True)
    for head, v in [(scanned, stacked), (scanned.clone(remat=True), stacked), (plain.clone(remat=True), variables)]:
        shapes = jax.tree.map(lambda a: a.shape, jax.eval_shape(head.init, jax.random.key(0), pyramid))
        assert shapes == jax.tree.map(lambda a: a.shape, v)

        def total(v, head=head):
            maps = head.apply(v, pyramid)
            return sum(jnp.sum(y**2) for y in maps), maps

        grad, maps = steps.jit_once(jax.grad(total, has_aux=True))(v)
        assert all(bool(jnp.any(g != 0)) for g in jax.tree.leaves(grad))
        for got, expected in zip(maps, out, strict=True):
            np.testing.assert_allclose(got, expected, atol=2e-5)


def test_levels_that_do_not_halve_are_named(pyramid):
    with pytest.raises(ValueError, match=r"pyramid level 1 is \(2, 3\), not half of level 0, \(8, 11\)"):
        small_block().init(jax.random.key(0), [pyramid[0], pyramid[2]])


def test_images_do_not_meet(pyramid):
    head = small_block()
    variables, both = run(head, pyramid)
    alone = steps.jit_once(head.apply)(variables, [x[:1] for x in pyramid])
    for a, b in zip(alone, both, strict=True):
        np.testing.assert_allclose(a, b[:1], atol=2e-6)


def test_scale_weights_lie_between_a_half_and_one():
    f = jnp.ones((1, 2, 2, C))
    variables = ScaleAttention().init(jax.random.key(0), [f])
    for gate, expected in ((-100.0, 0.5), (0.0, 0.5), (1.5, 0.75), (100.0, 1.0)):
        v = jax.tree.map(lambda a, gate=gate: jnp.full_like(a, gate if a.shape == (1,) else 0.0), variables)
        np.testing.assert_allclose(ScaleAttention().apply(v, [f]), expected, atol=1e-6)


def test_task_attention_is_a_relu_where_its_coefficients_are_zero():
    x = jax.random.normal(jax.random.key(0), (1, 3, 3, C))
    variables = jax.tree.map(jnp.zeros_like, TaskAttention().init(jax.random.key(0), x))
    np.testing.assert_allclose(TaskAttention().apply(variables, x), nn.relu(x), atol=1e-6)  # a1 = 1, the rest 0


def test_parameter_count_of_a_block_is_the_reference():
    shapes = [jax.ShapeDtypeStruct((1, *s, 256), jnp.float32) for s in SIZES]
    for bias, expected in ((True, 1_917_276), (False, 1_916_508)):
        params = jax.eval_shape(DyHeadBlock(dcn_bias=bias).init, jax.random.key(0), shapes)
        assert sum(p.size for p in jax.tree.leaves(params)) == expected


@pytest.mark.parametrize("lineage", ["official", "mmdet", "mmdet_simple"])
def test_initialisation(lineage):
    c = 64
    x = [jnp.zeros((1, 4, 4, c)), jnp.zeros((1, 2, 2, c))]
    params = steps.jit_once(DyHeadBlock(features=c, lineage=lineage).init)(jax.random.key(0), x)["params"]
    bound = 1 / np.sqrt(9 * c)
    for kind in ("mid", "low", "high"):
        kernel = params["spatial"][f"{kind}_kernel"]
        assert abs(kernel).max() <= bound
        assert abs(kernel.std() / (bound / np.sqrt(3)) - 1) < 0.02
        assert not params["spatial"][f"{kind}_bias"].any()
    offset = params["spatial"]["offset"]
    assert {
        "official": lambda: abs(offset["kernel"].std() * np.sqrt(3) / bound - 1) < 0.05 and offset["bias"].any(),
        "mmdet": lambda: abs(offset["kernel"].std() / 0.01 - 1) < 0.05 and not offset["bias"].any(),
        "mmdet_simple": lambda: not offset["kernel"].any() and not offset["bias"].any(),
    }[lineage]()
    expand = params["task"]["expand"]
    std = 1 / np.sqrt(3 * c // 4) if lineage == "official" else 0.01
    assert abs(expand["kernel"].std() / std - 1) < 0.05
    assert bool(expand["bias"].any()) == (lineage == "official")
    assert abs(params["scale"]["gate"]["kernel"].std() / 0.01 - 1) < 0.3
    assert not params["scale"]["gate"]["bias"].any()


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        pytest.param({}, 0.29, marks=pytest.mark.long),
        ({"norm_scale": 12**0.5}, 1.0),
        pytest.param({"scale": None}, 0.58, marks=pytest.mark.long),
        ({"spatial": None, "norm_scale": 12**0.5}, 1.0),
        ({"norm_scale": 12**0.5, "neighbour_scale": 0.25}, 0.61),
        pytest.param({"spatial": None, "neighbour_scale": 0.25}, 0.18, marks=pytest.mark.long),
    ],
)
def test_norm_scale_is_the_size_of_the_features_behind_a_block(pyramid, fields, size):
    """Of a level with both neighbours: the root mean square before the ReLU, of which the ReLU leaves half a square."""
    params, out = run(DyHead(num_blocks=1, features=128, norm_groups=4, task=None, **fields), pyramid)
    spatial = params["params"]["block_0"]["spatial"]
    for kind in ("mid", "low", "high"):
        factor = 1.0 if kind == "mid" else fields.get("neighbour_scale", 1.0)
        np.testing.assert_allclose(spatial[f"{kind}_norm"]["scale"], fields.get("norm_scale", 1.0) * factor)
    assert float(jnp.sqrt(2 * jnp.mean(out[1] ** 2))) == pytest.approx(size, rel=0.25)


@pytest.mark.parametrize("attention", [SpatialAttention, PlainNeighbours, DCNv4, DCNv3])
def test_norms_of_neighbours_start_smaller_in_every_attention_that_has_them(attention):
    module = attention(features=16, norm_groups=4, norm_scale=2.0, neighbour_scale=0.25)
    maps = [jnp.zeros((1, size, size, 16)) for size in (4, 2)]
    params = jax.jit(module.init)(jax.random.key(0), maps)["params"]
    for kind, start in (("mid", 2.0), ("low", 0.5), ("high", 0.5)):
        np.testing.assert_array_equal(params[f"{kind}_norm"]["scale"], start)


@pytest.mark.long
def test_bfloat16_stays_close(pyramid):
    variables, wide = run(small_block(), pyramid)
    half = steps.jit_once(small_block(dtype=jnp.bfloat16).apply)(variables, [x.astype(jnp.bfloat16) for x in pyramid])
    for a, b in zip(half, wide, strict=True):
        assert a.dtype == jnp.bfloat16
        assert float(jnp.mean(jnp.abs(a.astype(jnp.float32) - b))) < 0.05 * float(jnp.mean(jnp.abs(b))) + 0.02
