r"""BorderDet, ResNet-50, 1x: the baseline without DyHead.

Row: the official repository's, COCO val2017. Target AP 41.4 (AP50 59.4, AP75 44.5; small 23.6, medium 45.1, large
54.6).

Schedule: 90,000 steps of 16 images, SGD at 0.01, divided by 10 after 60,000 and 80,000, warm-up of 1000 steps, short
side 800; norms do not decay. Meant for 8 GPUs of 16 GB or a TPU v4-8, two images per device. Needs MSRA's caffe-style
ImageNet weights.

    python train.py --config=configs/borderdet_r50_1x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50_msra.pth --workdir=runs/borderdet_r50_1x

Not run.
"""

from dyhead_jax.config import BorderDetConfig, Config, DyHeadConfig, FPNConfig, ModelConfig, recipes


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            **recipes.msra_resnet(50, frozen_stages=1),
            neck=FPNConfig(extra="c5", relu_before_extra=True),
            dyhead=DyHeadConfig(num_blocks=0),
            head=BorderDetConfig(),
        ),
        data=recipes.coco(),
        **recipes.iterations(90_000, decay_norms=False),
    )
