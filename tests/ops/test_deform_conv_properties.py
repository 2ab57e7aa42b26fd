"""Deformable convolution for any offsets and pixels, huge, infinite and NaN ones too, and on the smallest maps."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyhead_jax.ops.deform_conv import IMPLEMENTATIONS, deform_conv, deform_conv_levels
from tests.ops import deform_conv_reference
from tests.ops.test_deform_conv import inputs
from tests.properties import drawn

KERNEL, PADDING, DILATION, GROUPS = (3, 3), (1, 1), (1, 1), 1
ODD = (0.0, -0.0, 1.0, -1.0, 0.5, 5.0, -6.0, 1e6, -1e6, 1e38, -1e38, 3.4e38, np.inf, -np.inf, np.nan)
EACH = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
OFTEN = pytest.mark.parametrize(  # many examples
    "implementation",
    ["windows", *(pytest.param(name, marks=pytest.mark.long) for name in IMPLEMENTATIONS if name != "windows")],
)


@functools.cache
def compiled(implementation, stride):
    options = {"stride": stride, "padding": PADDING, "implementation": implementation}
    return jax.jit(lambda v: deform_conv(**v, **options))


def made(stride, h=5, w=4):
    return inputs(KERNEL, stride, PADDING, DILATION, GROUPS, 2, True, True, h=h, w=w, c=2, c_out=3)


def reference(v, stride):
    return deform_conv_reference.deform_conv(**v, stride=stride, padding=PADDING, dilation=DILATION, groups=GROUPS)


places = st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(ODD)), max_size=12)


def put(array, at):
    flat = array.reshape(-1)
    for place, value in at:
        flat[place % flat.size] = value


@pytest.mark.parametrize(
    ("implementation", "stride"),
    [
        ("gather", (1, 1)),
        pytest.param("dense", (1, 1), marks=pytest.mark.long),
        ("windows", (1, 1)),
        ("gather", (2, 1)),
        pytest.param("dense", (2, 1), marks=pytest.mark.long),
        pytest.param("windows", (2, 1), marks=pytest.mark.long),
    ],
)
@drawn
@given(at=places, scale=st.sampled_from((0.1, 1.0, 3.0, 1e6, 1e38)), seed=st.integers(0, 99))
def test_any_offsets_equal_the_plain_reference(implementation, stride, at, scale, seed):
    v = made(stride)
    v["offsets"] = (scale * np.random.default_rng(seed).uniform(-1, 1, v["offsets"].shape)).astype(np.float32)
    put(v["offsets"], at)
    got = np.asarray(compiled(implementation, stride)(v))
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, reference(v, stride), atol=2e-5)


@OFTEN
@drawn
@given(
    name=st.sampled_from(("x", "mask", "offsets")),
    value=st.sampled_from((np.nan, np.inf, -np.inf)),
    place=st.integers(0, 10**6),
)
def test_what_is_not_finite_stays_in_its_own_image(implementation, name, value, place):
    v = made((1, 1))
    whole = np.asarray(compiled(implementation, (1, 1))(v))
    broken = {key: np.array(array) for key, array in v.items()}
    put(broken[name][:1], [(place, value)])
    got = np.asarray(compiled(implementation, (1, 1))(broken))
    np.testing.assert_array_equal(got[1], whole[1])
    bad = ~np.isfinite(got[0]).all(-1)
    row, column = np.unravel_index(place % broken[name][0].size, broken[name][0].shape)[:2]
    if name == "offsets":
        assert not bad.any()
    elif name == "mask":
        only = np.zeros_like(bad)
        only[row, column] = True
        assert not (bad & ~only).any()
    elif implementation == "gather":  # exactly where one of the four corners of a sample is the pixel
        group = (place % broken["x"][0].size) % 2  # each of the two channels is a deformable group
        assert (bad == reads(v["offsets"][0], group, row, column)).all()


@pytest.mark.long
@EACH
def test_nor_do_its_gradients_leave_it(implementation):
    def total(inputs, rest):
        return jnp.sum(jnp.sin(deform_conv(**rest, **inputs, padding=PADDING, implementation=implementation)))

    run = jax.jit(jax.grad(total))
    v = made((1, 1))
    rest = {name: v.pop(name) for name in ("kernel", "bias")}
    whole = run(v, rest)
    for name, value in itertools.product(v, (np.nan, np.inf)):
        broken = {key: np.array(array) for key, array in v.items()}
        put(broken[name][:1], [(37, value)])
        for key, found in run(broken, rest).items():
            np.testing.assert_array_equal(found[1], whole[key][1], err_msg=f"{value} in {name}, gradient of {key}")


def reads(offsets, group, row, column):
    """(h, w) bool: the positions with a sample that has the pixel among its corners, whatever its weight; one outside
    of the map reads the four pixels in the top left corner with weight zero."""
    found = np.zeros(offsets.shape[:2], bool)
    for i, j in np.ndindex(found.shape):
        for tap in range(9):
            dy, dx = offsets[i, j, group * 9 + tap]
            y, x = np.float32(i - 1 + tap // 3) + dy, np.float32(j - 1 + tap % 3) + dx
            if not (-1 < y < 5 and -1 < x < 4):
                y = x = 0
            found[i, j] |= row - np.floor(y) in (0, 1) and column - np.floor(x) in (0, 1)
    return found


@EACH
def test_a_map_of_one_pixel(implementation):
    v = made((2, 2), h=1, w=1)
    np.testing.assert_allclose(compiled(implementation, (2, 2))(v), reference(v, (2, 2)), atol=2e-5)


@EACH
@pytest.mark.parametrize(("h", "w", "padding"), [(0, 4, 1), (0, 4, 2), (4, 0, 1), (2, 2, 0)])
def test_maps_and_results_without_pixels(implementation, h, w, padding):
    """A map without pixels reads as zeros."""
    size = [n + 2 * padding - 2 for n in (h, w)]
    v = {name: array for name, array in made((1, 1)).items() if name in ("kernel", "bias")}
    v["x"] = np.ones((2, h, w, 2), np.float32)
    v["offsets"], v["mask"] = np.zeros((2, *size, 18, 2), np.float32), np.ones((2, *size, 18), np.float32)
    run = lambda v: jnp.sum(deform_conv(**v, padding=padding, implementation=implementation))  # noqa: E731
    total, grads = jax.value_and_grad(run)(v)
    assert total == pytest.approx(2 * size[0] * size[1] * v["bias"].sum(), rel=1e-5)
    assert not grads["kernel"].any()
    assert grads["x"].shape == v["x"].shape


def test_beside_maps_that_have_pixels_and_in_an_empty_batch():
    whole = made((1, 1))
    out = deform_conv_levels(
        [whole["x"][:, :0], whole["x"]],
        [np.zeros((2, 0, 4, 18, 2), np.float32), whole["offsets"]],
        [np.zeros((2, 0, 4, 18), np.float32), whole["mask"]],
        whole["kernel"],
        whole["bias"],
        padding=1,
    )
    assert out[0].shape == (2, 0, 4, 3)
    np.testing.assert_allclose(out[1], reference(whole, (1, 1)), atol=2e-5)
    none = {name: array[:0] if name in ("x", "offsets", "mask") else array for name, array in whole.items()}
    assert deform_conv(**none, padding=1).shape == (0, 5, 4, 3)
