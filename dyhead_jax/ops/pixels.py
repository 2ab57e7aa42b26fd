"""The sum over the pixels of a map, and its transpose, which copies values to all pixels.

On CPUs the sum is taken over rows, then over columns, in two steps that the compiler must not merge: XLA's sum over
both at once is slower.
"""

import functools

import jax
import jax.numpy as jnp

from dyhead_jax.ops import backend
from dyhead_jax.ops.backend import Backend


def pixel_sum(x: jax.Array) -> jax.Array:
    """Sum over h and w of (b, h, w, c), in float32 or wider: (b, c)."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if backend.current() is not Backend.CPU:
        return x.sum((1, 2))
    return jax.lax.optimization_barrier(x.sum(1)).sum(1)


def spread(values: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Copies (b, c) to all pixels of a map of `size`: (b, *size, c). The gradient is `pixel_sum`."""
    return _spread(values, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _spread(values: jax.Array, size: tuple[int, int]) -> jax.Array:
    return jnp.broadcast_to(values[:, None, None], (values.shape[0], *size, values.shape[1]))


def _forward(values: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, None]:
    return _spread(values, size), None


def _backward(size: tuple[int, int], _: None, g: jax.Array) -> tuple[jax.Array]:
    return (pixel_sum(g).astype(g.dtype),)


_spread.defvjp(_forward, _backward)
