"""A model and a config that trace in a second: a backbone of four convolutions, three levels, a few features."""

from typing import Any

import jax
from flax import linen as nn

from dyhead_jax.config import (
    ATSSConfig,
    BorderDetConfig,
    Config,
    DataConfig,
    DyHeadConfig,
    FasterRCNNConfig,
    FCOSConfig,
    FPNConfig,
    ModelConfig,
    RepPointsConfig,
    RetinaNetConfig,
    RunConfig,
    ShapesConfig,
)

CANVAS = (64, 96)
CLASSES = ("circle", "square", "triangle")
LEVELS = 3
LIMITS = (32.0, 64.0)
HEADS = {
    "ATSS": ATSSConfig(),
    "RetinaNet": RetinaNetConfig(towers=0),
    "FCOS": FCOSConfig(towers=0, level_limits=LIMITS),
    "RepPoints": RepPointsConfig(towers=0),
    "BorderDet": BorderDetConfig(
        towers=0, border_class_features=8, border_box_features=8, pool_size=3, level_limits=LIMITS
    ),
    "FasterRCNN": FasterRCNNConfig(
        rpn_features=16, proposals_before=(40, 30), proposals=(24, 20), roi_levels=2, roi_size=3, fc_features=16
    ),
}


class Backbone(nn.Module):
    """Maps of strides 4, 8, 16, 32, eight channels each."""

    dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        maps = [nn.Conv(8, (4, 4), 4, dtype=self.dtype, name="stem")(x)]
        for i in range(3):
            maps.append(nn.Conv(8, (3, 3), 2, dtype=self.dtype, name=f"conv_{i}")(nn.tanh(maps[-1])))
        return maps


def make_config(features: int = 16) -> Config:
    """Two blocks of the shipped attentions and ATSS; features: of a map, a multiple of four."""
    return Config(
        model=ModelConfig(
            num_classes=len(CLASSES),
            backbone={"module": f"{__name__}:Backbone"},
            neck=FPNConfig(features=features, start=1, levels=LEVELS),
            dyhead=DyHeadConfig(num_blocks=2, features=features, norm_groups=4),
            head=HEADS["ATSS"],
        ),
        data=DataConfig(source=ShapesConfig(), canvases=(CANVAS,), batch_size=2, eval_batch_size=2),
        run=RunConfig(steps=1),
    )
