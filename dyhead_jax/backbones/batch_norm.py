"""Batch normalisation as detectors use it: fixed statistics, or statistics of the global batch."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.choices import Choice
from dyhead_jax.ops.conv import Conv, channel_sum, scale_shift


class NormMode(Choice):
    """See `BatchNorm`."""

    FROZEN = "frozen"
    EVAL = "eval"
    SYNC = "sync"


class BatchNorm(nn.Module):
    """Batch normalisation over the last axis of (b, h, w, c).

    norm: "frozen" fixed running statistics and an affine part that gets no gradient; "eval" fixed statistics, trained
    affine; "sync" in training the statistics of the global batch (averaged over the mapped axis `axis_name` where there
    is one), which also move the running ones. Running variance is the unbiased one and PyTorch's momentum is 0.1, as in
    `torch.nn.SyncBatchNorm`. Statistics and arithmetic are float32 or wider, the result has the dtype of `x`.
    Parameters: scale (ones) and bias (zeros); collection batch_stats: mean (zeros) and var (ones).
    Raises ValueError for another `norm`.
    """

    norm: NormMode = NormMode.EVAL
    epsilon: float = 1e-5
    momentum: float = 0.1
    axis_name: str | None = None
    is_norm: ClassVar = True

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        factor, shift = self.affine(x.shape[-1], x if train else None)
        return scale_shift(x, factor, shift)

    def folds(self, train: bool) -> bool:
        """Whether the norm is a fixed affine map, which a convolution before it can take in."""
        return not (train and self.norm == NormMode.SYNC)

    @nn.compact
    def affine(self, features: int, x: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The norm as factor and shift, each (features,); x: the batch to take statistics of where norm is "sync"."""
        NormMode.parse("norm", self.norm)
        scale: Any = self.param("scale", nn.initializers.ones, (features,), jnp.float32)
        bias: Any = self.param("bias", nn.initializers.zeros, (features,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)
        if self.norm == NormMode.FROZEN:
            scale, bias = jax.lax.stop_gradient(scale), jax.lax.stop_gradient(bias)
        if self.norm == NormMode.SYNC and x is not None:
            mean, var, count = self._batch_statistics(x)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value += self.momentum * (jax.lax.stop_gradient(mean) - running_mean.value)
                running_var.value += self.momentum * (jax.lax.stop_gradient(unbiased) - running_var.value)
        else:
            # Never trained, even when a caller differentiates the whole variables tree.
            mean, var = jax.lax.stop_gradient(running_mean.value), jax.lax.stop_gradient(running_var.value)
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return factor, bias - mean * factor

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Mean, biased variance (c,) and the count of values, all of the global batch."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        count = x.size // x.shape[-1]
        mean, square = channel_sum(x) / count, channel_sum(jnp.square(x)) / count
        if self.axis_name is not None and not self.is_initializing():  # the axis is not bound in init
            mean, square = jax.lax.pmean((mean, square), self.axis_name)
            count *= jax.lax.axis_size(self.axis_name)
        return mean, jnp.maximum(square - jnp.square(mean), 0.0), count


def conv_norm(conv: Conv, norm: BatchNorm, x: jax.Array, train: bool) -> jax.Array:
    """norm(conv(x)); a norm of fixed statistics goes into the kernel, which saves its passes over the maps."""
    if norm.folds(train):
        return conv(x, *norm.affine(conv.features))
    return norm(conv(x), train)
