"""Both forms of grouped convolution give the numbers of `lax.conv_general_dilated`, forward and backward."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.ops import backend
from dyhead_jax.ops.depthwise import grouped_conv, same_padding

CASES = {  # size, channels in, channels out, groups, kernel, stride, padding
    "depthwise 3x3": ((7, 9), 5, 5, 5, 3, 1, "SAME"),
    "depthwise 5x5 stride 2, odd": ((9, 7), 4, 4, 4, 5, 2, "SAME"),
    "depthwise 5x5 stride 2, even": ((10, 8), 4, 4, 4, 5, 2, "SAME"),
    "depthwise 3x3 stride 2, even": ((8, 6), 4, 4, 4, 3, 2, "SAME"),
    "depthwise 3x3 stride 3, one row": ((3, 8), 4, 4, 4, 3, 3, "SAME"),
    "depthwise, own padding": ((6, 6), 3, 3, 3, 3, 2, ((2, 0), (0, 1))),
    "grouped": ((6, 5), 64, 64, 16, 3, 1, ((1, 1), (1, 1))),
    "grouped stride 2": ((7, 6), 48, 96, 3, 3, 2, ((1, 1), (1, 1))),
    "two outputs a channel": ((6, 5), 4, 8, 4, 3, 1, "SAME"),
}


def _arrays(size, c_in, c_out, groups, kernel):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, *size, c_in))
    return x, jax.random.normal(keys[1], (kernel, kernel, c_in // groups, c_out)), keys[2]


@pytest.mark.parametrize("case", CASES)
def test_equals_lax_convolution(case):
    size, c_in, c_out, groups, k, stride, padding = CASES[case]
    x, kernel, key = _arrays(size, c_in, c_out, groups, k)

    def reference(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    def shifted(x, kernel):
        return grouped_conv(x, kernel, groups=groups, stride=stride, padding=padding, implementation="shifted")

    cotangent = jax.random.normal(key, jax.eval_shape(reference, x, kernel).shape)

    @partial(jax.jit, static_argnums=0)
    def run(function, x, kernel, cotangent):
        y, vjp = jax.vjp(function, x, kernel)
        return y, *vjp(cotangent)

    got, expected = (run(function, x, kernel, cotangent) for function in (shifted, reference))
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)


def test_same_padding_is_tensorflows():
    assert same_padding((8, 7), (3, 5), 2) == ((0, 1), (2, 2))
    assert same_padding((5, 5), (3, 3), 1) == ((1, 1), (1, 1))


def test_auto_gives_the_same_numbers():
    x, kernel, _ = _arrays((5, 6), 4, 4, 4, 3)
    auto, lax = (grouped_conv(x, kernel, groups=4, implementation=i) for i in ("auto", "lax"))
    np.testing.assert_allclose(auto, lax, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ambient", list(backend.Backend))
@pytest.mark.parametrize("form", ["shifted", "lax", "auto"])
@pytest.mark.parametrize("groups", [4, 2])
def test_a_named_form_is_used_whatever_the_backend(form, groups, ambient):
    x, kernel, _ = _arrays((5, 6), 4, 4, groups, 3)
    with backend.tracing_for(ambient):
        run = lambda x, k: grouped_conv(x, k, groups=groups, implementation=form)  # noqa: E731
        text = str(jax.make_jaxpr(run)(x, kernel))
    uses_lax = form == "lax" or (form == "auto" and ambient != "cpu")
    assert (f"feature_group_count={groups}" in text) == uses_lax


def test_bfloat16_gradient_is_summed_in_float32():
    x = jnp.ones((1, 40, 40, 2), jnp.bfloat16)
    kernel = jnp.ones((1, 1, 1, 2), jnp.bfloat16)
    gradient = jax.grad(lambda k: grouped_conv(x, k, groups=2, implementation="shifted").astype(jnp.float32).sum())(
        kernel
    )
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype(np.float32).ravel(), 1600, rtol=1e-2)


def test_gradient_inside_a_mapped_axis():
    x, kernel, _ = _arrays((5, 6), 4, 4, 4, 3)

    def gradient(x):
        return jax.grad(lambda k: (grouped_conv(x, k, groups=4, implementation="shifted") ** 2).sum())(kernel)

    mapped = jax.pmap(lambda x: jax.lax.psum(gradient(x), "i"), axis_name="i")(x.reshape(2, 1, 5, 6, 4))
    np.testing.assert_allclose(mapped[0], gradient(x), rtol=1e-4, atol=1e-4)


def test_shapes_that_do_not_fit():
    x, kernel, _ = _arrays((5, 6), 4, 4, 4, 3)
    with pytest.raises(ValueError, match="4 channels and a kernel of shape"):
        grouped_conv(x, kernel, groups=2)
    with pytest.raises(ValueError, match="implementation is 'fast'"):
        grouped_conv(x, kernel, groups=4, implementation="fast")
