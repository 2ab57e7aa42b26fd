"""What tests and the contract compile fast is what the compiler makes by default."""

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.dyhead import DyHead
from tests.variables import draw

SIZES = ((13, 11), (7, 6))


def test_the_gradient_of_convolutions_in_a_loop_is_that_without_it():
    """In programs that are split over threads XLA's older fusions get it wrong, by a third."""
    pyramid = [np.random.default_rng(0).normal(size=(2, *size, 16)).astype(np.float32) for size in SIZES]
    head = DyHead(num_blocks=2, features=16, norm_groups=4, spatial=None)
    variables = draw(lambda: head.init(jax.random.key(0), pyramid))
    blocks = variables["params"]["block_0"], variables["params"]["block_1"]
    stacked = {"params": {"blocks": jax.tree.map(lambda *parts: np.stack(parts), *blocks)}}

    def gradient(head, variables):
        return jax.jit(jax.grad(lambda v: sum(jnp.sum(jnp.sin(y)) for y in head.apply(v, pyramid))))(variables)

    wanted = gradient(head, variables)["params"]
    found = gradient(head.clone(scan=True), stacked)["params"]["blocks"]
    for i in range(2):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted[f"block_{i}"]), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=1e-4 * np.abs(b).max())
