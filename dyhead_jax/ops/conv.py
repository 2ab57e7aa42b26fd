"""The convolution layer of backbones and necks, in forms that are fast on every backend.

A 1x1 convolution is a matrix product of flattened pixels: XLA's CPU backend takes ten times as long for the weight
gradient of a 1x1 `lax` convolution. Grouped convolutions go through `grouped_conv`, those at stride 1 through
`narrow_conv`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.ops.depthwise import Padding, grouped_conv
from dyhead_jax.ops.narrow_conv import narrow_conv

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def channel_sum(x: jax.Array) -> jax.Array:
    """Sum of (b, h, w, c) over all but the channels, (c,), in float32 or wider.

    In two steps that the compiler must not merge: on CPUs a sum over leading axes only is vectorised.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jax.lax.optimization_barrier(x.sum((0, 1))).sum(0)


@jax.custom_vjp
def scale_shift(x: jax.Array, factor: jax.Array | None, shift: jax.Array) -> jax.Array:
    """x * factor + shift along the last axis (x + shift if factor is None), in the dtype of x. x: (b, h, w, c);
    factor, shift: (c,). Their gradients are taken by `channel_sum`."""
    c = x.shape[-1]
    y = x if factor is None else x * factor.reshape(1, 1, 1, c)
    return (y + shift.reshape(1, 1, 1, c)).astype(x.dtype)


def _scale_shift_fwd(x, factor, shift):
    y = scale_shift(x, factor, shift)
    return y, (None if factor is None else x, factor, shift)


def _scale_shift_bwd(saved, dy):
    x, factor, shift = saved
    d_shift = channel_sum(dy).astype(shift.dtype)
    if factor is None:
        return dy, None, d_shift
    d_factor = channel_sum(dy * x.astype(jnp.promote_types(x.dtype, jnp.float32))).astype(factor.dtype)
    return (dy * factor.reshape(1, 1, 1, -1)).astype(dy.dtype), d_factor, d_shift


scale_shift.defvjp(_scale_shift_fwd, _scale_shift_bwd)


class Conv(nn.Module):
    """Convolution of (b, h, w, c) -> (b, h_out, w_out, features), in `dtype`.

    kernel: side of the square kernel. padding: None is kernel // 2 on every side as in PyTorch, "SAME" is TensorFlow's
    (the odd pixel below and on the right), or ((top, bottom), (left, right)). Parameters: kernel (kernel, kernel,
    c // groups, features), by default He normal by fan-out, and with `use_bias` bias (features,), by default zero.
    Raises ValueError where `groups` does not divide the channels.
    """

    features: int
    kernel: int
    stride: int = 1
    padding: Padding | str | None = None
    groups: int = 1
    use_bias: bool = False
    kernel_init: Any = he_normal
    bias_init: Any = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, factor: jax.Array | None = None, shift: jax.Array | None = None) -> jax.Array:
        """factor, shift: (features,). The kernel is multiplied by factor and shift is added to the result, which
        folds a frozen norm into the convolution."""
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.features)
        kernel: Any = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if self.use_bias:
            bias: Any = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            shift = bias if shift is None else bias + shift
        if factor is not None:
            kernel = kernel * factor.reshape(1, 1, 1, self.features)
        y = self._convolve(x.astype(self.dtype), kernel.astype(self.dtype))
        return y if shift is None else scale_shift(y, None, shift)

    def _convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        stride, half = self.stride, self.kernel // 2
        if self.kernel == 1 and self.groups == 1:
            x = x[:, ::stride, ::stride]
            b, h, w, c = x.shape
            return (x.reshape(b * h * w, c) @ kernel.reshape(c, self.features)).reshape(b, h, w, self.features)
        padding = ((half, half), (half, half)) if self.padding is None else self.padding
        if self.groups > 1:
            return grouped_conv(x, kernel, groups=self.groups, stride=stride, padding=padding)
        if stride == 1 and self.kernel % 2 and self.padding is None:
            return narrow_conv(x, kernel)
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
