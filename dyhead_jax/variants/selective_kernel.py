"""Squeeze-and-excite over the candidates as scale attention: a weight for each candidate and channel, not one a map.

sum over i of a_i f_i with a = softmax over candidates of FC(relu(FC([mean of f_i; mean over candidates of these])))
takes the place of the mean over i of hsig(relu(conv1x1(mean of f_i))) f_i.

A level has as many candidates as it has neighbours, and at the ends a candidate's place says nothing about where it
comes from. So the layers are shared by candidates, in place of the paper's one for each, and each sees its own mean
beside the common one.

Plugs in as `config.model.dyhead.scale = "dyhead_jax.variants.selective_kernel:SelectiveKernel"`. Source: Li et al.,
Selective Kernel Networks, CVPR 2019, section 3.1; Hu et al., Squeeze-and-Excitation Networks, 2018 ("sigmoid").
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.choices import Choice
from dyhead_jax.dyhead.valid_area import pooled
from dyhead_jax.ops.pixels import spread


class Gate(Choice):
    """How logits become weights."""

    SOFTMAX = "softmax"  # over candidates: they compete
    SIGMOID = "sigmoid"  # each on its own, divided by the number of candidates


class SelectiveKernel(nn.Module):
    """gate: a `Gate`; the hidden layer has max(c / reduction, smallest) channels. Pooling and weights are float32.

    The last layer starts as N(0, 0.01), so that weights start almost equal; it has a bias with "sigmoid" only, since a
    softmax over candidates cancels it. With one candidate a softmax is 1: nothing is learned then.
    """

    gate: Gate = Gate.SOFTMAX
    reduction: int = 16
    smallest: int = 32

    @nn.compact
    def __call__(self, candidates: list[jax.Array], valid: jax.Array | None = None) -> jax.Array:
        """candidates: maps (b, h, w, c) of one level; valid: (b, h, w) bool, the cells of the means. Returns
        (b, h, w, c) in the dtype of the candidates. Raises ValueError if gate is unknown."""
        Gate.parse("gate", self.gate)
        (_, h, w, c), dtype = candidates[0].shape, candidates[0].dtype
        means = jnp.stack([pooled(f, valid) for f in candidates], axis=1)  # (b, candidates, c)
        common = jnp.broadcast_to(jnp.mean(means, axis=1, keepdims=True), means.shape)
        squeeze = nn.Dense(max(c // self.reduction, self.smallest), name="squeeze")
        hidden = nn.relu(squeeze(jnp.concatenate([means, common], axis=-1)))
        softmax = self.gate == Gate.SOFTMAX
        init = nn.initializers.normal(0.01)
        logits = nn.Dense(c, use_bias=not softmax, kernel_init=init, name="expand")(hidden)
        weights = nn.softmax(logits, axis=1) if softmax else nn.sigmoid(logits) / len(candidates)
        parts = [spread(weights[:, i].astype(dtype), (h, w)) * f for i, f in enumerate(candidates)]
        return sum(parts[1:], parts[0])
