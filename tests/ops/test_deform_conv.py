"""Deformable convolution: against the plain reference, against `lax.conv`, and its properties."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dyhead_jax.ops import backend
from dyhead_jax.ops.deform_conv import (
    IMPLEMENTATIONS,
    Call,
    deform_conv,
    deform_conv_calls,
    deform_conv_levels,
    dispatch,
    leftover,
)
from tests.ops import deform_conv_reference

# "auto" is "gather" on a CPU; "windows" is compared with it by a test of its own
LONG = [pytest.param(name, marks=pytest.mark.long) for name in IMPLEMENTATIONS if name != "dense"]
EACH = pytest.mark.parametrize("implementation", ["auto", "dense", *LONG])
# kernel, stride, padding, dilation, groups, deformable groups, mask, bias
SETTINGS = [
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, 1, True, True),
    ((3, 3), (2, 2), (1, 1), (1, 1), 2, 3, True, False),
    ((3, 3), (1, 1), (2, 2), (2, 2), 1, 2, False, True),
    ((1, 1), (1, 1), (0, 0), (1, 1), 3, 1, True, False),
    ((2, 5), (2, 1), (0, 3), (1, 2), 6, 6, False, False),
]


def inputs(
    kernel, stride, padding, dilation, groups, deform_groups, mask, bias, h=7, w=6, c=6, c_out=12, b=2, spread=2
):
    rng = np.random.default_rng(sum(kernel) + 10 * groups + deform_groups)
    size = [(n + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i, n in enumerate((h, w))]
    taps = kernel[0] * kernel[1] * deform_groups
    return {
        "x": rng.normal(size=(b, h, w, c)).astype(np.float32),
        "offsets": (spread * rng.normal(size=(b, *size, taps, 2))).astype(np.float32),
        "mask": rng.uniform(size=(b, *size, taps)).astype(np.float32) if mask else None,
        "kernel": rng.normal(size=(*kernel, c // groups, c_out)).astype(np.float32),
        "bias": rng.normal(size=c_out).astype(np.float32) if bias else None,
    }


@EACH
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_equals_the_plain_reference(setting, implementation):
    v = inputs(*setting)
    _, stride, padding, dilation, groups, *_ = setting
    expected = deform_conv_reference.deform_conv(**v, stride=stride, padding=padding, dilation=dilation, groups=groups)
    run = jax.jit(
        lambda v: deform_conv(
            **v, stride=stride, padding=padding, dilation=dilation, groups=groups, implementation=implementation
        )
    )
    np.testing.assert_allclose(run(v), expected, atol=2e-5)


@EACH
def test_gradients_equal_finite_differences(implementation):
    with jax.enable_x64(True):
        setting = ((3, 3), (1, 1), (1, 1), (1, 1), 1, 2, True, True)
        v = {k: jnp.asarray(a, jnp.float64) for k, a in inputs(*setting, h=4, w=5, c=4, c_out=3, b=1).items()}
        run = lambda v: jnp.sum(jnp.sin(deform_conv(**v, padding=1, implementation=implementation)))  # noqa: E731
        run, grads = jax.jit(run), jax.jit(jax.grad(run))(v)
        rng = np.random.default_rng(0)
        for name, array in v.items():
            direction = jnp.asarray(rng.normal(size=array.shape))
            step = 1e-6
            up, down = ({**v, name: array + s * step * direction} for s in (1, -1))
            expected = (run(up) - run(down)) / (2 * step)
            got = jnp.sum(grads[name] * direction)
            assert abs(got - expected) <= 1e-6 * max(1, abs(expected)), name


@EACH
@pytest.mark.parametrize("stride", [1, 2])
def test_zero_offsets_and_full_mask_are_a_plain_convolution(implementation, stride):
    v = inputs((3, 3), (stride,) * 2, (1, 1), (1, 1), 1, 1, True, False, h=9, w=8)
    v["offsets"], v["mask"] = np.zeros_like(v["offsets"]), np.ones_like(v["mask"])
    expected = jax.lax.conv_general_dilated(
        v["x"], v["kernel"], (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    got = jax.jit(lambda v: deform_conv(**v, stride=stride, padding=1, implementation=implementation))(v)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@EACH
def test_an_integer_offset_is_a_shift(implementation):
    v = inputs((1, 1), (1, 1), (0, 0), (1, 1), 1, 1, False, False)
    v["offsets"] = np.broadcast_to(np.array([2.0, -1.0], np.float32), v["offsets"].shape)
    shifted = np.zeros_like(v["x"])
    shifted[:, :-2, 1:] = v["x"][:, 2:, :-1]
    expected = np.einsum("bhwc,cd->bhwd", shifted, v["kernel"][0, 0])
    got = jax.jit(lambda v: deform_conv(**v, implementation=implementation))(v)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "spread"),
    [(SETTINGS[0], 5), *(pytest.param(s, 30, marks=pytest.mark.long) for s in SETTINGS)],
    ids=str,
)
def test_windows_and_what_lies_beyond_them_equal_gathers(setting, spread):
    """Values and all gradients where some and where most positions have samples outside their window."""
    _, stride, padding, dilation, groups, *_ = setting
    v = inputs(*setting, h=37, w=26, spread=spread)
    v = {name: array for name, array in v.items() if array is not None}
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}

    def objective(v, implementation):
        out = deform_conv(**{"mask": None, "bias": None, **v}, **options, implementation=implementation)
        return jnp.sum(jnp.sin(out)), out

    run = jax.jit(jax.value_and_grad(objective, has_aux=True), static_argnums=1)
    (_, got), grads = run(v, "windows")
    (_, expected), expected_grads = run(v, "gather")
    np.testing.assert_allclose(got, expected, atol=2e-5)
    for name in v:
        scale = np.abs(expected_grads[name]).max()
        np.testing.assert_allclose(grads[name], expected_grads[name], atol=2e-5 * scale, err_msg=name)


def test_only_samples_beyond_the_windows_are_read_again(monkeypatch):
    """Narrow windows hold offsets of up to 3 pixels, wide ones up to 7; many long offsets widen them, one does not."""
    v = inputs(*SETTINGS[0], h=17, w=18)
    read = leftover.gather.read
    monkeypatch.setattr(leftover.gather, "read", lambda *a: read(*a) * jnp.nan)
    run = jax.jit(lambda v: deform_conv(**v, padding=1, implementation="windows"))

    def is_read(everywhere, at_one_position):
        offsets = np.full_like(v["offsets"], everywhere)
        offsets[0, 7, 7] = at_one_position
        return np.isnan(run(v | {"offsets": offsets})).any()

    assert not is_read(2.9, 2.9)
    assert is_read(2.9, 4.0)
    assert not is_read(4.0, 4.0)
    assert not is_read(6.9, 6.9)
    assert is_read(6.9, 8.0)
    assert is_read(8.0, 8.0)


@EACH
@pytest.mark.parametrize("at", [-1.0, 4.0])
def test_on_the_rim_value_and_gradients_are_zero(implementation, at):
    x = jnp.ones((1, 4, 4, 1))
    offsets = jnp.full((1, 4, 4, 1, 2), at) - jnp.stack(jnp.mgrid[:4, :4], -1).reshape(1, 4, 4, 1, 2)
    kernel = jnp.ones((1, 1, 1, 1))
    run = lambda x, o: jnp.sum(deform_conv(x, o, None, kernel, implementation=implementation))  # noqa: E731
    value, grads = jax.jit(jax.value_and_grad(run, argnums=(0, 1)))(x, offsets)
    assert value == 0
    assert all(not g.any() for g in grads)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_at_pixels_the_slope_is_that_towards_the_next_pixel(implementation):
    """As in the references, and where every sample lies before the first step. A coordinate just below a whole number,
    which float32 rounds up when the floor is taken off, belongs to the pixel before."""
    x = np.random.default_rng(0).normal(size=(1, 5, 6, 1)).astype(np.float32)
    below = np.float32(-1e-9)  # -1e-9 - floor(-1e-9) is 1 in float32
    offsets = np.zeros((1, 5, 6, 1, 2), np.float32)
    offsets[0, 0, :, 0, 0] = offsets[0, :, 0, 0, 1] = below
    offsets[0, 2, 2, 0] = 1, -1
    slope = jax.jit(
        jax.grad(lambda o: jnp.sum(deform_conv(x, o, None, jnp.ones((1, 1, 1, 1)), implementation=implementation)))
    )
    padded = np.pad(x[0, :, :, 0], ((1, 1), (1, 1)))  # the pixel (i, j) is at (i + 1, j + 1)
    expected = np.zeros((5, 6, 2), np.float32)
    for i, j in np.ndindex(5, 6):
        place = np.array([i, j]) + np.where(np.abs(offsets[0, i, j, 0]) == 1, offsets[0, i, j, 0], 0).astype(int)
        row, column = place + 1
        cell = place + 1 - (offsets[0, i, j, 0] == below)
        expected[i, j, 0] = padded[cell[0] + 1, column] - padded[cell[0], column]
        expected[i, j, 1] = padded[row, cell[1] + 1] - padded[row, cell[1]]
    np.testing.assert_allclose(slope(offsets)[0, :, :, 0], expected, atol=1e-4)


@EACH
def test_huge_offsets_are_harmless(implementation):
    v = inputs((3, 3), (1, 1), (1, 1), (1, 1), 1, 1, True, False)
    v["offsets"] = np.full_like(v["offsets"], 1e30)
    assert not np.asarray(jax.jit(lambda v: deform_conv(**v, padding=1, implementation=implementation))(v)).any()


@EACH
def test_a_batch_of_two_equals_two_batches_of_one(implementation):
    # float64: a float32 product of another batch size is blocked, and so rounded, otherwise on some processors
    with jax.enable_x64(True):
        v = {k: jnp.asarray(a, jnp.float64) for k, a in inputs(*SETTINGS[0]).items()}
        run = jax.jit(lambda v: deform_conv(**v, padding=1, implementation=implementation))
        both = run(v)
        assert both.dtype == jnp.float64
        for i in range(2):
            single = {k: a[i : i + 1] if k in ("x", "offsets", "mask") else a for k, a in v.items()}
            np.testing.assert_allclose(both[i : i + 1], run(single), rtol=0, atol=1e-13)


@EACH
def test_levels_together_equal_levels_alone(implementation):
    fine, coarse = (inputs(*SETTINGS[0], h=h, w=w) for h, w in ((9, 7), (5, 4)))
    together = deform_conv_levels(
        [fine["x"], coarse["x"]],
        [fine["offsets"], coarse["offsets"]],
        [fine["mask"], coarse["mask"]],
        fine["kernel"],
        fine["bias"],
        padding=1,
        implementation=implementation,
    )
    for got, v in zip(together, (fine, coarse), strict=True):
        alone = deform_conv(
            v["x"], v["offsets"], v["mask"], fine["kernel"], fine["bias"], padding=1, implementation=implementation
        )
        np.testing.assert_allclose(got, alone, atol=1e-6)


def calls_on_three_maps():
    """Maps 9x7, 5x4 and 3x2 as a pyramid, and one call on all, one at stride 2 on the finer two, one on the last."""
    sizes = ((9, 7), (5, 4), (3, 2))
    fine = [inputs((3, 3), (1, 1), (1, 1), (1, 1), 1, 3, True, True, h=h, w=w) for h, w in sizes]
    half = [inputs((3, 3), (2, 2), (1, 1), (1, 1), 1, 3, True, True, h=h, w=w) for h, w in sizes]

    def call(levels, made, stride, seed, biased=True):
        bias = made[0]["bias"] + seed if biased else None
        offsets, masks = [made[i]["offsets"] for i in levels], [made[i]["mask"] for i in levels]
        return Call(levels, offsets, masks, made[0]["kernel"] * (1 + seed), bias, stride, padding=1)

    calls = [call([0, 1, 2], fine, 1, 0), call([0, 1], half, 2, 1), call([2], fine, 1, 2, biased=False)]
    calls[2] = calls[2]._replace(masks=None)
    return [v["x"] for v in fine], calls


@pytest.mark.parametrize(
    "implementation", [*(pytest.param(name, marks=pytest.mark.long) for name in IMPLEMENTATIONS), "mixed"]
)
def test_calls_on_the_same_maps_equal_calls_alone(implementation, monkeypatch):
    """Values and all gradients; "mixed" reads the two smaller maps by "dense", the largest by "gather"."""
    if implementation == "mixed":
        implementation = "auto"
        monkeypatch.setattr(dispatch, "DENSE_PIXELS", dict.fromkeys(backend.Backend, 20))
        monkeypatch.setattr(dispatch, "LARGE", dict.fromkeys(backend.Backend, "gather"))
    maps, calls = calls_on_three_maps()
    fixed = [(call.levels, call.stride) for call in calls]

    def whole(arrays, together):
        maps, arrays = arrays
        calls = [
            Call(levels, *rest, stride=stride, padding=1) for (levels, stride), rest in zip(fixed, arrays, strict=True)
        ]
        if together:
            out = deform_conv_calls(maps, calls, implementation=implementation)
        else:
            out = [
                deform_conv_levels(
                    [maps[i] for i in levels], *call[1:5], stride=stride, padding=1, implementation=implementation
                )
                for call, (levels, stride) in zip(calls, fixed, strict=True)
            ]
        return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(out)), out

    arrays = maps, [call[1:5] for call in calls]
    run = jax.jit(jax.value_and_grad(whole, has_aux=True), static_argnums=1)
    for got, expected in zip(*(jax.tree.leaves(run(arrays, together)) for together in (True, False)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-5)


def test_calls_with_other_deformable_groups():
    maps, calls = calls_on_three_maps()
    calls[2] = calls[2]._replace(offsets=[calls[2].offsets[0][:, :, :, :9]])
    with pytest.raises(ValueError, match="calls with 1, 3 deformable groups"):
        deform_conv_calls(maps, calls)


@pytest.mark.parametrize("masked", [True, pytest.param(False, marks=pytest.mark.long)])
def test_positions_in_pieces_change_nothing(masked, monkeypatch):
    """Values and all gradients, for positions that fill the last piece and that do not."""
    kernel, groups = (3, 3), 2
    a = inputs(kernel, (1, 1), (1, 1), (1, 1), groups, 3, masked, True)
    b = inputs(kernel, (1, 1), (1, 1), (1, 1), groups, 3, masked, True, h=5, w=3)
    maps, offsets = [a["x"], b["x"]], [a["offsets"], b["offsets"]]
    masks = [a["mask"], b["mask"]] if masked else None

    def run(most):
        monkeypatch.setattr(dispatch, "PIECE", most)

        def objective(maps, offsets, masks, kernel, bias):
            out = deform_conv_levels(
                maps, offsets, masks, kernel, bias, padding=1, groups=groups, implementation="gather"
            )
            return sum(jnp.sum(jnp.sin(x)) for x in out), out

        function = jax.value_and_grad(objective, argnums=tuple(range(5)), has_aux=True)
        arguments = (maps, offsets, masks, a["kernel"], a["bias"])
        return jax.jit(function)(*arguments), str(jax.make_jaxpr(function)(*arguments)).count("length=")

    whole, loops = run(0)
    size = 2 * (7 * 6 + 5 * 3) * 6 * 4  # bytes: images, positions, channels of float32
    for pieces in (3, 4):  # of 57 positions
        parts, more = run(size // pieces)
        assert more > loops
        for got, expected in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-5)


@EACH
def test_bfloat16_keeps_coordinates_exact(implementation):
    """Beyond column 256 a bfloat16 coordinate would be off by a pixel."""
    x = jnp.zeros((1, 1, 600, 1), jnp.bfloat16).at[0, 0, 513].set(1)
    offsets = jnp.zeros((1, 1, 600, 1, 2))
    out = deform_conv(x, offsets, None, jnp.ones((1, 1, 1, 1), jnp.bfloat16), implementation=implementation)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"offsets": np.zeros((2, 7, 6, 18, 3))}, "axis 4 (dy, dx) of offsets is 3, expected 2"),
        ({"offsets": np.zeros((2, 6, 6, 9, 2))}, "axis 1 (rows) of offsets is 6, expected 7"),
        ({"offsets": np.zeros((2, 7, 6, 8, 2)), "mask": None}, "axis 3 of offsets is 8"),
        ({"offsets": np.zeros((2, 7, 6, 36, 2)), "mask": None}, "4 deformable groups do not divide the 6 channels"),
        ({"mask": np.zeros((2, 7, 6, 8))}, "shape of mask"),
        ({"kernel": np.zeros((3, 3, 5, 12))}, "axis 2 (input channels a group) of kernel"),
        ({"bias": np.zeros(5)}, "shape of bias is (5,), expected (12,)"),
        ({"x": np.zeros((7, 6, 6))}, "x has shape (7, 6, 6), expected 4 axes"),
        ({"implementation": "im2col"}, "implementation is 'im2col'"),
    ],
)
def test_wrong_shapes_are_named(change, says):
    v = inputs(*SETTINGS[0]) | change
    with pytest.raises(ValueError, match=re.escape(says)):
        deform_conv(**v, padding=1)


@pytest.mark.parametrize("pieces", [1, 3])
@EACH
def test_a_sharded_batch_moves_no_feature_map(implementation, pieces, monkeypatch):
    """Under jit over a mesh the only collective of forward + backward is the sum of the kernel's gradient."""
    monkeypatch.setattr(dispatch, "PIECE", 8 * 6 * 7 * 4 * 4 // pieces)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    run = lambda x, o, m, k: jnp.sum(deform_conv(x, o, m, k, padding=1, implementation=implementation) ** 2)  # noqa: E731
    shapes = [((8, 6, 7, 4), split), ((8, 6, 7, 9, 2), split), ((8, 6, 7, 9), split), ((3, 3, 4, 4), whole)]
    args = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=p) for s, p in shapes]
    hlo = jax.jit(jax.grad(run, argnums=(0, 1, 2, 3))).lower(*args).compile().as_text()
    assert "all-reduce" in hlo
    assert not re.search(r"all-gather|all-to-all|collective-permute", hlo)
