"""Drawn shapes: the demonstration, made for two CPU cores.

A ResNet-18 of a quarter's width from random weights, a 64-channel pyramid with strides 8 to 64, two DyHead blocks and
ATSS learn to find drawn shapes of 8 to 100 pixels in pictures of 160 pixels.

    python train.py --config=configs/demo_shapes.py --workdir=runs/demo

Not run.
"""

from dyhead_jax.config import (
    ATSSConfig,
    Config,
    DataConfig,
    DyHeadConfig,
    FPNConfig,
    ModelConfig,
    OptimConfig,
    ResNetConfig,
    RunConfig,
    ShapesConfig,
)
from dyhead_jax.data.drawing import NAMES


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            num_classes=len(NAMES),
            backbone=ResNetConfig(depth=18, width=16, norm="sync", frozen_stages=-1),
            neck=FPNConfig(features=64, start=1, levels=4),
            dyhead=DyHeadConfig(num_blocks=2, features=64),
            head=ATSSConfig(),
        ),
        data=DataConfig(
            source=ShapesConfig(),
            canvases=((160, 160),),
            short_side=(160,),
            long_side=160,
            batch_size=16,
            eval_batch_size=20,
            max_boxes=20,
        ),
        optim=OptimConfig(
            name="adamw",
            learning_rate=2e-3,
            weight_decay=0.02,
            decay_norms=False,
            decay_biases=False,
            schedule="cosine",
            warmup_steps=50,
            clip_norm=10.0,
        ),
        run=RunConfig(steps=600, eval_every=300, checkpoint_every=200, log_every=20),
    )
