"""Sums over pixels, and their transpose, against `jnp` in the wider type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.ops import backend
from dyhead_jax.ops.pixels import pixel_sum, spread


@pytest.mark.parametrize("ambient", list(backend.Backend))
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_spread_and_its_gradient(ambient, dtype):
    values = jax.random.normal(jax.random.key(0), (2, 5), dtype)
    g = jax.random.normal(jax.random.key(1), (2, 30, 40, 5), dtype)
    with backend.tracing_for(ambient):
        out, vjp = jax.vjp(lambda v: spread(v, (30, 40)), values)
        total, (gradient,) = pixel_sum(g), vjp(g)
    np.testing.assert_array_equal(out, jnp.tile(values[:, None, None], (1, 30, 40, 1)))
    assert (out.dtype, gradient.dtype, total.dtype) == (dtype, dtype, jnp.float32)
    expected = np.asarray(g, np.float64).sum((1, 2))
    np.testing.assert_allclose(total, expected, atol=1e-4)
    np.testing.assert_array_equal(gradient, total.astype(dtype))


@pytest.mark.parametrize("ambient", list(backend.Backend))
def test_only_a_cpu_sums_in_two_steps(ambient):
    with backend.tracing_for(ambient):
        text = str(jax.make_jaxpr(lambda x: pixel_sum(x))(jnp.zeros((1, 3, 4, 5))))
    assert text.count("reduce_sum") == (2 if ambient == "cpu" else 1)
