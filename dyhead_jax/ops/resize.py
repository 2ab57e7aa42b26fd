"""Bilinear upsampling with aligned corners, as two small matrix products."""

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.ops import backend
from dyhead_jax.ops.backend import Backend


def _weights(n_in: int, n_out: int) -> np.ndarray:
    """(n_out, n_in): row i blends the two inputs around i * (n_in - 1) / (n_out - 1)."""
    step = (n_in - 1) / (n_out - 1) if n_out > 1 else 0.0
    at = np.arange(n_out) * step
    low = np.minimum(at.astype(np.int64), n_in - 1)
    high = np.minimum(low + 1, n_in - 1)
    part = at - low
    matrix = np.zeros((n_out, n_in))
    np.add.at(matrix, (np.arange(n_out), low), 1 - part)
    np.add.at(matrix, (np.arange(n_out), high), part)
    return matrix


def upsample_align_corners(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """x: (b, h, w, c) to (b, *size, c), in the dtype of x: the corner pixels of input and output coincide.

    Equal to PyTorch's `interpolate(mode="bilinear", align_corners=True)`.
    """
    b, h, w, c = x.shape
    rows = jnp.asarray(_weights(h, size[0]), x.dtype)
    columns = jnp.asarray(_weights(w, size[1]), x.dtype)
    if backend.current() is not Backend.CPU:
        return jnp.einsum("Wv,bHvc->bHWc", columns, jnp.einsum("Hh,bhvc->bHvc", rows, x))
    # On a CPU both results would be transposed; with matrices repeated over the batch the axes keep their order.
    wide = jnp.matmul(jnp.broadcast_to(columns, (b, h, *columns.shape)), x)
    return jnp.matmul(jnp.broadcast_to(rows, (b, *rows.shape)), wide.reshape(b, h, -1)).reshape(b, *size, c)
