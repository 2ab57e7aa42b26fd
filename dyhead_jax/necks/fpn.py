"""Feature pyramid network (Lin et al. 2017), with the extra levels of RetinaNet, FCOS and Faster R-CNN."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.choices import Choice
from dyhead_jax.ops.conv import Conv


class Extra(Choice):
    """The input of the extra levels."""

    P5 = "p5"
    C5 = "c5"
    POOL = "pool"


def upsample_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Nearest-neighbour resize of (b, h, w, c) to `size`; row i of the result is row floor(i * h / size[0]) of x.

    If `size` is twice (h, w) or one less, as in a pyramid, this is a repeat and a crop without a gather.
    """
    for axis, out in ((1, size[0]), (2, size[1])):
        n = x.shape[axis]
        if out in (2 * n, 2 * n - 1):
            x = jax.lax.slice_in_dim(jnp.repeat(x, 2, axis), 0, out, axis=axis)
        elif out != n:
            x = jnp.take(x, jnp.arange(out) * n // out, axis)
    return x


class FPN(nn.Module):
    """Backbone maps [C2, C3, C4, C5] -> a pyramid, a list of (b, h_l, w_l, features), fine to coarse.

    1x1 convolutions `lateral_i`, nearest upsampling and addition from coarse to fine, 3x3 convolutions `output_i`; then
    extra levels: 3x3 stride-2 convolutions `extra_i` starting from the last output ("p5") or the last backbone map
    ("c5"), or every second pixel of the last level ("pool"). `relu_before_extra` adds a ReLU between the extra ones.
    With fewer `levels` than maps from `start` on, the result has the finest ones. No norms. Kernels start
    Xavier-uniform, biases at zero, as in mmdetection (detectron2's `c2_xavier_fill` is uniform too, with bound
    sqrt(3 / fan_in)).
    """

    features: int = 256
    start: int = 1
    levels: int = 5
    extra: Extra = Extra.P5
    relu_before_extra: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        """Raises ValueError for a `start` outside the maps, `levels` below 1 and an unknown `extra`."""
        if not 0 <= self.start < len(maps):
            raise ValueError(f"neck start is {self.start}; the backbone gives {len(maps)} maps, counted from 0")
        if self.levels < 1:
            raise ValueError(f"neck levels is {self.levels}; a pyramid has at least 1")
        Extra.parse("neck extra", self.extra)
        used = maps[self.start :]
        merged = [self._conv(1, 1, f"lateral_{i}")(c) for i, c in enumerate(used)]
        for i in range(len(merged) - 2, -1, -1):
            _, h, w, _ = merged[i].shape
            merged[i] += upsample_nearest(merged[i + 1], (h, w))
        pyramid = [self._conv(3, 1, f"output_{i}")(m) for i, m in enumerate(merged[: self.levels])]
        for i in range(self.levels - len(pyramid)):
            if self.extra == Extra.POOL:
                pyramid.append(pyramid[-1][:, ::2, ::2])
                continue
            x = used[-1] if i == 0 and self.extra == Extra.C5 else pyramid[-1]
            if i > 0 and self.relu_before_extra:
                x = nn.relu(x)
            pyramid.append(self._conv(3, 2, f"extra_{i}")(x))
        return pyramid

    def _conv(self, kernel: int, stride: int, name: str) -> Conv:
        init = nn.initializers.xavier_uniform()
        return Conv(self.features, kernel, stride, use_bias=True, kernel_init=init, dtype=self.dtype, name=name)
