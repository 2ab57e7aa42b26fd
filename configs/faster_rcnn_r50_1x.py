"""Faster R-CNN, ResNet-50, 12 epochs of COCO: the baseline without DyHead.

Row: mmdetection `faster-rcnn_r50_fpn_1x_coco`, val2017. Target AP 37.4.
Schedule: 16 images a step, 90,000 steps, learning rate 0.02, a tenth of it after 8 and 11 of 12 epochs.
Meant for 8 GPUs of 16 GB or a TPU v4-8, two images a device. ImageNet weights in the layout of torchvision.

    python train.py --config=configs/faster_rcnn_r50_1x.py --config.data.root=PATH/TO/coco \\
        --config.model.pretrained=PATH/TO/resnet50.pth --workdir=runs/faster_rcnn_r50_1x

Not run.
"""

from dyhead_jax.config import (
    CocoFolderConfig,
    Config,
    DataConfig,
    DyHeadConfig,
    FasterRCNNConfig,
    FPNConfig,
    ModelConfig,
    OptimConfig,
    ResNetConfig,
    RunConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            backbone=ResNetConfig(depth=50, style="torch", norm="eval", frozen_stages=1),
            neck=FPNConfig(start=0, levels=5, extra="pool"),
            dyhead=DyHeadConfig(num_blocks=0),
            head=FasterRCNNConfig(delta_clamp="both", train_in_padding=False, empty_counts_one=True),
        ),
        data=DataConfig(
            source=CocoFolderConfig(
                train_annotations="annotations/instances_train2017.json",
                train_images="train2017",
                val_annotations="annotations/instances_val2017.json",
                val_images="val2017",
            ),
        ),
        optim=OptimConfig(learning_rate=0.02, warmup_steps=500, warmup_start=0.001),
        run=RunConfig(steps=90_000),
    )
