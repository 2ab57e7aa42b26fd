"""Faster R-CNN with six DyHead blocks on P2 to P6, ResNet-50, 12 epochs of COCO.

Row: official code, retrained, val2017. Target AP 40.3.
Schedule: 16 images a step, 90,000 steps, learning rate 0.02, a tenth of it after 60,000 and 80,000.
Meant for 8 GPUs of 32 GB or a TPU v4-16, two images a device. ImageNet weights of the caffe lineage (MSRA R-50).

    python train.py --config=configs/faster_rcnn_r50_dyhead_1x.py --config.data.root=PATH/TO/coco \\
        --config.model.pretrained=PATH/TO/R-50.pkl --workdir=runs/faster_rcnn_r50_dyhead_1x

As the paper draws it, with task attention behind RoI pooling in place of the fully connected layers, add

    --config.model.dyhead.task=none --config.model.head.task=dyhead_jax.dyhead.task:TaskAttention

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
            pixel_std=(1.0, 1.0, 1.0),
            bgr=True,
            pad_divisor=128,
            backbone=ResNetConfig(depth=50, style="caffe", norm="frozen", frozen_stages=-1),
            neck=FPNConfig(start=0, levels=5, extra="pool"),
            dyhead=DyHeadConfig(num_blocks=6),
            head=FasterRCNNConfig(),
        ),
        data=DataConfig(
            source=CocoFolderConfig(
                train_annotations="annotations/instances_train2017.json",
                train_images="train2017",
                val_annotations="annotations/instances_val2017.json",
                val_images="val2017",
            ),
            canvases=((896, 1408), (1408, 896)),  # multiples of 128, so that all levels are exactly 2:1
        ),
        optim=OptimConfig(learning_rate=0.02, milestones=(60 / 90, 80 / 90), warmup_steps=1000, warmup_start=0.001),
        run=RunConfig(steps=90_000),
    )
