"""ResNet and ResNeXt, with frozen stages and with deformable convolutions in selected stages.

He et al. 2016, Xie et al. 2017 (ResNeXt), Dai et al. 2017 and Zhu et al. 2019 (DCN v1, v2). Names and arithmetic follow
torchvision and mmdetection 3: `layer1_0/conv1/kernel` is their `layer1.0.conv1.weight`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.backbones.batch_norm import BatchNorm, NormMode, conv_norm
from dyhead_jax.choices import Choice
from dyhead_jax.ops import backend
from dyhead_jax.ops.conv import Conv, he_normal
from dyhead_jax.ops.deform_conv import deform_conv

# depth: (has bottlenecks, blocks of the four stages)
DEPTHS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}


class Style(Choice):
    """Which convolution of a bottleneck has the stride: the 3x3, or the first 1x1."""

    TORCH = "torch"
    CAFFE = "caffe"


class Deform(Choice):
    """Deformable convolutions: none, with offsets (v1), or with offsets and a mask (v2)."""

    NONE = "none"
    V1 = "v1"
    V2 = "v2"


def max_pool(x: jax.Array, implementation: str = "auto") -> jax.Array:
    """3x3 maximum at stride 2, padded by one: (b, h, w, c) -> (b, ceil(h / 2), ceil(w / 2), c).

    implementation: "shifted" (the maximum of nine slices), "lax" (a window reduction, whose gradient takes five times
    as long on a CPU), or "auto" (see `backend.shifted_or_lax`). The gradient of equal maxima is shared among them
    ("shifted") or goes to the first ("lax").
    """
    if implementation == "auto":
        implementation = backend.shifted_or_lax()
    if implementation == "lax":
        padding = ((0, 0), (1, 1), (1, 1), (0, 0))
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)
    h, w = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    rows, columns = 2 * ((h + 1) // 2), 2 * ((w + 1) // 2)
    taps = [x[:, i : i + rows : 2, j : j + columns : 2] for i in range(3) for j in range(3)]
    return functools.reduce(jnp.maximum, taps)


class DeformConv(nn.Module):
    """A 3x3 deformable convolution without bias. (b, h, w, c) -> (b, ceil(h / stride), ceil(w / stride), features).

    The block predicts offsets and mask with a separate plain convolution of the same stride and padding: 18 offsets (dy
    and dx of each tap, taps row-major) and in v2 also 9 masks before their sigmoid. It starts at zero, so the layer
    starts as a plain convolution (in v2, half of one).
    """

    features: int
    stride: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, offsets: jax.Array, mask: jax.Array | None) -> jax.Array:
        shape = (3, 3, x.shape[-1] // self.groups, self.features)
        kernel: Any = self.param("kernel", he_normal, shape, jnp.float32)
        return deform_conv(
            x, offsets, mask, kernel.astype(self.dtype), stride=self.stride, padding=1, groups=self.groups
        )


def split_offsets(raw: jax.Array, deform: str) -> tuple[jax.Array, jax.Array | None]:
    """Output (b, h, w, 18 or 27) of the offset convolution -> offsets (b, h, w, 9, 2) and, for v2, masks (b, h, w, 9);
    float32 or wider, because bfloat16 cannot represent all coordinates above 256."""
    raw = raw.astype(jnp.promote_types(raw.dtype, jnp.float32))
    offsets = raw[..., :18].reshape(*raw.shape[:3], 9, 2)
    return offsets, jax.nn.sigmoid(raw[..., 18:]) if deform == Deform.V2 else None


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut: (b, h, w, c) -> (b, ceil(h / stride), ceil(w / stride), planes)."""

    planes: int
    stride: int
    norm: NormMode
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def layer(y: jax.Array, kernel: int, stride: int, conv: str, norm: str) -> jax.Array:
            convolution = Conv(self.planes, kernel, stride, dtype=self.dtype, name=conv)
            return conv_norm(convolution, BatchNorm(self.norm, axis_name=self.axis_name, name=norm), y, train)

        y = nn.relu(layer(x, 3, self.stride, "conv1", "bn1"))
        y = layer(y, 3, 1, "conv2", "bn2")
        if self.stride != 1 or x.shape[-1] != self.planes:
            x = layer(x, 1, self.stride, "downsample_conv", "downsample_bn")
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 (plain, grouped or deformable), 1x1 and the shortcut.

    (b, h, w, c) -> (b, ceil(h / stride), ceil(w / stride), 4 * planes); `inner` is the width of the 3x3.
    """

    planes: int
    inner: int
    stride: int
    style: Style
    groups: int
    deform: Deform
    norm: NormMode
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def norm(name: str) -> BatchNorm:
            return BatchNorm(self.norm, axis_name=self.axis_name, name=name)

        def layer(y: jax.Array, features: int, kernel: int, stride: int, conv: str, bn: str, groups: int = 1):
            convolution = Conv(features, kernel, stride, groups=groups, dtype=self.dtype, name=conv)
            return conv_norm(convolution, norm(bn), y, train)

        outer = 4 * self.planes
        first, second = (1, self.stride) if self.style == Style.TORCH else (self.stride, 1)
        y = nn.relu(layer(x, self.inner, 1, first, "conv1", "bn1"))
        if self.deform == Deform.NONE:
            y = layer(y, self.inner, 3, second, "conv2", "bn2", self.groups)
        else:
            predicted = Conv(
                18 if self.deform == Deform.V1 else 27,
                3,
                second,
                use_bias=True,
                kernel_init=nn.initializers.zeros,
                dtype=self.dtype,
                name="conv2_offset",
            )(y)
            offsets, mask = split_offsets(predicted, self.deform)
            y = DeformConv(self.inner, second, self.groups, self.dtype, name="conv2")(y, offsets, mask)
            y = norm("bn2")(y, train)
        y = layer(nn.relu(y), outer, 1, 1, "conv3", "bn3")
        if self.stride != 1 or x.shape[-1] != outer:
            x = layer(x, outer, 1, self.stride, "downsample_conv", "downsample_bn")
        return nn.relu(x + y)

    @property
    def offset_parameters(self) -> tuple[str, ...]:
        return () if self.deform == Deform.NONE else ("conv2_offset",)


class ResNet(nn.Module):
    """ResNet or ResNeXt: images to the maps C2 to C5. The fields are those of `config.ResNetConfig`.

    Convolutions start He-normal by fan-out, norms with scale 1 and bias 0, offset convolutions at zero. Frozen stages
    keep their batch norm in eval mode whatever `norm` is, and get no gradient.
    remat: recompute each block in the backward pass.
    axis_name: the mapped axis over which `norm="sync"` averages statistics; None if one program sees the whole batch.
    """

    depth: int = 50
    style: Style = Style.TORCH
    width: int = 64
    groups: int = 1
    group_width: int = 64
    norm: NormMode = NormMode.EVAL
    frozen_stages: int = 1
    deform: Deform = Deform.NONE
    deform_stages: tuple[int, ...] = ()
    remat: bool = False
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> list[jax.Array]:
        """Normalised float images (b, h, w, 3) -> [C2, C3, C4, C5], NHWC of stride 4, 8, 16, 32 (sizes rounded up).

        In training with norm="sync" the collection batch_stats must be mutable.
        Raises ValueError, which names the field, for an unknown depth, style, norm or deform.
        """
        self._check()
        bottleneck, blocks = DEPTHS[self.depth]
        cls: Any = Bottleneck if bottleneck else BasicBlock
        if self.remat:
            cls = nn.remat(cls, static_argnums=(2,))  # `train`
        stem = Conv(self.width, 7, 2, dtype=self.dtype, name="conv1")
        norm = BatchNorm(self._norm(0), axis_name=self.axis_name, name="bn1")
        x = nn.relu(conv_norm(stem, norm, images, train))
        x = max_pool(x)
        if self.frozen_stages >= 0:
            x = jax.lax.stop_gradient(x)
        maps = []
        for stage, count in enumerate(blocks, start=1):
            planes = self.width * 2 ** (stage - 1)
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                name = f"layer{stage}_{index}"
                shared: dict[str, Any] = {"norm": self._norm(stage), "dtype": self.dtype, "axis_name": self.axis_name}
                if bottleneck:
                    inner = planes
                    if self.groups > 1:
                        inner = math.floor(planes * (self.group_width / self.width)) * self.groups
                    deform = self.deform if stage + 1 in self.deform_stages else Deform.NONE
                    block = cls(planes, inner, stride, self.style, self.groups, deform, **shared, name=name)
                else:
                    block = cls(planes, stride, **shared, name=name)
                x = block(x, train)
            if self.frozen_stages >= stage:
                x = jax.lax.stop_gradient(x)
            maps.append(x)
        return maps

    def is_frozen(self, path: tuple[str, ...]) -> bool:
        """Whether the parameter at `path` of the backbone, as ("layer1_0", "conv1", "kernel"), is never trained."""
        stage = int(path[0][len("layer")]) if path[0].startswith("layer") else 0
        norm_affine = path[-1] == "scale" or (path[-1] == "bias" and not path[-2].endswith("_offset"))
        return stage <= self.frozen_stages or (self.norm == NormMode.FROZEN and norm_affine)

    def _norm(self, stage: int) -> NormMode:
        return NormMode.FROZEN if stage <= self.frozen_stages else self.norm

    def _check(self) -> None:
        if self.depth not in DEPTHS:
            raise ValueError(f"backbone depth is {self.depth}; it may be {', '.join(map(str, DEPTHS))}")
        Style.parse("backbone style", self.style)
        Deform.parse("backbone deform", self.deform)
        if not DEPTHS[self.depth][0] and (self.groups > 1 or self.deform != Deform.NONE):
            raise ValueError(f"backbone depth {self.depth} has no bottlenecks: groups must be 1 and deform 'none'")
        if not set(self.deform_stages) <= {2, 3, 4, 5}:
            raise ValueError(f"backbone deform_stages is {self.deform_stages}; the stages are 2, 3, 4, 5")
