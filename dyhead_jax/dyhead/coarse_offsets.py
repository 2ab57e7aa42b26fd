"""Offsets for the coarser neighbour, whose map has half the size of the map that the offsets were predicted on.

Shapes: offsets (b, H, W, k, 2), mask (b, H, W, k), predicted on level l; the result has the size (h, w) of level l + 1.
The released code never resizes them: its kernels read the buffer with the strides of the smaller output. Every
published AP was trained that way ("flat"), so it is the default; the other choices are plausible intentions.
Public threads: microsoft/DynamicHead#25, microsoft/GLIP#52 and #62, open-mmlab/mmdetection#11146.
"""

import jax
import jax.numpy as jnp

from dyhead_jax.choices import Choice


class CoarseOffsets(Choice):
    FLAT = "flat"
    CROP = "crop"
    RESIZE = "resize"
    UPSAMPLE_FIRST = "upsample_first"


def flat(offsets: jax.Array, mask: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """The first entries of each image's channel-first buffer, reinterpreted with the output size (CUDA behaviour)."""
    b, height, width, k, _ = offsets.shape
    h, w = size
    if h > height or w > width:
        raise ValueError(f"flat offsets: the coarser map {size} is larger than the offsets' {(height, width)}")
    o = offsets.transpose(0, 3, 4, 1, 2).reshape(b, -1)[:, : k * 2 * h * w]
    m = mask.transpose(0, 3, 1, 2).reshape(b, -1)[:, : k * h * w]
    return o.reshape(b, k, 2, h, w).transpose(0, 3, 4, 1, 2), m.reshape(b, k, h, w).transpose(0, 2, 3, 1)


def crop(offsets: jax.Array, mask: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """The top-left corner."""
    return offsets[:, : size[0], : size[1]], mask[:, : size[0], : size[1]]


def resize(offsets: jax.Array, mask: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Offsets and mask resized bilinearly (half-pixel centres, no antialiasing); the offsets are also halved, because a
    pixel of the coarser map is two pixels of the finer one."""
    b, height, width, k, _ = offsets.shape
    both = jnp.concatenate([offsets.reshape(b, height, width, 2 * k), mask], axis=-1)
    both = jax.image.resize(both, (b, *size, 3 * k), "bilinear", antialias=False)
    return both[..., : 2 * k].reshape(b, *size, k, 2) / 2, both[..., 2 * k :]


def for_coarser(choice: str, offsets: jax.Array, mask: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Applies `flat`, `crop` or `resize`. "upsample_first" needs no change of the offsets: its map has their size."""
    return {"flat": flat, "crop": crop, "resize": resize}[choice](offsets, mask, size)
