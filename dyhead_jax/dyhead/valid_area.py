"""Statistics over the image alone: `valid` (b, h, w) bool marks the cells of a map that lie on it and not on padding.

The references take means and norms over the whole padded map, so the canvas is part of their result; this is the
option `config.model.dyhead.valid_area`. A module takes part by a keyword `valid` in its `__call__`; one without it is
called as ever. The sums then have the terms, and the divisor, that the map of the unpadded image has.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dyhead_jax.ops.pixels import pixel_sum


def valid_cells(sizes: jax.Array, shapes: Sequence[tuple[int, int]], strides: Sequence[int]) -> list[jax.Array]:
    """(b, h_l, w_l) bool for each level of `shapes` (h_l, w_l): cells that begin inside the image of `sizes` (b, 2), as
    many as its map would have without padding."""
    levels = []
    for (h, w), stride in zip(shapes, strides, strict=True):
        rows = jnp.arange(h)[None] * stride < sizes[:, :1]
        columns = jnp.arange(w)[None] * stride < sizes[:, 1:]
        levels.append(rows[:, :, None] & columns[:, None, :])
    return levels


def over(valid: Any, module: Callable[..., Any]) -> Callable[..., Any]:
    """`module` with `valid` (None: the whole map) handed over where its call takes it."""
    if valid is None or "valid" not in inspect.signature(module).parameters:
        return module
    return partial(module, valid=valid)


def pooled(x: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Mean over h and w of x (b, h, w, c), float32 or wider: (b, c)."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if valid is None:
        return pixel_sum(wide) / (x.shape[1] * x.shape[2])
    return jnp.mean(wide, axis=(1, 2), where=valid[..., None])


def normed(norm: Callable[..., jax.Array], x: jax.Array, valid: jax.Array | None) -> jax.Array:
    """norm(x) of a Linen GroupNorm, whose statistics are those of the valid cells; all cells are normalised."""
    return norm(x) if valid is None else norm(x, mask=jnp.broadcast_to(valid[..., None], x.shape))
