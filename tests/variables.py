"""Variables for tests without compiling the random draws of `init`, which takes longer than most tests."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def draw(init: Callable[[], Any], seed: int = 0, noise: float = 0.05) -> Any:
    """NumPy arrays in the structure of `init()`, moved a little from where they start, so that none sits at a special
    place: constants keep their value, what is random is drawn with the standard deviation of PyTorch's layers."""
    program, shapes = jax.make_jaxpr(init, return_shape=True)()
    made_by = {output: equation for equation in program.eqns for output in equation.outvars}
    rng = np.random.default_rng(seed)
    leaves = []
    for output, leaf in zip(program.jaxpr.outvars, jax.tree.leaves(shapes), strict=True):
        equation = made_by.get(output)
        if equation is not None and equation.primitive.name == "broadcast_in_dim":
            start = equation.invars[0].val
        else:
            start = rng.normal(size=leaf.shape) / np.sqrt(3 * np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100)
        leaves.append(np.asarray(start + noise * rng.normal(size=leaf.shape), leaf.dtype))
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)
