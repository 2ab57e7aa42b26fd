r"""BorderDet with six DyHead blocks in place of its towers, ResNet-50, 1x.

Row: none is published; the baseline `borderdet_r50_1x.py` has a target AP of 41.4. To keep towers after DyHead, add
--config.model.head.towers=4.

Schedule: 90,000 steps of 16 images, SGD at 0.01, divided by 10 after 60,000 and 80,000, warm-up of 1000 steps, short
side 800; norms do not decay. Meant for 8 GPUs of 32 GB or a TPU v4-16, two images per device. Needs MSRA's caffe-style
ImageNet weights.

    python train.py --config=configs/borderdet_r50_dyhead_1x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50_msra.pth --workdir=runs/borderdet_r50_dyhead_1x

Not run.
"""

from dyhead_jax.config import BorderDetConfig, Config, DyHeadConfig, FPNConfig, ModelConfig, recipes


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            **recipes.msra_resnet(50, frozen_stages=1),
            neck=FPNConfig(extra="c5", relu_before_extra=True),
            dyhead=DyHeadConfig(num_blocks=6),
            head=BorderDetConfig(towers=0),
        ),
        data=recipes.coco(),
        **recipes.iterations(90_000, decay_norms=False),
    )
