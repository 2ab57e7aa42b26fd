"""Time of a config's detection: from pixels to boxes after NMS, on one device, with random weights and images.

The yardstick is a plain 3x3 convolution of the finest level of the pyramid. --batch, --size and --dtype take several
values with commas, --compare several configs: every combination has a row.

  python -m dyhead_jax.benchmark infer --config=configs/demo_shapes.py --batch 1
  python -m dyhead_jax.benchmark infer --compare configs/depth.py:1 configs/depth.py:6 --batch 1 --size 256x320
  python -m dyhead_jax.benchmark infer --config=configs/demo_shapes.py --batch 1,4,16 --trace runs/trace
"""

import argparse
from collections.abc import Iterator

import jax

from dyhead_jax import detectors
from dyhead_jax.config import Config
from dyhead_jax.measure import harness, head, train
from dyhead_jax.measure import options as common
from dyhead_jax.measure.harness import Job
from dyhead_jax.training import steps

add_arguments = common.add_configs


def run(options: argparse.Namespace) -> int:
    common.check(options)
    return harness.exit_code(head.measure("detection", jobs, options))


def jobs(name: str, config: Config) -> Iterator[Job]:
    """The detection of the config's batch."""
    model = detectors.build(config.model)
    variables = steps.jit_once(lambda: steps.init_variables(model, jax.random.key(0), (64, 64)))()
    batch = train.random_batch(config)
    arguments = (variables, batch.images, batch.ground_truth.sizes)
    yield Job(name, steps.make_detect(model), arguments, common.setting_of(config))
