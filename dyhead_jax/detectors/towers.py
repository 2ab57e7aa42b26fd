"""The convolution towers and predictors that dense heads put on each pyramid level, shared over levels."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.ops.conv import Conv

small_normal = nn.initializers.normal(0.01)


def prior_bias(probability: float = 0.01) -> nn.initializers.Initializer:
    """-log((1 - p) / p), the logit whose sigmoid is `probability`. Lin et al. 2017 (focal loss), section 4.1."""
    return nn.initializers.constant(-math.log((1 - probability) / probability))


class Tower(nn.Module):
    """`layers` times 3x3 convolution, GroupNorm, ReLU. Convolutions N(0, 0.01).

    norm_groups: of the GroupNorm, 0 for no norm (RetinaNet). bias: whether convolutions followed by a norm have a bias;
    those without a norm always have.
    """

    layers: int
    features: int
    norm_groups: int = 32
    bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, c) to (b, h, w, features)."""
        for i in range(self.layers):
            x = nn.Conv(
                self.features,
                (3, 3),
                padding=1,
                use_bias=self.bias or not self.norm_groups,
                kernel_init=small_normal,
                dtype=self.dtype,
                name=f"conv_{i}",
            )(x)
            if self.norm_groups:
                x = nn.GroupNorm(
                    self.norm_groups, epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, name=f"norm_{i}"
                )(x)
            x = nn.relu(x)
        return x


def predictor(features: int, kernel: int, dtype: Any, name: str | None, bias=nn.initializers.zeros) -> Conv:
    """A convolution to raw predictions, N(0, 0.01)."""
    return Conv(features, kernel, use_bias=True, kernel_init=small_normal, bias_init=bias, dtype=dtype, name=name)


def widen(x: jax.Array) -> jax.Array:
    """x in float32 or wider, as predictions leave the network."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
