"""Convolution to few channels as products: the numbers of `lax`, forward and backward, and when it is used."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.ops import backend
from dyhead_jax.ops.narrow_conv import WIDEST, narrow_conv


@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (5, 3)])
@pytest.mark.parametrize("size", [(6, 7), (1, 2), (2, 1)])
def test_equals_lax(kernel, size):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, *size, 10))
    k = jax.random.normal(keys[1], (*kernel, 10, 4))
    g = jax.random.normal(keys[2], (2, *size, 4))

    @partial(jax.jit, static_argnums=0)
    def run(implementation, x, k, g):
        y, vjp = jax.vjp(lambda x, k: narrow_conv(x, k, implementation), x, k)
        return y, *vjp(g)

    for got, expected in zip(run("shifted", x, k, g), run("lax", x, k, g), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("c", "features", "convolutions"), [(64, 27, 0), (53, 27, 1), (4 * WIDEST, WIDEST, 0), (4 * WIDEST, WIDEST + 1, 1)]
)
def test_products_where_they_are_faster(c, features, convolutions):
    x, k = jnp.zeros((1, 4, 4, c)), jnp.zeros((3, 3, c, features))
    text = lambda: str(jax.make_jaxpr(lambda x, k: narrow_conv(x, k))(x, k))  # noqa: E731
    assert text().count("conv_general_dilated") == (convolutions if jax.default_backend() == "cpu" else 1)
    for name, expected in (("cpu", convolutions), ("gpu", 1), ("tpu", 1)):
        with backend.tracing_for(name):
            assert text().count("conv_general_dilated") == expected


@pytest.mark.parametrize("ambient", list(backend.Backend))
@pytest.mark.parametrize(("form", "convolutions"), [("shifted", 0), ("lax", 1)])
def test_a_named_form_is_used_whatever_the_backend(form, convolutions, ambient):
    x, k = jnp.zeros((1, 4, 4, 64)), jnp.zeros((3, 3, 64, 27))
    with backend.tracing_for(ambient):
        text = str(jax.make_jaxpr(lambda x, k: narrow_conv(x, k, form))(x, k))
    assert text.count("conv_general_dilated") == convolutions


def test_bfloat16_stays():
    x, k = jnp.ones((1, 3, 3, 8), jnp.bfloat16), jnp.ones((3, 3, 8, 2), jnp.bfloat16)
    y, vjp = jax.vjp(lambda x, k: narrow_conv(x, k, "shifted"), x, k)
    assert {y.dtype, *(v.dtype for v in vjp(y))} == {jnp.dtype(jnp.bfloat16)}
    assert y[0, 1, 1, 0] == 72
