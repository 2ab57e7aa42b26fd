r"""FCOS, ResNet-50, 1x: the baseline without DyHead, plain or with its later improvements.

Rows, COCO val2017 (targets): mmdetection `fcos_r50-caffe_fpn_gn-head_1x_coco`, 36.6 AP, and with centre sampling,
normalised boxes, centreness on the box tower, GIoU and NMS at 0.6 (`...-center-normbbox-centeronreg-giou_1x_coco`),
38.7 AP. 12 epochs of 7330 steps, batch 16, SGD 0.01, biases at twice the rate and not decayed, short side 800,
caffe-style ResNet-50 in blue-green-red order. There the plain row holds a third of the rate for 500 steps where this
one rises from a third, and the biases of norms are decayed. Meant for eight GPUs or TPU cores, two images each.

    python train.py --config=configs/fcos_r50_1x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50_caffe.pth --workdir=runs/fcos_r50_1x
    python train.py --config=configs/fcos_r50_1x.py:improved --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50_caffe.pth --workdir=runs/fcos_r50_1x_improved

Not run.
"""

from dyhead_jax.config import (
    CocoFolderConfig,
    Config,
    ConfigError,
    DataConfig,
    DyHeadConfig,
    FCOSConfig,
    FPNConfig,
    ModelConfig,
    OptimConfig,
    ResNetConfig,
    RunConfig,
)


def get_config(kind: str = "plain") -> Config:
    """kind: "plain" or "improved". Raises ConfigError for another."""
    if kind not in ("plain", "improved"):
        raise ConfigError(f"fcos_r50_1x.py:{kind} does not exist; it may be :plain or :improved")
    improved = kind == "improved"
    head = FCOSConfig()
    if improved:
        head = FCOSConfig(
            tower_bias=True,
            distance="relu",
            centerness_on="box",
            center_radius=1.5,
            box_loss="giou",
            nms_threshold=0.6,
        )
    return Config(
        model=ModelConfig(
            pixel_mean=(123.675, 116.28, 103.53) if improved else (122.7717, 115.9465, 102.9801),
            pixel_std=(1.0, 1.0, 1.0),
            bgr=True,
            backbone=ResNetConfig(depth=50, style="caffe", norm="frozen", frozen_stages=1),
            neck=FPNConfig(extra="p5", relu_before_extra=True),
            dyhead=DyHeadConfig(num_blocks=0),
            head=head,
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
        optim=OptimConfig(
            learning_rate=0.01,
            bias_rate=2.0,
            decay_biases=False,
            milestones=(8 / 12, 11 / 12),
            warmup_steps=500,
            warmup_start=1 / 3,
            clip_norm=0.0 if improved else 35.0,
        ),
        run=RunConfig(steps=87_960, eval_every=7_330),
    )
