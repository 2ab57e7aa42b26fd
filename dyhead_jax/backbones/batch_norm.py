"""Batch normalisation for detectors: with fixed statistics, or with those of the global batch."""

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

    norm: "frozen": fixed running statistics, no gradient to scale and bias; "eval": fixed statistics, trained scale and
    bias; "sync": in training the statistics of the global batch (averaged over the mapped axis `axis_name`, if given),
    which also update the running ones. As in `torch.nn.SyncBatchNorm` the running variance is unbiased and the
    momentum, in PyTorch's sense, is 0.1. Statistics and arithmetic are float32 or wider; the result has the dtype of x.
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
        """Whether the norm is a fixed affine map, which can be folded into the convolution before it."""
        return not (train and self.norm == NormMode.SYNC)

    @nn.compact
    def affine(self, features: int, x: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The norm as factor and shift, each (features,). x: the batch whose statistics to use if norm is "sync"."""
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
            # Never trained, even if a caller differentiates the whole variables tree.
            mean, var = jax.lax.stop_gradient(running_mean.value), jax.lax.stop_gradient(running_var.value)
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return factor, bias - mean * factor

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Mean (c,), biased variance (c,) and number of values per channel, all of the global batch."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        count = x.size // x.shape[-1]
        mean, square = channel_sum(x) / count, channel_sum(jnp.square(x)) / count
        if self.axis_name is not None and not self.is_initializing():  # init runs outside the mapped axis
            mean, square = jax.lax.pmean((mean, square), self.axis_name)
            count *= jax.lax.axis_size(self.axis_name)
        return mean, jnp.maximum(square - jnp.square(mean), 0.0), count


def conv_norm(conv: Conv, norm: BatchNorm, x: jax.Array, train: bool) -> jax.Array:
    """norm(conv(x)); a norm with fixed statistics is folded into the kernel, which saves passes over the maps."""
    if norm.folds(train):
        return conv(x, *norm.affine(conv.features))
    return norm(conv(x), train)
