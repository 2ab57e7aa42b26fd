"""Variables for tests without compiling the random draws of `init`, which takes longer than most tests."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def draw(init: Callable[[], Any], seed: int = 0, noise: float = 0.05) -> Any:
    """NumPy arrays in the structure of `init()`, moved a little from where they start, so that none sits at a special
    place: constants keep their value, what is random is drawn with the standard deviation of PyTorch's layers, 0.01 in
    predictors."""
    program, shapes = jax.make_jaxpr(init, return_shape=True)()
    made_by = {output: equation for equation in program.eqns for output in equation.outvars}
    rng = np.random.default_rng(seed)
    leaves = []
    named = jax.tree_util.tree_leaves_with_path(shapes)
    for output, (path, leaf) in zip(program.jaxpr.outvars, named, strict=True):
        equation = made_by.get(output)
        if equation is not None and equation.primitive.name == "broadcast_in_dim":
            start = equation.invars[0].val
        else:
            inputs = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 33
            scale = 0.01 if "predictor" in jax.tree_util.keystr(path) else 1 / np.sqrt(3 * inputs)
            start = scale * rng.normal(size=leaf.shape)
        leaves.append(np.asarray(start + noise * rng.normal(size=leaf.shape), leaf.dtype))
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)
