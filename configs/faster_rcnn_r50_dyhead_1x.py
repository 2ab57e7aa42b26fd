r"""Faster R-CNN with six DyHead blocks on P2 to P6, ResNet-50, 1x.

Row: the official code, retrained, COCO val2017. Target AP 40.3 (the baseline has 37.4). `:paper` follows the paper's
figure, for which no number was published: scale and spatial attention on the pyramid, task attention after RoI pooling
in place of the fully connected layers.

Schedule: 90,000 steps of 16 images, SGD at 0.02, divided by 10 after 60,000 and 80,000, warm-up of 1000 steps, short
side 800. Meant for 8 GPUs of 32 GB or a TPU v4-16, two images per device. Needs MSRA's caffe-style ImageNet weights.

    python train.py --config=configs/faster_rcnn_r50_dyhead_1x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50_msra.pth --workdir=runs/faster_rcnn_r50_dyhead_1x
    python train.py --config=configs/faster_rcnn_r50_dyhead_1x.py:paper --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50_msra.pth --workdir=runs/faster_rcnn_r50_dyhead_1x_paper

Not run.
"""

from dyhead_jax.config import Config, DyHeadConfig, FasterRCNNConfig, FPNConfig, ModelConfig, recipes


def get_config(kind: str = "released") -> Config:
    """kind: "released" or "paper". Raises ConfigError for another."""
    paper = recipes.chosen(kind, ("released", "paper")) == "paper"
    return Config(
        model=ModelConfig(
            **recipes.msra_resnet(50),
            pad_divisor=128,
            neck=FPNConfig(start=0, extra="pool"),
            dyhead=recipes.dyhead(("scale", "spatial")) if paper else DyHeadConfig(),
            head=FasterRCNNConfig(task="dyhead_jax.dyhead.task:TaskAttention" if paper else "none"),
        ),
        data=recipes.coco(multiple=128),
        **recipes.iterations(90_000, learning_rate=0.02),
    )
