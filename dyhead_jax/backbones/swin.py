"""Swin Transformer (Liu et al. 2021) for any input size, as in its detection code and mmdetection 3.

Patch merging has the official order of channels; `weights.names` permutes mmdetection's.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dyhead_jax.ops.conv import Conv, scale_shift

MASKED = -100.0  # added to the logits of pixels that are neighbours only by the cyclic shift
PATCH = 4
small_normal = nn.initializers.normal(0.02)  # the reference truncates at 100 standard deviations, which has no effect


class Linear(nn.Module):
    """A linear layer over the last axis. The kernel starts as N(0, 0.02), the bias at zero.

    One matrix product over flattened positions: contracting several axes makes the weight gradient slow on a CPU.
    """

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel: Any = self.param("kernel", small_normal, (x.shape[-1], self.features), jnp.float32)
        y = x.astype(self.dtype).reshape(-1, x.shape[-1]) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias: Any = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = scale_shift(y.reshape(1, 1, -1, self.features), None, bias)
        return y.reshape(*x.shape[:-1], self.features)


def layer_norm(x: jax.Array, name: str) -> jax.Array:
    """Layer norm over channels, computed in float32 or wider; the result has the dtype of x."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=wide, name=name)(x).astype(x.dtype)


def window_index(window: int) -> np.ndarray:
    """Row of the bias table, by (dy, dx), for each (query, key) pair of pixels of a window: (window**2, window**2)."""
    points = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij"), -1).reshape(-1, 2)
    delta = points[:, None] - points[None] + window - 1
    return delta[..., 0] * (2 * window - 1) + delta[..., 1]


def shift_mask(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """(windows, window**2, window**2) float32: 0 where two pixels of a window were neighbours before the cyclic shift.

    height, width: of the map, padded to whole windows.
    """

    def region(n: int) -> np.ndarray:
        return np.searchsorted([n - window, n - shift], np.arange(n), side="right")

    regions = region(height)[:, None] * 3 + region(width)[None]
    regions = regions.reshape(height // window, window, width // window, window).swapaxes(1, 2)
    regions = regions.reshape(-1, window * window)
    return np.where(regions[:, :, None] == regions[:, None, :], 0.0, MASKED).astype(np.float32)


class WindowAttention(nn.Module):
    """Self-attention inside windows (b, windows, window**2, c), with a learned bias for each relative position."""

    heads: int
    window: int
    dtype: Any
    position_parameters: ClassVar = ("relative_position_bias_table",)

    @nn.compact
    def __call__(self, x: jax.Array, mask: np.ndarray | None) -> jax.Array:
        b, windows, n, c = x.shape
        shape = ((2 * self.window - 1) ** 2, self.heads)
        table: Any = self.param("relative_position_bias_table", small_normal, shape, jnp.float32)
        bias = table[window_index(self.window).reshape(-1)].reshape(n, n, self.heads).transpose(2, 0, 1)
        qkv = Linear(3 * c, dtype=self.dtype, name="qkv")(x).reshape(b * windows, n, 3, self.heads, c // self.heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        logits = jnp.einsum("wqhd,wkhd->whqk", q * (c // self.heads) ** -0.5, k)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)).reshape(b, windows, self.heads, n, n)
        logits += bias.reshape(1, 1, self.heads, n, n)
        if mask is not None:
            logits += jnp.asarray(mask).reshape(1, windows, 1, n, n)
        weights = jax.nn.softmax(logits).astype(v.dtype).reshape(b * windows, self.heads, n, n)
        y = jnp.einsum("whqk,wkhd->wqhd", weights, v).reshape(b, windows, n, c)
        return Linear(c, dtype=self.dtype, name="proj")(y)


class SwinBlock(nn.Module):
    """Window attention and a two-layer MLP, each with a norm before it and a shortcut: (b, h, w, c) -> same shape.

    shift: of the windows, in pixels. drop_path: probability that a sample skips a branch (needs the rng "dropout").
    """

    heads: int
    window: int
    shift: int
    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        x += self._drop(self._attend(layer_norm(x, "norm1")))
        y = Linear(4 * c, dtype=self.dtype, name="fc1")(layer_norm(x, "norm2"))
        return x + self._drop(Linear(c, dtype=self.dtype, name="fc2")(nn.gelu(y, approximate=False)))

    def _attend(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        n, shift = self.window, self.shift
        x = jnp.pad(x, ((0, 0), (0, -h % n), (0, -w % n), (0, 0)))
        rows, columns = x.shape[1] // n, x.shape[2] // n
        mask = shift_mask(rows * n, columns * n, n, shift) if shift else None
        x = jnp.roll(x, (-shift, -shift), (1, 2)) if shift else x
        x = x.reshape(b, rows, n, columns, n, c).swapaxes(2, 3).reshape(b, rows * columns, n * n, c)
        x = WindowAttention(self.heads, n, self.dtype, name="attn")(x, mask)
        x = x.reshape(b, rows, columns, n, n, c).swapaxes(2, 3).reshape(b, rows * n, columns * n, c)
        x = jnp.roll(x, (shift, shift), (1, 2)) if shift else x
        return x[:, :h, :w]

    def _drop(self, branch: jax.Array) -> jax.Array:
        if self.drop_path == 0.0:
            return branch
        kept = 1.0 - self.drop_path
        keep = jax.random.bernoulli(self.make_rng("dropout"), kept, (branch.shape[0], 1, 1, 1))
        return jnp.where(keep, branch / kept, jnp.zeros_like(branch))


class PatchMerging(nn.Module):
    """Merges 2x2 cells to one with twice the channels; odd maps are padded by a row or column of zeros."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, h, w, c = x.shape
        x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
        # official order of the four cells: (row, column) = (0, 0), (1, 0), (0, 1), (1, 1)
        x = jnp.concatenate([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        return Linear(2 * c, use_bias=False, dtype=self.dtype, name="reduction")(layer_norm(x, "norm"))


class PatchEmbedding(nn.Module):
    """Maps 4x4 patches to `features` channels, then a norm; the image is padded to whole patches."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        _, h, w, _ = images.shape
        padding = ((0, -h % PATCH), (0, -w % PATCH))
        proj = Conv(
            self.features, PATCH, PATCH, padding, use_bias=True, kernel_init=small_normal, dtype=self.dtype, name="proj"
        )
        return layer_norm(proj(images), "norm")


def bicubic(size: int, out: int) -> np.ndarray:
    """PyTorch's bicubic resize as an (out, size) matrix (a = -0.75, half-pixel centres, border replicated)."""

    def weight(t: np.ndarray) -> np.ndarray:
        t, a = np.abs(t), -0.75
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        far = a * (t**3 - 5 * t**2 + 8 * t - 4)
        return np.where(t <= 1, near, np.where(t < 2, far, 0.0))

    centre = (np.arange(out) + 0.5) * size / out - 0.5
    matrix = np.zeros((out, size))
    for tap in range(-1, 3):
        source = np.floor(centre) + tap
        index = np.clip(source, 0, size - 1).astype(int)
        np.add.at(matrix, (np.arange(out), index), weight(centre - source))
    return matrix.astype(np.float32)


class Swin(nn.Module):
    """Swin Transformer: images to the maps C2 to C5, each with its own layer norm, `norm0` to `norm3`.

    Swin-T: features 96, depths (2, 2, 6, 2), heads (3, 6, 12, 24); S: depths (2, 2, 18, 2); B: features 128, heads
    (4, 8, 16, 32); L: 192, (6, 12, 24, 48); both with the depths of S. drop_path: rate of the last block,
    decreasing linearly to 0 at the first; in training only. absolute_position: add a learned table of position_size x
    position_size patches, resized bicubically to the map, after the patch embedding. Frozen stages get no gradient and
    drop no paths. remat: recompute each block in the backward pass. Weights start as N(0, 0.02) (the reference
    truncates at +-2, which has no effect), biases at 0, norms with scale 1 and bias 0.
    `axis_name` only serves the common interface of backbones: nothing here crosses images.
    """

    features: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    drop_path: float = 0.2
    absolute_position: bool = False
    position_size: int = 56
    frozen_stages: int = -1
    remat: bool = False
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> list[jax.Array]:
        """Normalised float images (b, h, w, 3) -> [C2, C3, C4, C5], NHWC of stride 4, 8, 16, 32 (sizes rounded up).

        Training with drop_path above 0 needs the rng "dropout". Raises ValueError if depths and heads differ in length
        or heads do not divide the channels.
        """
        self._check()
        x = PatchEmbedding(self.features, self.dtype, name="patch_embed")(images)
        if self.absolute_position:
            x += self._position(x.shape[1], x.shape[2]).astype(x.dtype)
        if self.frozen_stages >= 0:
            x = jax.lax.stop_gradient(x)
        rates = np.linspace(0.0, self.drop_path, sum(self.depths)).tolist()
        cls = nn.remat(SwinBlock) if self.remat else SwinBlock
        maps = []
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            frozen = self.frozen_stages > stage
            for i in range(depth):
                rate = rates.pop(0)
                rate = rate if train and not frozen else 0.0
                shift = self.window // 2 if i % 2 else 0
                x = cls(heads, self.window, shift, rate, self.dtype, name=f"layer{stage}_{i}")(x)
            c = layer_norm(x, f"norm{stage}")
            if stage < len(self.depths) - 1:
                x = PatchMerging(self.dtype, name=f"downsample{stage}")(x)
            if frozen:
                x, c = jax.lax.stop_gradient((x, c))
            maps.append(c)
        return maps

    @property
    def position_parameters(self) -> tuple[str, ...]:
        return ("absolute_pos_embed",) if self.absolute_position else ()

    def is_frozen(self, path: tuple[str, ...]) -> bool:
        """Whether the parameter at `path` in the backbone, such as ("layer0_1", "fc1", "kernel"), is never trained."""
        name = path[0]
        for prefix in ("layer", "downsample", "norm"):
            if name.startswith(prefix):
                return int(name.removeprefix(prefix).split("_")[0]) < self.frozen_stages
        return self.frozen_stages >= 0

    def _position(self, height: int, width: int) -> jax.Array:
        n = self.position_size
        table: Any = self.param("absolute_pos_embed", small_normal, (1, n, n, self.features), jnp.float32)
        table = jnp.einsum("hi,bijc->bhjc", bicubic(n, height), table) if height != n else table
        return jnp.einsum("wj,bhjc->bhwc", bicubic(n, width), table) if width != n else table

    def _check(self) -> None:
        if len(self.depths) != len(self.heads):
            raise ValueError(f"backbone depths {self.depths} and heads {self.heads} differ in length")
        for stage, heads in enumerate(self.heads):
            if self.features * 2**stage % heads:
                raise ValueError(
                    f"backbone heads {heads} do not divide the {self.features * 2**stage} channels of a stage"
                )
