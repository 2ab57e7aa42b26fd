"""Task-aware attention, pi_C: a dynamic ReLU that switches channels on and off."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.dyhead.activations import Lineage, hard_sigmoid, torch_uniform
from dyhead_jax.dyhead.valid_area import pooled
from dyhead_jax.ops.pixels import spread


class TaskAttention(nn.Module):
    """max(x * a1 + b1, x * a2 + b2) with a1, b1, a2, b2 predicted for each image and channel (DyReLU-B).

    theta = hsig(FC(relu(FC(mean over h, w of x)))) - 0.5 in c -> c/4 -> 4c, split in the order a1, b1, a2, b2;
    a1 = 2 theta + 1, a2 = 2 theta, b = theta. Pooling and the coefficients are float32.
    lineage: "official" starts with PyTorch's Linear default; "mmdet" and "mmdet_simple" with N(0, 0.01) and bias 0.
    Source: Chen et al., Dynamic ReLU, 2020; paper equation 5; official code `DYReLU`.
    """

    reduction: int = 4
    lineage: Lineage = Lineage.OFFICIAL
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """x: (b, h, w, c); valid: see `valid_area`. Returns the same shape and dtype as x."""
        channels = x.shape[-1]
        hidden = max(channels // self.reduction, 1)

        def dense(features: int, fan_in: int, name: str) -> nn.Dense:
            if self.lineage == Lineage.OFFICIAL:
                return nn.Dense(features, kernel_init=torch_uniform(fan_in), bias_init=torch_uniform(fan_in), name=name)
            return nn.Dense(features, kernel_init=nn.initializers.normal(0.01), name=name)

        squeezed = nn.relu(dense(hidden, channels, "squeeze")(pooled(x, valid)))
        expanded = dense(4 * channels, hidden, "expand")(squeezed)
        theta = hard_sigmoid(expanded, self.lineage) - 0.5
        a1, b1, a2, b2 = jnp.split(theta.astype(x.dtype), 4, axis=-1)
        coefficients = {"a1": a1 * 2 + 1, "b1": b1, "a2": a2 * 2, "b2": b2}
        self.sow("intermediates", "coefficients", coefficients)  # for `look`
        a1, b1, a2, b2 = (spread(v, (x.shape[1], x.shape[2])) for v in coefficients.values())
        return jnp.maximum(x * a1 + b1, x * a2 + b2)
