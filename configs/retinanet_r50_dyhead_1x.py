r"""RetinaNet with six DyHead blocks before its towers, ResNet-50, 1x.

Row: the official code, retrained, COCO val2017. Target AP 39.9 (the baseline has 36.5).

Schedule: 90,000 steps of 16 images, SGD at 0.01, divided by 10 after 60,000 and 80,000, warm-up of 1000 steps, short
side 800. Meant for 8 GPUs of 32 GB or a TPU v4-16, two images per device. Needs MSRA's caffe-style ImageNet weights.

As in that code, the four-layer towers are kept after DyHead, P6 comes from P5 (the baseline's from C5), and images are
padded to multiples of 128. Losses and anchors are those of mmdetection's head.

    python train.py --config=configs/retinanet_r50_dyhead_1x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50_msra.pth --workdir=runs/retinanet_r50_dyhead_1x

Not run.
"""

from dyhead_jax.config import Config, DyHeadConfig, FPNConfig, ModelConfig, RetinaNetConfig, recipes


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            **recipes.msra_resnet(50),
            pad_divisor=128,
            neck=FPNConfig(extra="p5", relu_before_extra=True),
            dyhead=DyHeadConfig(num_blocks=6),
            head=RetinaNetConfig(),
        ),
        data=recipes.coco(multiple=128),
        **recipes.iterations(90_000),
    )
