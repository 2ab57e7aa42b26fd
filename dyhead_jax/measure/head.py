"""Time of a config's whole DyHead on its pyramid, forward and with gradients.

The yardstick is a plain 3x3 convolution of the finest level.

  python -m dyhead_jax.benchmark head --config=configs/atss_r50_dyhead_1x.py --batch 1 --size 800x1216
  python -m dyhead_jax.benchmark head --compare configs/depth.py:2 configs/depth.py:6 --batch 1 --size 256x320
"""

import argparse

import jax
import jax.numpy as jnp

from dyhead_jax.config import nodes
from dyhead_jax.measure import block
from dyhead_jax.measure import options as common
from dyhead_jax.measure.timing import compiled, with_gradients
from dyhead_jax.training import steps

add_arguments = common.add_configs


def run(options: argparse.Namespace) -> None:
    common.check(options)
    programs, chosen = [], common.configs(options)
    for name, config in chosen:
        head = nodes.build(config.model.dyhead, dtype=jnp.dtype(config.model.dtype))
        pyramid = random_pyramid(config)
        variables = steps.jit_once(head.init)(jax.random.key(9), pyramid)
        programs.append(compiled(f"{name} forward", head.apply, variables, pyramid))
        programs.append(compiled(f"{name} forward+backward", with_gradients(head.apply, (0, 1)), variables, pyramid))
    _, config = chosen[0]
    finest = random_pyramid(config)[0]
    title = f"DyHead of {config.data.batch_size} image(s) of {config.data.canvases[0]}"
    common.time_and_report(
        title,
        programs,
        options,
        channels=finest.shape[-1],
        at=(finest.shape[1], finest.shape[2]),
        batch=config.data.batch_size,
        dtype=config.model.dtype,
    )


def random_pyramid(config) -> list[jax.Array]:
    """Noise of the shapes that the config's neck returns for its first canvas: [(b, h_l, w_l, c)], fine to coarse."""
    neck, data = config.model.neck, config.data
    height, width = data.canvases[0]
    stride = 4 * 2**neck.start  # of the backbone's stage `start`
    levels = block.sizes((height, width), neck.levels, stride)
    return block.random_pyramid(levels, data.batch_size, neck.features, jnp.dtype(config.model.dtype))
