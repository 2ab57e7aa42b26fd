"""One DyHead block against the obvious im2col form, in one run: time and temporaries, forward and with gradients.

    python benchmarks/against_im2col.py [--json FILE] [--repeats 10] [--channels 256]

The obvious form gathers four clamped corners for all nine taps at once, masks them, multiplies once, and leaves the
backward pass to automatic differentiation. Inputs, options, turns and yardstick are those of `python -m
dyhead_jax.benchmark block`.
"""

import jax
import jax.numpy as jnp

from dyhead_jax import command
from dyhead_jax.dyhead import SpatialAttention
from dyhead_jax.dyhead import spatial as spatial_module
from dyhead_jax.measure import block


def im2col_calls(maps, calls, *, implementation="auto"):
    """The obvious form, call by call and level by level (3x3, one group)."""
    del implementation
    return [im2col_levels([maps[level] for level in call.levels], *call[1:-1]) for call in calls]


def im2col_levels(maps, offsets, masks, kernel, bias, stride, padding):
    out = []
    for x, offset, mask in zip(maps, offsets, masks, strict=True):
        b, h, w, c = x.shape
        ho, wo = offset.shape[1:3]
        ky, kx = jnp.mgrid[:3, :3].reshape(2, 1, 1, 9)
        i, j = jnp.arange(ho).reshape(-1, 1, 1) * stride, jnp.arange(wo).reshape(1, -1, 1) * stride
        y = offset[..., 0] + (i - padding + ky)[None]
        x_ = offset[..., 1] + (j - padding + kx)[None]
        y0, x0 = jnp.floor(y), jnp.floor(x_)
        columns = 0.0
        for dy in (0, 1):
            for dx in (0, 1):
                row, column = y0 + dy, x0 + dx
                weight = (1 - jnp.abs(y - row)) * (1 - jnp.abs(x_ - column)) * mask
                weight = jnp.where((row >= 0) & (row < h) & (column >= 0) & (column < w), weight, 0.0)
                r = jnp.clip(row, 0, h - 1).astype(jnp.int32)
                q = jnp.clip(column, 0, w - 1).astype(jnp.int32)
                columns = columns + weight[..., None] * jax.vmap(lambda image, r, q: image[r, q])(x, r, q)
        value = columns.reshape(b, ho, wo, 9 * c) @ kernel.reshape(9 * c, -1)
        out.append(value if bias is None else value + bias.reshape(1, 1, 1, -1))
    return out


class Im2col(SpatialAttention):
    """Spatial attention with the obvious form in the place of `deform_conv_calls`."""

    def __call__(self, pyramid):
        ours = spatial_module.deform_conv_calls
        spatial_module.deform_conv_calls = im2col_calls
        try:
            return super().__call__(pyramid)
        finally:
            spatial_module.deform_conv_calls = ours


def main() -> int:
    parser = command.parser("python benchmarks/against_im2col.py", __doc__)
    block.add_arguments(parser)
    options = parser.parse_args()
    options.overrides = []
    options.attention = [*(options.attention or []), ["spatial=against_im2col:Im2col"]]
    return block.run(options)


if __name__ == "__main__":
    command.run(main)
