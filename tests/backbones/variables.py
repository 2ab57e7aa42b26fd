"""Variables for tests: compiling the random draws of `init` takes longer than the tests themselves."""

import jax
import numpy as np


def random_variables(model, *arguments) -> dict:
    """NumPy arrays in the structure of `model.init(key, *arguments)`: kernels He-normal, the rest near its start."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *arguments))
    rng = np.random.default_rng(0)

    def draw(keys, leaf) -> np.ndarray:
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        name = keys[-1].key
        if name == "kernel":
            return noise * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
        return np.float32(name in ("scale", "var")) + np.float32(0.1) * np.abs(noise)

    return jax.tree_util.tree_map_with_path(draw, shapes)
