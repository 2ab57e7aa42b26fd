"""The hard sigmoid of both public lineages, and PyTorch's default initialisation, which the official code uses."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.choices import Choice


class Lineage(Choice):
    """Whose initial weights and hard-sigmoid gradient to use: the official code's, mmdetection's, or those of
    mmdetection's simple config, where the offset convolution starts at zero."""

    OFFICIAL = "official"
    MMDET = "mmdet"
    MMDET_SIMPLE = "mmdet_simple"


def hard_sigmoid(x: jax.Array, lineage: str = Lineage.OFFICIAL) -> jax.Array:
    """min(max(x + 3, 0), 6) / 6, any shape.

    The lineages differ in the gradient exactly at -3 and 3: the official code (ReLU6) has 0, mmdetection (clamp) 1/6.
    """
    inside = (x > -3) & (x < 3) if lineage == Lineage.OFFICIAL else (x >= -3) & (x <= 3)
    return jnp.where(inside, (x + 3.0) / 6.0, jnp.where(x > 0, 1.0, 0.0).astype(x.dtype))


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for the weights and biases of Linear and Conv2d."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
