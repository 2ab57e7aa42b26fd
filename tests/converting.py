"""What the tests of conversion share: small models, their shapes, config files."""

import dataclasses
from pathlib import Path

import jax

from dyhead_jax import config, detectors
from dyhead_jax.config import Config, DataConfig, DyHeadConfig, FPNConfig, ModelConfig, ResNetConfig
from dyhead_jax.training import steps


def shapes_of(model: ModelConfig, canvas=(64, 64)):
    built = detectors.build(model)
    return jax.eval_shape(lambda: steps.init_variables(built, jax.random.key(0), canvas))


SMALL = ModelConfig(
    num_classes=6,  # of the drawn shapes
    backbone=ResNetConfig(depth=18, width=4, norm="eval", frozen_stages=-1),
    neck=FPNConfig(features=16, levels=4),
    dyhead=DyHeadConfig(num_blocks=1, features=16, norm_groups=4),
)


# compiling the draws of a new model's weights takes half a second each: little is left to draw here
SMALLER = dataclasses.replace(
    SMALL, neck=FPNConfig(features=16, start=3, levels=1), dyhead=DyHeadConfig(num_blocks=0, features=16)
)


def config_file(path: Path, model: ModelConfig, **data) -> Path:
    settings = DataConfig(canvases=((128, 160),), short_side=(128,), long_side=160)
    path.with_suffix(".json").write_text(
        config.to_json(Config(model=model, data=dataclasses.replace(settings, **data)))
    )
    path.write_text(
        "from dyhead_jax import config\n\n\ndef get_config():\n"
        f"    return config.load_file({str(path.with_suffix('.json'))!r})\n"
    )
    return path
