"""Time of a config's detection: from pixels to boxes after NMS, on one device, with random weights and images.

The yardstick is a plain 3x3 convolution of the finest level of the pyramid.

  python -m dyhead_jax.benchmark infer --config=configs/demo_shapes.py --batch 1
  python -m dyhead_jax.benchmark infer --compare configs/depth.py:1 configs/depth.py:6 --batch 1 --size 256x320
"""

import argparse

import jax

from dyhead_jax import detectors
from dyhead_jax.config import Config
from dyhead_jax.measure import options as common
from dyhead_jax.measure import train
from dyhead_jax.measure.timing import Program, compiled
from dyhead_jax.training import steps

add_arguments = common.add_configs


def run(options: argparse.Namespace) -> None:
    common.check(options)
    chosen = common.configs(options)
    train.time_images("detection", [program(name, config) for name, config in chosen], chosen[0][1], options)


def program(name: str, config: Config) -> Program:
    """The detection of the config's batch."""
    model = detectors.build(config.model)
    variables = steps.jit_once(lambda: steps.init_variables(model, jax.random.key(0), (64, 64)))()
    batch = train.random_batch(config)
    return compiled(name, steps.make_detect(model), variables, batch.images, batch.ground_truth.sizes)
