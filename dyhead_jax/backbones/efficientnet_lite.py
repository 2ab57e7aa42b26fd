"""EfficientNet-Lite0: the small backbone that trains on a CPU.

Tan and Le 2019, and TensorFlow's EfficientNet-Lite: no squeeze-and-excitation, ReLU6 instead of swish, unscaled stem,
TensorFlow's SAME padding (the odd pixel at the bottom and right), batch norm epsilon 1e-3. The pretrained weights need
RGB images normalised as (x - 127) / 128: `pixel_mean` (127, 127, 127) and `pixel_std` (128, 128, 128).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.backbones.batch_norm import BatchNorm, NormMode, conv_norm
from dyhead_jax.ops.conv import Conv

EPSILON, MOMENTUM = 1e-3, 0.01  # of batch norm


class Stage(NamedTuple):
    blocks: int
    kernel: int
    stride: int
    expand: int
    features: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
MAPS = (2, 3, 5, 7)  # stages, counted from 1, whose outputs are C2 to C5


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection: (b, h, w, c) -> (b, ceil(h / s), ceil(w / s), features)."""

    features: int
    kernel: int
    stride: int
    expand: int
    norm: NormMode
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def layer(y: jax.Array, features: int, conv: str, norm: str, **options: Any) -> jax.Array:
            convolution = Conv(features, dtype=self.dtype, name=conv, **options)
            return conv_norm(convolution, BatchNorm(self.norm, EPSILON, MOMENTUM, self.axis_name, name=norm), y, train)

        c = x.shape[-1] * self.expand
        taps = nn.initializers.normal((2.0 / self.kernel**2) ** 0.5)
        y = x if self.expand == 1 else nn.relu6(layer(x, c, "expand_conv", "bn0", kernel=1))
        y = layer(
            y,
            c,
            "depthwise_conv",
            "bn1",
            kernel=self.kernel,
            stride=self.stride,
            padding="SAME",
            groups=c,
            kernel_init=taps,
        )
        y = layer(nn.relu6(y), self.features, "project_conv", "bn2", kernel=1)
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 without its classifier: images to the maps C2 to C5, with 24, 40, 112 and 320 channels.

    norm: as in `BatchNorm`. frozen_stages: -1: none, 0: the stem, k: the stem and the first k of seven stages;
    these keep their batch norm in eval mode and get no gradient. axis_name: as in `BatchNorm`.
    As in the TensorFlow code, convolutions start normal with variance 2 / fan-out, where the fan-out of a depthwise one
    is its k * k taps; norms start with scale 1 and bias 0.
    """

    norm: NormMode = NormMode.EVAL
    frozen_stages: int = 2
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> list[jax.Array]:
        """Normalised float RGB images (b, h, w, 3) -> [C2, C3, C4, C5], NHWC of stride 4, 8, 16, 32 (rounded up).

        In training with norm="sync" the collection batch_stats must be mutable. Raises ValueError for an unknown norm.
        """
        stem = Conv(32, 3, 2, "SAME", dtype=self.dtype, name="conv_stem")
        norm = BatchNorm(self._norm(0), EPSILON, MOMENTUM, self.axis_name, name="bn0")
        x = nn.relu6(conv_norm(stem, norm, images, train))
        if self.frozen_stages >= 0:
            x = jax.lax.stop_gradient(x)
        maps, index = [], 0
        for number, stage in enumerate(STAGES, start=1):
            for i in range(stage.blocks):
                x = InvertedResidual(
                    stage.features,
                    stage.kernel,
                    stage.stride if i == 0 else 1,
                    stage.expand,
                    self._norm(number),
                    self.dtype,
                    self.axis_name,
                    name=f"block_{index}",
                )(x, train)
                index += 1
            if self.frozen_stages >= number:
                x = jax.lax.stop_gradient(x)
            if number in MAPS:
                maps.append(x)
        return maps

    def is_frozen(self, path: tuple[str, ...]) -> bool:
        """Whether the parameter at `path` in the backbone, such as ("block_0", "bn1", "scale"), is never trained."""
        number = 0
        if path[0].startswith("block_"):
            first = 0
            while first <= int(path[0].removeprefix("block_")):
                first += STAGES[number].blocks
                number += 1
        return number <= self.frozen_stages or (self.norm == NormMode.FROZEN and path[-1] in ("scale", "bias"))

    def _norm(self, stage: int) -> NormMode:
        return NormMode.FROZEN if stage <= self.frozen_stages else self.norm
