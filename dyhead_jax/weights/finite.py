"""Weights with a NaN find nothing, or a hundred boxes everywhere, without a word: they are refused when read."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class NotFiniteError(ValueError):
    """An array of a model is not finite, or what a network makes of an image; the message names it."""


def check(variables: Any, where: str) -> None:
    """Raises NotFiniteError where an array of the tree is not finite; it names the first, and how many there are.

    variables: host arrays, or shapes, which are passed over. where: the file or folder, for the message.
    """
    bad = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
        if not isinstance(leaf, jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jnp.inexact)
        if not np.isfinite(leaf).all()
    ]
    if bad:
        more = f", and so have {len(bad) - 1} more arrays" if len(bad) > 1 else ""
        raise NotFiniteError(f"{where}: {bad[0]} has a NaN or infinite value{more}")
