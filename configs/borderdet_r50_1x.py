"""BorderDet, ResNet-50, 12 epochs of COCO.

Row: the official repository's, val2017. Target AP 41.4 (AP50 59.4, AP75 44.5; small 23.6, medium 45.1, large 54.6).
Schedule: 16 images a step, 90,000 steps, learning rate 0.01, a tenth of it after 60,000 and 80,000; norms do not decay.
Meant for 8 GPUs of 16 GB or a TPU v4-8, two images a device. ImageNet weights of the caffe lineage (MSRA R-50).

    python train.py --config=configs/borderdet_r50_1x.py --config.data.root=PATH/TO/coco \\
        --config.model.pretrained=PATH/TO/R-50.pkl --workdir=runs/borderdet_r50_1x

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
            pixel_std=(1.0, 1.0, 1.0),
            bgr=True,
            backbone=ResNetConfig(depth=50, style="caffe", norm="frozen", frozen_stages=1),
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
        ),
        optim=OptimConfig(
            learning_rate=0.01,
            decay_norms=False,
            milestones=(60 / 90, 80 / 90),
            warmup_steps=1000,
            warmup_start=0.001,
        ),
        run=RunConfig(steps=90_000),
    )
