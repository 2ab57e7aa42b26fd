"""Scale-aware attention, pi_L: the weight of each candidate map at a level."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.dyhead.activations import Lineage, hard_sigmoid
from dyhead_jax.dyhead.valid_area import pooled
from dyhead_jax.ops.pixels import spread


class ScaleAttention(nn.Module):
    """Mean of the candidates f of one level, each weighted by a(f) = hsig(relu(conv1x1(mean over h, w of f))).

    The weights lie in [0.5, 1]. Pooling and the weight are float32.
    The 1x1 convolution starts as N(0, 0.01) with bias 0 in every lineage; `lineage` selects the hard sigmoid.
    Source: paper equation 3; official code `AttnConv` (which uses (x+3)/6 where the paper has (x+1)/2).
    """

    lineage: Lineage = Lineage.OFFICIAL
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, candidates: list[jax.Array], valid: jax.Array | None = None) -> jax.Array:
        """candidates: maps (b, h, w, c) of one level; valid: see `valid_area`. Returns (b, h, w, c)."""
        gate = nn.Dense(1, kernel_init=nn.initializers.normal(0.01), name="gate")
        total: Any = 0.0
        weights = []
        for f in candidates:
            weight = hard_sigmoid(nn.relu(gate(pooled(f, valid))), self.lineage)
            weights.append(weight)
            by_channel = jnp.broadcast_to(weight.astype(f.dtype), (f.shape[0], f.shape[3]))
            total = total + spread(by_channel, (f.shape[1], f.shape[2])) * f
        self.sow("intermediates", "weights", weights)  # for `look`
        return total / len(candidates)
