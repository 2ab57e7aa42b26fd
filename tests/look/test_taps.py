"""Samples of deformable kernels: against convolutions and compositions written one sample at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.dyhead import SpatialAttention
from dyhead_jax.dyhead.coarse_offsets import CoarseOffsets, for_coarser
from dyhead_jax.look.record import Block, Kernel, Record, RecordError, read_block
from dyhead_jax.look.taps import at_cell, cell_at, checked_level, compose, level_of, to_picture
from tests.ops.deform_conv_reference import bilinear, deform_conv

SIZES = [(8, 11), (4, 6), (2, 3)]
C = 4


@pytest.fixture(scope="module")
def pyramid():
    keys = jax.random.split(jax.random.key(0), len(SIZES))
    return [jax.random.normal(key, (1, *size, C)) for key, size in zip(keys, SIZES, strict=True)]


def attend(pyramid, **options):
    """A spatial attention's parameters, and a block with what it recorded."""
    module = SpatialAttention(C, norm_groups=2, **options)
    params = jax.jit(module.init)(jax.random.key(1), pyramid)["params"]
    apply = jax.jit(lambda p, x: module.apply({"params": p}, x, mutable=["intermediates"]))
    _, recorded = apply(params, pyramid)
    return params, read_block({"__call__": (pyramid,), "spatial": recorded["intermediates"]}, SIZES)


def predicted(params, x):
    """Offsets (1, h, w, 9, 2) and masks (1, h, w, 9), without the module."""
    numbers = ("NHWC", "HWIO", "NHWC")
    out = jax.lax.conv_general_dilated(x, params["offset"]["kernel"], (1, 1), "SAME", dimension_numbers=numbers)
    out = out + params["offset"]["bias"].reshape(1, 1, 1, -1)
    return out[..., :18].reshape(*out.shape[:3], 9, 2), jax.nn.sigmoid(out[..., 18:])


def upsampled(x, size):
    """Aligned corners, point by point."""
    h, w = x.shape[1:3]
    out = np.zeros((1, *size, x.shape[3]))
    for i, j in np.ndindex(size):
        out[0, i, j] = bilinear(np.asarray(x[0], np.float64), i * (h - 1) / (size[0] - 1), j * (w - 1) / (size[1] - 1))
    return out


def rebuilt(taps, source, kernel, bias, factor=(1.0, 1.0)):
    """A deformable convolution at one cell from its samples."""
    total = np.asarray(bias, np.float64).copy()
    for i, (y, x, weight, inside) in enumerate(zip(taps.y, taps.x, taps.weight, taps.inside, strict=True)):
        y, x = y * factor[0], x * factor[1]
        assert inside == (-1 < y < source.shape[1] and -1 < x < source.shape[2])
        total += weight * bilinear(np.asarray(source[0], np.float64), y, x) @ kernel[divmod(i % 9, 3)]
    return total


@pytest.mark.parametrize(
    "coarse_offsets",
    [pytest.param(c, marks=[] if c == CoarseOffsets.FLAT else pytest.mark.long) for c in CoarseOffsets],
)
def test_samples_rebuild_every_deformable_convolution(pyramid, coarse_offsets):
    params, block = attend(pyramid, coarse_offsets=coarse_offsets)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    offsets, masks = zip(*(predicted(params, x) for x in pyramid), strict=True)
    for level in range(len(SIZES)):
        own = np.asarray(offsets[level], np.float64), np.asarray(masks[level], np.float64)
        for kind, source, stride in (("mid", level, 1), ("low", level - 1, 2), ("high", level + 1, 1)):
            if not 0 <= source < len(SIZES):
                assert len(at_cell(block, kind, level, (0, 0), SIZES).level) == 0
                continue
            x, size, fitted, factor = np.asarray(pyramid[source]), SIZES[level], own, (1.0, 1.0)
            if kind == "high" and coarse_offsets == CoarseOffsets.UPSAMPLE_FIRST:
                x = upsampled(x, size)
                factor = tuple((a - 1) / (b - 1) for a, b in zip(size, SIZES[source], strict=True))
            elif kind == "high":
                fitted = for_coarser(coarse_offsets, *map(jnp.asarray, own), SIZES[source])
            kernel, bias = params[f"{kind}_kernel"], params[f"{kind}_bias"]
            expected = deform_conv(x, *map(np.asarray, fitted), kernel, bias, (stride, stride), (1, 1), (1, 1), 1)
            if expected.shape[1:3] != size:
                expected = upsampled(expected, size)
            for cell in np.ndindex(size):
                taps = at_cell(block, kind, level, cell, SIZES)
                assert set(taps.level) == {source}
                np.testing.assert_allclose(rebuilt(taps, x, kernel, bias, factor), expected[(0, *cell)], atol=2e-5)


def test_zero_offsets_read_the_regular_grid(pyramid):
    _, block = attend(pyramid, lineage="mmdet_simple")  # its offset convolution starts at zero
    for kind, centre in (("mid", (2, 3)), ("low", (4, 6))):
        taps = at_cell(block, kind, 1, (2, 3), SIZES)
        grid = [(centre[0] + dy, centre[1] + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        assert list(zip(taps.y, taps.x, strict=True)) == grid
        assert set(taps.weight) == {0.5}
    taps = at_cell(block, "high", 1, (3, 5), SIZES)  # the corner of the upsampled map is the corner of the coarser one
    assert list(zip(taps.y, taps.x, strict=True)) == [(1 + dy, 2 + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    assert taps.inside.sum() == 4


def block_of(kernels):
    return Block(after=[], kernels=kernels, scale=[], task=[], others={})


def test_deformable_groups_follow_one_another():
    rng = np.random.default_rng(0)
    x, offsets = rng.normal(size=(1, 5, 6, 4)), rng.normal(size=(1, 5, 6, 18, 2)).astype(np.float32)
    masks, kernel = rng.uniform(size=(1, 5, 6, 18)).astype(np.float32), rng.normal(size=(3, 3, 4, 2))
    expected = deform_conv(x, offsets, masks, kernel, None, (1, 1), (1, 1), (1, 1), 1)
    block = block_of({"mid": {0: Kernel(offsets[0], masks[0])}})
    for cell in np.ndindex(5, 6):
        taps = at_cell(block, "mid", 0, cell, [(5, 6)])
        total = np.zeros(2)
        for i in range(18):
            part = slice(2 * (i // 9), 2 * (i // 9) + 2)
            value = bilinear(x[0, :, :, part], taps.y[i], taps.x[i])
            total += taps.weight[i] * value @ kernel[(*divmod(i % 9, 3), part)]
        np.testing.assert_allclose(total, expected[(0, *cell)], atol=1e-5)


def random_blocks(count, seed=0):
    rng = np.random.default_rng(seed)

    def kernel(size):
        offsets = rng.normal(size=(*size, 9, 2)).astype(np.float32)
        return Kernel(offsets, rng.uniform(size=(*size, 9)).astype(np.float32))

    levels = range(len(SIZES))
    return [
        block_of(
            {
                "mid": {level: kernel(SIZES[level]) for level in levels},
                "low": {level: kernel(SIZES[level]) for level in levels[1:]},
                "high": {level: kernel(SIZES[level + 1]) for level in levels[:-1]},
            }
        )
        for _ in range(count)
    ]


def followed(blocks, kinds, level, cell, weight=1.0):
    """Every way through the blocks, last one first, by recursion: (level, y, x, weight), or None beside a map."""
    for kind in kinds:
        taps = at_cell(blocks[-1], kind, level, cell, SIZES)
        for own, y, x, part, inside in zip(*taps, strict=True):
            if not inside:
                yield None
            elif len(blocks) == 1:
                yield int(own), y, x, weight * part
            else:
                nearest = tuple(int(np.clip(np.round(v), 0, n - 1)) for v, n in zip((y, x), SIZES[own], strict=True))
                yield from followed(blocks[:-1], kinds, int(own), nearest, weight * part)


@pytest.mark.parametrize("kinds", [("mid",), ("mid", "low", "high")])
def test_composition_follows_every_way(kinds):
    blocks = random_blocks(3)
    steps = compose(blocks, kinds, 1, (2, 3), SIZES, most=10**6)
    for count, step in enumerate(steps, 1):
        ways = list(followed(blocks[-count:], kinds, 1, (2, 3)))
        inside = sorted(way for way in ways if way is not None)
        got = sorted(zip(*(field.tolist() for field in step.taps[:4]), strict=True))
        np.testing.assert_allclose(np.array(got), np.array(inside), rtol=1e-9)
        assert step.left_out == 0
        if count == 1:  # later, samples beside a map were counted in the step that found them
            assert step.outside == ways.count(None)
        assert (np.diff(step.taps.weight) <= 0).all()


def test_composition_keeps_the_heaviest_and_counts_the_rest():
    blocks = random_blocks(2)
    whole = compose(blocks, ("mid",), 0, (4, 5), SIZES)
    assert [len(step.taps.level) + step.outside for step in whole] == [9, 81]
    cut = compose(blocks, ("mid",), 0, (4, 5), SIZES, most=20)
    assert len(cut[0].taps.level) == 9
    assert len(cut[1].taps.level) == 20
    assert cut[1].left_out == len(whole[1].taps.level) - 20
    np.testing.assert_array_equal(cut[1].taps.weight, whole[1].taps.weight[:20])


def record_of(image_size, size, strides=(8, 16, 32)):
    scale = size[0] / image_size[0], size[1] / image_size[1]
    maps = [np.zeros((-(-64 // s), -(-96 // s), 2), np.float32) for s in strides]
    image = np.zeros((*image_size, 3), np.uint8)
    return Record(image=image, size=size, scale=scale, strides=strides, before=maps, blocks=[])


def test_a_cell_covers_its_stride_in_pixels_of_the_picture():
    record = record_of((300, 200), (64, 43))  # resized by about a fifth, then padded to 64 x 96
    for level, stride in enumerate(record.strides):
        for x, y in [(0, 0), (199.9, 299.9), (77.3, 150.2)]:
            row, column = cell_at(record, level, (x, y))
            assert row * stride <= y * record.scale[0] < (row + 1) * stride
            assert column * stride <= x * record.scale[1] < (column + 1) * stride
            ((centre_x, centre_y),) = to_picture(
                at_cell(
                    block_of({"mid": {level: still(record.sizes[level])}}), "mid", level, (row, column), record.sizes
                ),
                record,
            )[4:5]
            assert centre_x == pytest.approx((column + 0.5) * stride * 200 / 43)
            assert centre_y == pytest.approx((row + 0.5) * stride * 300 / 64)


def still(size):
    return Kernel(np.zeros((*size, 9, 2), np.float32), np.ones((*size, 9), np.float32))


@pytest.mark.parametrize("point", [(-1, 5), (200, 5), (5, 300), (float("nan"), 5)])
def test_a_point_beside_the_picture_is_named(point):
    with pytest.raises(RecordError, match="is not in the picture of 200x300 pixels"):
        cell_at(record_of((300, 200), (64, 43)), 0, point)


def test_the_level_of_a_box():
    record = record_of((128, 192), (64, 96))  # half the size
    sides = {0: 2 * 64, 1: 2 * 128, 2: 2 * 256}
    assert {level_of(record, [0, 0, side, side]): side for side in sides.values()} == sides
    assert level_of(record, [0, 0, 0, 0]) == 0
    assert level_of(record, None) == 0
    with pytest.raises(RecordError, match=r"level 3: the model has levels 0 to 2 \(strides 8, 16, 32\)"):
        checked_level(record, 3)
