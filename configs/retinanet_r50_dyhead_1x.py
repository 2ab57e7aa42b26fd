r"""RetinaNet with six DyHead blocks before its towers, ResNet-50, 1x.

Row: official DynamicHead code, RetinaNet R50 1x, 39.9 AP on COCO val2017 (target; the baseline has 36.5). 90,000 steps,
batch 16, SGD 0.01 with steps at 60,000 and 80,000, short side 800, inputs padded to multiples of 128. As there: MSRA's
caffe-style ResNet-50 in blue-green-red order with frozen batch norm and nothing else frozen, the four-layer towers kept
behind DyHead. Losses and anchors are those of mmdetection's head. Meant for eight GPUs or TPU cores, two images each.

    python train.py --config=configs/retinanet_r50_dyhead_1x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/R-50.pth --workdir=runs/retinanet_r50_dyhead_1x

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
    ResNetConfig,
    RetinaNetConfig,
    RunConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            pixel_mean=(123.675, 116.28, 103.53),
            pixel_std=(1.0, 1.0, 1.0),
            bgr=True,
            pad_divisor=128,
            backbone=ResNetConfig(depth=50, style="caffe", norm="frozen", frozen_stages=-1),
            neck=FPNConfig(extra="c5", relu_before_extra=True),
            dyhead=DyHeadConfig(num_blocks=6),
            head=RetinaNetConfig(),
        ),
        data=DataConfig(
            source=CocoFolderConfig(
                train_annotations="annotations/instances_train2017.json",
                train_images="train2017",
                val_annotations="annotations/instances_val2017.json",
                val_images="val2017",
            ),
            canvases=((896, 1408), (1408, 896)),
            short_side=(800,),
            long_side=1333,
            batch_size=16,
        ),
        optim=OptimConfig(learning_rate=0.01, milestones=(60 / 90, 80 / 90), warmup_steps=1_000, warmup_start=0.001),
        run=RunConfig(steps=90_000, eval_every=7_500),
    )
