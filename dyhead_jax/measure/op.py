"""Time of the deformable 3x3 convolution in its implementations, forward and with gradients.

The yardstick is the plain convolution of the same map. Gradients are those of the map, offsets, mask and kernel.
--batch, --size and --dtype take several values with commas: every combination is timed, and has a row of its own.

  python -m dyhead_jax.benchmark op
  python -m dyhead_jax.benchmark op --size 50x76 --implementation gather --implementation dense --stride 2 --batch 4
  python -m dyhead_jax.benchmark op --size 32,64,128 --dtype float32,bfloat16 --plot op.png --json op.json
"""

import argparse
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from dyhead_jax.measure import harness
from dyhead_jax.measure import options as common
from dyhead_jax.measure.harness import Case, Job
from dyhead_jax.measure.timing import Setting, with_gradients
from dyhead_jax.ops.deform_conv import deform_conv


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add(parser, (100, 152), "the map")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--implementation", action="append", metavar="NAME", help="repeatable; default auto")
    parser.add_argument("--spread", type=float, default=1.0, help="standard deviation of the offsets, pixels (1)")


def run(options: argparse.Namespace) -> int:
    common.check(options)
    common.refuse_overrides(options, "op")
    settings = common.settings(options)
    cases = [Case(s, options.channels, s.size, lambda s=s: jobs(s, options)) for s in settings]
    title = f"deformable convolution {options.channels} -> {options.channels}, stride {options.stride}"
    return harness.exit_code(harness.measure(common.titled(title, settings), cases, options))


def jobs(setting: Setting, options: argparse.Namespace) -> Iterator[Job]:
    """The convolution of a random map in each implementation."""
    dtype, c, (h, w), stride = jnp.dtype(setting.dtype), options.channels, setting.size, options.stride
    keys = jax.random.split(jax.random.key(3), 4)
    out = ((h - 1) // stride + 1, (w - 1) // stride + 1)
    x = jax.random.normal(keys[0], (setting.batch, h, w, c), dtype)
    offsets = options.spread * jax.random.normal(keys[1], (setting.batch, *out, 9, 2))
    mask = jax.random.uniform(keys[2], (setting.batch, *out, 9))
    kernel = jax.random.normal(keys[3], (3, 3, c, c), dtype) / (9 * c) ** 0.5
    for name in options.implementation or ["auto"]:

        def forward(x, offsets, mask, kernel, name=name):
            return deform_conv(x, offsets, mask, kernel, stride=stride, padding=1, implementation=name)

        yield Job(f"{name} forward", forward, (x, offsets, mask, kernel), setting)
        if not options.forward:
            both = with_gradients(forward, (0, 1, 2, 3))
            yield Job(f"{name} forward+backward", both, (x, offsets, mask, kernel), setting)
