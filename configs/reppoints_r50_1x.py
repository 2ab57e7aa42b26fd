r"""RepPoints (moment), ResNet-50, 1x: the baseline without DyHead.

Row: mmdetection `reppoints-moment_r50_fpn_1x_coco`, 37.0 AP on COCO val2017 (target). 12 epochs of 7330 steps, batch
16, SGD 0.01 with steps after 8 and 11, short side 800; towers without norm (its other row, 38.1 AP, has group norm in
the towers, `--config.model.head.norm_groups=32`, and in the pyramid, which is not offered here). Meant for eight GPUs
or TPU cores, two images each; needs torchvision's ImageNet weights of ResNet-50.

    python train.py --config=configs/reppoints_r50_1x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50.pth --workdir=runs/reppoints_r50_1x

Not run.
"""

from dyhead_jax.config import (
    CocoFolderConfig,
    Config,
    DataConfig,
    DyHeadConfig,
    FPNConfig,
    ModelConfig,
    OptimConfig,
    RepPointsConfig,
    ResNetConfig,
    RunConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            backbone=ResNetConfig(depth=50, style="torch", norm="eval", frozen_stages=1),
            neck=FPNConfig(extra="c5"),
            dyhead=DyHeadConfig(num_blocks=0),
            head=RepPointsConfig(towers=3, norm_groups=0),
        ),
        data=DataConfig(
            source=CocoFolderConfig(
                train_annotations="annotations/instances_train2017.json",
                train_images="train2017",
                val_annotations="annotations/instances_val2017.json",
                val_images="val2017",
            ),
            canvases=((800, 1344), (1344, 800)),
            short_side=(800,),
            long_side=1333,
            batch_size=16,
        ),
        optim=OptimConfig(learning_rate=0.01, milestones=(8 / 12, 11 / 12), warmup_steps=500, warmup_start=0.001),
        run=RunConfig(steps=87_960, eval_every=7_330),
    )
