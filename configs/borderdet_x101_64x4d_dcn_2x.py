"""BorderDet, ResNeXt-101 64x4d with deformable convolutions in the last two stages, 24 epochs of COCO.

Row: BorderDet X-101-64x4d-DCN of the paper, test-dev with multi-scale test. Target AP 50.3 (AP50 68.9, AP75 55.2; small
32.8, medium 52.8, large 62.3). At a single scale the official repository has 47.5 on val2017 (small 29.6, medium 51.1,
large 62.4); this file tests at a single scale.
Schedule: 16 images a step, 180,000 steps, learning rate 0.01, a tenth of it after 120,000 and 160,000; norms do not
decay; short sides of 640 or 800.
Meant for 8 GPUs of 32 GB or a TPU v4-16, two images a device. ImageNet weights of X-101-64x4d.

    python train.py --config=configs/borderdet_x101_64x4d_dcn_2x.py --config.data.root=PATH/TO/coco \\
        --config.model.pretrained=PATH/TO/X-101-64x4d.pkl --workdir=runs/borderdet_x101_64x4d_dcn_2x

Not run.
"""

from dyhead_jax.config import (
    BorderDetConfig,
    CocoFolderConfig,
    Config,
    DataConfig,
    DyHeadConfig,
    FPNConfig,
    ModelConfig,
    OptimConfig,
    ResNetConfig,
    RunConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            pixel_std=(1.0, 1.0, 1.0),  # as published, though these weights were trained with others
            bgr=True,
            backbone=ResNetConfig(
                depth=101,
                style="torch",
                groups=64,
                group_width=4,
                norm="frozen",
                frozen_stages=1,
                deform="v2",
                deform_stages=(4, 5),
            ),
            neck=FPNConfig(start=1, levels=5, extra="c5", relu_before_extra=True),
            dyhead=DyHeadConfig(num_blocks=0),
            head=BorderDetConfig(),
        ),
        data=DataConfig(
            source=CocoFolderConfig(
                train_annotations="annotations/instances_train2017.json",
                train_images="train2017",
                val_annotations="annotations/instances_val2017.json",
                val_images="val2017",
            ),
            short_side=(640, 800),
            short_side_choice=True,
        ),
        optim=OptimConfig(
            learning_rate=0.01,
            decay_norms=False,
            milestones=(120 / 180, 160 / 180),
            warmup_steps=1000,
            warmup_start=0.001,
        ),
        run=RunConfig(steps=180_000),
    )
