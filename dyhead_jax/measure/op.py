"""Time of the deformable 3x3 convolution in its implementations, forward and with gradients.

The yardstick is the plain convolution of the same map. Gradients are those of the map, offsets, mask and kernel.

  python -m dyhead_jax.benchmark op
  python -m dyhead_jax.benchmark op --size 50x76 --implementation gather --implementation dense --stride 2 --batch 4
"""

import argparse

import jax
import jax.numpy as jnp

from dyhead_jax.measure import options as common
from dyhead_jax.measure.timing import compiled, with_gradients
from dyhead_jax.ops.deform_conv import deform_conv


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add(parser)
    parser.add_argument("--size", type=common.size, default=(100, 152), metavar="HxW", help="of the map (100x152)")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--implementation", action="append", metavar="NAME", help="repeatable; default auto")
    parser.add_argument("--spread", type=float, default=1.0, help="standard deviation of the offsets, pixels (1)")


def run(options: argparse.Namespace) -> None:
    common.check(options)
    common.refuse_overrides(options, "op")
    dtype, c, (h, w), stride = jnp.dtype(options.dtype), options.channels, options.size, options.stride
    keys = jax.random.split(jax.random.key(3), 4)
    out = ((h - 1) // stride + 1, (w - 1) // stride + 1)
    x = jax.random.normal(keys[0], (options.batch, h, w, c), dtype)
    offsets = options.spread * jax.random.normal(keys[1], (options.batch, *out, 9, 2))
    mask = jax.random.uniform(keys[2], (options.batch, *out, 9))
    kernel = jax.random.normal(keys[3], (3, 3, c, c), dtype) / (9 * c) ** 0.5
    programs = []
    for name in options.implementation or ["auto"]:

        def forward(x, offsets, mask, kernel, name=name):
            return deform_conv(x, offsets, mask, kernel, stride=stride, padding=1, implementation=name)

        programs.append(compiled(f"{name} forward", forward, x, offsets, mask, kernel))
        if not options.forward:
            both = with_gradients(forward, (0, 1, 2, 3))
            programs.append(compiled(f"{name} forward+backward", both, x, offsets, mask, kernel))
    title = f"deformable convolution {options.batch}x{h}x{w}x{c} -> {c}, stride {stride}, {options.dtype}"
    common.time_and_report(title, programs, options, channels=c, at=(h, w), batch=options.batch, dtype=options.dtype)
