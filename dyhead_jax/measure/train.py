"""Time of a config's training step on one device: forward, backward and update, with random images and boxes.

The yardstick is a plain 3x3 convolution of the finest level of the pyramid. --batch, --size and --dtype take several
values with commas, --compare several configs: every combination has a row.

  python -m dyhead_jax.benchmark train --config=configs/demo_shapes.py
  python -m dyhead_jax.benchmark train --compare configs/atss_r50_1x.py configs/atss_r50_dyhead_1x.py --batch 1
  python -m dyhead_jax.benchmark train --compare demo_shapes 'demo_shapes --config.model.dyhead.task=none' --batch 2,8
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from dyhead_jax import detectors
from dyhead_jax.config import Config
from dyhead_jax.measure import harness, head
from dyhead_jax.measure import options as common
from dyhead_jax.measure.harness import Job
from dyhead_jax.training import optim, steps
from dyhead_jax.types import Batch, GroundTruth

add_arguments = common.add_configs
BOXES = 8  # in each image


def run(options: argparse.Namespace) -> int:
    common.check(options)
    return harness.exit_code(head.measure("training step", jobs, options))


def jobs(name: str, config: Config) -> Iterator[Job]:
    """The step of the config's batch on one device."""
    step, first = parts(config)
    yield Job(name, step, (steps.jit_once(first)(), random_batch(config)), common.setting_of(config))


def parts(config: Config) -> tuple[steps.TrainStep, Callable[[], steps.TrainState]]:
    """The step that takes the whole batch, and the function that makes the initial state."""
    model = detectors.build(config.model)
    parameters = steps.survey(model, (64, 64))
    optimizer = optim.make_optimizer(config.optim, config.run.steps, parameters)
    schedule = optim.make_schedule(config.optim, config.run.steps)
    step = steps.make_train_step(
        model, optimizer, schedule, parameters, accumulate=config.optim.accumulate, ema=config.optim.ema
    )

    def first() -> steps.TrainState:
        variables = steps.init_variables(model, jax.random.key(0), (64, 64))
        return steps.create_state(parameters, optimizer, variables, ema=config.optim.ema)

    return step, first


def random_batch(config: Config) -> Batch:
    """Noise with boxes of all sizes, on the first canvas."""
    rng = np.random.default_rng(0)
    b, (h, w), m = config.data.batch_size, config.data.canvases[0], config.data.max_boxes
    corner = rng.uniform(0, 0.5, (b, m, 2))
    side = rng.uniform(0.05, 0.5, (b, m, 2))
    boxes = (np.concatenate([corner, corner + side], -1) * np.array([w, h, w, h])).astype(np.float32)
    truth: dict[str, Any] = {
        "boxes": boxes,
        "labels": rng.integers(0, config.model.num_classes, (b, m)).astype(np.int32),
        "mask": np.broadcast_to(np.arange(m) < BOXES, (b, m)),
        "crowd": np.zeros((b, m), bool),
        "sizes": np.full((b, 2), (h, w), np.int32),
    }
    images: Any = rng.integers(0, 256, (b, h, w, 3), dtype=np.uint8)
    return jax.device_put(Batch(images, GroundTruth(**truth)))
