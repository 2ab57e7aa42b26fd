"""A dynamic ReLU for each branch as task attention: classification and boxes switch channels apart from each other.

pi_C becomes two functions of the same map, each max(x a1 + b1, x a2 + b2) with its own layers, in place of one. A
dense detector's towers read a map each; between blocks the mean of the two goes on (`dyhead.branches`).

Plugs in as `config.model.dyhead.task = "dyhead_jax.variants.branch_gates:BranchGates"`. Source: equation 5 of the
Dynamic Head paper, once for each task; that a task has coefficients of its own is an idea of this repository.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.dyhead.activations import Lineage
from dyhead_jax.dyhead.branches import Branches
from dyhead_jax.dyhead.task import TaskAttention


class BranchGates(nn.Module):
    """Two `TaskAttention`s, whose fields these are."""

    reduction: int = 4
    lineage: Lineage = Lineage.OFFICIAL
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> Branches:
        """x: (b, h, w, c); valid: see `valid_area`. Returns two maps of the shape and dtype of x."""
        gates = [TaskAttention(self.reduction, self.lineage, self.dtype, name=name) for name in Branches._fields]
        return Branches(*(gate(x, valid) for gate in gates))
