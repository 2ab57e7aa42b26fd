"""Time of a config's training step on one device: forward, backward and update, with random images and boxes.

The yardstick is a plain 3x3 convolution of the finest level of the pyramid.

  python -m dyhead_jax.benchmark train --config=configs/demo_shapes.py
  python -m dyhead_jax.benchmark train --compare configs/atss_r50_1x.py configs/atss_r50_dyhead_1x.py --batch 1
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dyhead_jax import detectors
from dyhead_jax.config import Config
from dyhead_jax.measure import head
from dyhead_jax.measure import options as common
from dyhead_jax.measure.timing import Program, compiled
from dyhead_jax.training import optim, steps
from dyhead_jax.types import Batch, GroundTruth

add_arguments = common.add_configs
BOXES = 8  # in each image


def run(options: argparse.Namespace) -> None:
    common.check(options)
    chosen = common.configs(options)
    time_images("training step", [program(name, config) for name, config in chosen], chosen[0][1], options)


def program(name: str, config: Config) -> Program:
    """The step of the config's batch on one device."""
    step, first = parts(config)
    return compiled(name, step, steps.jit_once(first)(), random_batch(config))


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


def time_images(what: str, programs: list[Program], config: Config, options: argparse.Namespace) -> None:
    """Times the programs, reports, and prints the images a second of each."""
    finest = head.random_pyramid(config)[0]
    count = config.data.batch_size
    title = f"{what}, {count} image(s) of {config.data.canvases[0]}, {config.model.dtype}"
    common.time_and_report(
        title,
        programs,
        options,
        channels=finest.shape[-1],
        at=(finest.shape[1], finest.shape[2]),
        batch=count,
        dtype=config.model.dtype,
    )
    for p in programs:
        print(f"{p.name}: {count / p.median:.1f} images/s")


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
