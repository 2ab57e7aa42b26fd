r"""FCOS with six DyHead blocks in place of its towers, ResNet-50, 1x.

No number was published for this row; the paper puts DyHead's gain in five detectors at 1.2 to 3.2 AP, so the target is
39.9 to 41.9 AP on COCO val2017 over the 38.7 of `fcos_r50_1x.py:improved`, of which this is the model and data, but for
the towers. Biases train as other parameters and the warm-up is that of the other rows. Meant for eight GPUs or TPU
cores, two images each.

    python train.py --config=configs/fcos_r50_dyhead_1x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50_caffe.pth --workdir=runs/fcos_r50_dyhead_1x

Not run.
"""

from dyhead_jax.config import (
    CocoFolderConfig,
    Config,
    DataConfig,
    DyHeadConfig,
    FCOSConfig,
    FPNConfig,
    ModelConfig,
    OptimConfig,
    ResNetConfig,
    RunConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            pixel_mean=(123.675, 116.28, 103.53),
            pixel_std=(1.0, 1.0, 1.0),
            bgr=True,
            backbone=ResNetConfig(depth=50, style="caffe", norm="frozen", frozen_stages=1),
            neck=FPNConfig(extra="p5", relu_before_extra=True),
            dyhead=DyHeadConfig(num_blocks=6),
            head=FCOSConfig(
                towers=0,
                distance="relu",
                centerness_on="box",
                center_radius=1.5,
                box_loss="giou",
                nms_threshold=0.6,
            ),
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
