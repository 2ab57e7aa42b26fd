"""TOOD's task decomposition as task attention: a stack of convolutions, and for each branch weights of its layers.

X_k = relu(norm(conv(X_{k-1}))), k = 1 ... N with X_0 = x, then for each branch a map
relu(norm(conv1x1(w_1 X_1, ..., w_N X_N))) with w = sigmoid(FC(relu(FC(mean over h and w of all X))))
in place of the dynamic ReLU of x.

Plugs in as `config.model.dyhead.task = "dyhead_jax.variants.task_decomposition:TaskDecomposition"`;
`detectors.tood` has the same parts behind the last block. Source: Feng et al., TOOD: Task-aligned One-stage Object
Detection, ICCV 2021, equations 1 to 3.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.dyhead.branches import Branches
from dyhead_jax.dyhead.spatial import group_norm
from dyhead_jax.dyhead.valid_area import normed, pooled


class TaskDecomposition(nn.Module):
    """layers: N; reduction: of the hidden layer that predicts their weights; norm_groups: of the GroupNorms."""

    features: int = 256
    layers: int = 6
    reduction: int = 8
    norm_groups: int = 16
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> Branches:
        """x: (b, h, w, c); valid: (b, h, w) bool, the cells of means and norms. Returns maps (b, h, w, features)."""
        stack = InteractiveLayers(self.features, self.layers, self.norm_groups, self.dtype, name="interactive")(
            x, valid
        )
        branches = (
            LayerAttention(self.features, self.reduction, self.norm_groups, self.dtype, name=name)
            for name in Branches._fields
        )
        return Branches(*(branch(stack, valid) for branch in branches))


class InteractiveLayers(nn.Module):
    """`layers` 3x3 convolutions, N(0, 0.01), each with GroupNorm and ReLU, one after another."""

    features: int = 256
    layers: int = 6
    norm_groups: int = 16
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """(b, h, w, c) to the results of all layers, (b, h, w, layers, features)."""
        results, init = [], nn.initializers.normal(0.01)
        for i in range(self.layers):
            conv = nn.Conv(
                self.features, (3, 3), padding=1, use_bias=False, kernel_init=init, dtype=self.dtype, name=f"conv_{i}"
            )
            x = x if valid is None else jnp.where(valid[..., None], x, 0)  # as beyond the border of a map
            x = nn.relu(normed(group_norm(self.norm_groups, 1.0, self.dtype, f"norm_{i}"), conv(x), valid))
            results.append(x)
        return jnp.stack(results, axis=3)


class LayerAttention(nn.Module):
    """The map of one branch, from all layers, each with a weight of its own for each image. Weights are float32.

    The 1x1 convolution starts as N(0, 0.01), the layers that predict the weights as N(0, 0.001): weights start at 1/2.
    """

    features: int = 256
    reduction: int = 8
    norm_groups: int = 16
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, stack: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """stack: (b, h, w, layers, c). Returns (b, h, w, features)."""
        b, h, w, layers, c = stack.shape
        small = nn.initializers.normal(0.001)
        means = pooled(stack.reshape(b, h, w, layers * c), valid)
        hidden = nn.relu(nn.Dense(max(layers * c // self.reduction, 1), kernel_init=small, name="squeeze")(means))
        weights = nn.sigmoid(nn.Dense(layers, kernel_init=small, name="expand")(hidden))
        kernel = self.param("kernel", nn.initializers.normal(0.01), (layers, c, self.features))
        # the weights go into the kernel, which is smaller than the maps
        weighted = (weights[..., None, None] * kernel[None]).astype(self.dtype)
        y = jnp.einsum("bpi,bio->bpo", stack.reshape(b, h * w, layers * c), weighted.reshape(b, layers * c, -1))
        norm = group_norm(self.norm_groups, 1.0, self.dtype, "norm")
        return nn.relu(normed(norm, y.reshape(b, h, w, self.features), valid))
