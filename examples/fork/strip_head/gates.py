"""Task attention with a gate for each branch of a dense detector."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.dyhead import Branches
from dyhead_jax.dyhead.valid_area import pooled


class SqueezeGates(nn.Module):
    """Squeeze-and-excite with two results: x times a gate for classification, and x times one for regression.

    The gates, (b, c) each, are sigmoids of two layers on the mean of x, float32, and start near 1/2.
    reduction: the hidden layer has c / reduction units. dropout: of the hidden layer, in training.
    Source of the gate: Hu et al., Squeeze-and-Excitation Networks, 2018.
    """

    reduction: int = 4  # divides the channels of the hidden layer
    dropout: float = 0.0  # of the hidden layer, in training

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None, train: bool = False) -> Branches:
        """x: (b, h, w, c); valid: (b, h, w) bool, the cells of the mean. Returns two maps like x."""
        channels = x.shape[-1]
        hidden = nn.silu(nn.Dense(max(channels // self.reduction, 1), name="squeeze")(pooled(x, valid)))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        gates = nn.sigmoid(nn.Dense(2 * channels, name="excite")(hidden))
        self.sow("intermediates", "gates", gates)  # for `python -m dyhead_jax.look`
        first, second = jnp.split(gates[:, None, None].astype(x.dtype), 2, axis=-1)
        return Branches(classification=x * first, regression=x * second)
