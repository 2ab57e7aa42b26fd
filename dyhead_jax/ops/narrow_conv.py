"""Convolution at stride 1 to few channels, such as the one that predicts offsets, in a form that is fast on CPUs.

The CPU's form is one matrix product for all taps, followed by shifts of its narrow result. Forward + backward it takes
0.5 times as long as a plain convolution 256 -> 256 for 27 output channels, and 0.2 for 4;
`lax.conv_general_dilated` takes 0.7 and 0.8. For two convolutions to 27 channels in a loop, as over blocks
(`DyHead.scan`), the figures are 1.2 and 90. With 64 output channels `lax` is the faster one, 1.0 against 2.8.
Measured with jax 0.10.1 on two cores of an AMD EPYC: benchmarks/results/cpu_forms.md.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from dyhead_jax.ops import backend

WIDEST = 27  # most output channels for which "auto" takes the matrix product on a CPU


def narrow_conv(x: jax.Array, kernel: jax.Array, implementation: str = "auto") -> jax.Array:
    """x: (b, h, w, c); kernel: (kh, kw, c, features) with odd sides, both of one dtype; padded by half a kernel.

    Returns (b, h, w, features) in the dtype of x. implementation: "shifted" (a matrix product, then shifts), "lax", or
    "auto": that of `backend.shifted_or_lax` where `features` is at most WIDEST and at most half of c, otherwise "lax".
    """
    c, features = kernel.shape[2:]
    if implementation == "auto":
        few = features <= WIDEST and 2 * features <= c
        implementation = backend.shifted_or_lax() if few else "lax"
    if implementation == "shifted":
        return _products(x, kernel)
    padding = [(n // 2, n // 2) for n in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def _products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # y at pixel (i, j) for a tap belongs to the output pixel that reads (i, j) through this tap
    wide = jnp.promote_types(x.dtype, jnp.float32)
    y = jnp.tensordot(x, _flat(kernel), 1, preferred_element_type=wide)
    kh, kw = kernel.shape[:2]
    y = jnp.pad(y, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    parts = jnp.split(y, kh * kw, axis=-1)
    return functools.reduce(jnp.add, _windows(parts, (kh, kw), x.shape[1:3])).astype(x.dtype)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _products(x, kernel), (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    kh, kw, c, features = kernel.shape
    padded = jnp.pad(g, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    windows = list(_windows([padded] * (kh * kw), (kh, kw), x.shape[1:3]))
    # in reverse: what a tap reads from its right, its gradient sends to the left
    d_y = jnp.concatenate(windows[::-1], axis=-1)
    # image by image, as in `deform_conv.tap_scan`
    rows = [v.reshape(v.shape[0], -1, v.shape[3]) for v in (x, d_y)]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    d_kernel = jnp.einsum("bpc,bpd->bcd", *rows, preferred_element_type=wide).sum(0).astype(kernel.dtype)
    d_kernel = d_kernel.reshape(c, kh, kw, features).transpose(1, 2, 0, 3)
    return jnp.tensordot(d_y, _flat(kernel).T, 1), d_kernel


_products.defvjp(_forward, _backward)


def _flat(kernel: jax.Array) -> jax.Array:
    """(c, taps * features)."""
    return kernel.transpose(2, 0, 1, 3).reshape(kernel.shape[2], -1)


def _windows(padded: list[jax.Array], sides: tuple[int, ...], size: tuple[int, ...]) -> Iterator[jax.Array]:
    """For each tap, row-major, the part of its padded map that it reads: (b, *size, c)."""
    for tap, v in enumerate(padded):
        i, j = divmod(tap, sides[1])
        yield v[:, i : i + size[0], j : j + size[1]]
