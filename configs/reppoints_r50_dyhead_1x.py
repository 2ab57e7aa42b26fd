r"""RepPoints (moment) with six DyHead blocks in place of its towers, ResNet-50, 1x.

No number was published for this row; the paper puts DyHead's gain in five detectors at 1.2 to 3.2 AP, so the target is
38.2 to 40.2 AP on COCO val2017 over the 37.0 of `reppoints_r50_1x.py`, of which this is the model, data and schedule
but for the towers. Meant for eight GPUs or TPU cores, two images each; needs torchvision's ImageNet weights of
ResNet-50.

    python train.py --config=configs/reppoints_r50_dyhead_1x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50.pth --workdir=runs/reppoints_r50_dyhead_1x

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
            dyhead=DyHeadConfig(num_blocks=6),
            head=RepPointsConfig(towers=0),
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
