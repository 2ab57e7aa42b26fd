"""One DyHead block against the obvious im2col form, in one run: time and temporaries of forward + backward.

    python benchmarks/block.py [--channels 256] [--repeats 5] [--json FILE]

The obvious form gathers four clamped corners for all nine taps at once, masks them, multiplies once, and leaves the
backward pass to automatic differentiation. Both run in turn on the same inputs; the pyramid is that of 800x1216 pixels.
The yardstick is a plain 3x3 convolution of the finest level, forward.
"""

import argparse
import json
import platform
import statistics
import time
from datetime import date
from pathlib import Path

import jax
import jax.numpy as jnp

from dyhead_jax.dyhead import DyHeadBlock
from dyhead_jax.dyhead import spatial as spatial_module

SIZES = [(100, 152), (50, 76), (25, 38), (13, 19), (7, 10)]


def im2col_levels(maps, offsets, masks, kernel, bias=None, *, stride=1, padding=0, implementation="auto"):
    """The obvious form, level by level (3x3, one group)."""
    del implementation
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


def measure(compiled, arguments, repeats: int) -> list[float]:
    jax.block_until_ready(compiled(*arguments))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    options = parser.parse_args()
    c = options.channels
    keys = jax.random.split(jax.random.key(0), len(SIZES) + 1)
    pyramid = [jax.random.normal(k, (1, *size, c)) for k, size in zip(keys[1:], SIZES, strict=True)]
    block = DyHeadBlock(features=c)
    variables = jax.jit(block.init)(keys[0], pyramid)

    def objective(variables, pyramid):
        return sum(jnp.sum(y**2) for y in block.apply(variables, pyramid))

    programs, rows, ours = {}, {}, spatial_module.deform_conv_levels
    for name, form in (("tap loop", ours), ("im2col", im2col_levels)):
        spatial_module.deform_conv_levels = form
        forward = jax.jit(lambda v, p: block.apply(v, p)).lower(variables, pyramid).compile()
        start = time.perf_counter()
        both = jax.jit(jax.grad(lambda v, p: objective(v, p), argnums=(0, 1))).lower(variables, pyramid).compile()
        rows[name] = {
            "compile_s": time.perf_counter() - start,
            "temporaries_MiB": both.memory_analysis().temp_size_in_bytes / 2**20,
        }
        programs[name] = forward, both
    spatial_module.deform_conv_levels = ours
    kernel = jax.random.normal(keys[0], (3, 3, c, c))
    numbers = ("NHWC", "HWIO", "NHWC")
    plain = jax.jit(lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers))
    yardstick = measure(plain.lower(pyramid[0], kernel).compile(), (pyramid[0], kernel), options.repeats)
    unit = statistics.median(yardstick)
    for index, part in enumerate(("forward_s", "forward_backward_s")):
        for name in rows:
            rows[name][part] = statistics.median(measure(programs[name][index], (variables, pyramid), options.repeats))
    print(f"{date.today()}  jax {jax.__version__}  {jax.devices()[0].device_kind}  {platform.processor()}")
    print(f"yardstick: 3x3 lax.conv of 1x100x152x{c} -> {c}, forward: {unit:.3f} s (median of {options.repeats})")
    print(f"{'form':10} {'forward':>16} {'forward+backward':>20} {'temporaries':>12} {'compile':>9}")
    for name, row in rows.items():
        f, fb = row["forward_s"], row["forward_backward_s"]
        print(
            f"{name:10} {f:7.3f} s {f / unit:5.1f}x {fb:9.3f} s {fb / unit:6.1f}x"
            f" {row['temporaries_MiB']:8.0f} MiB {row['compile_s']:7.1f} s"
        )
    if options.json:
        result = {
            "date": str(date.today()),
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "yardstick_s": unit,
            "forms": rows,
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
