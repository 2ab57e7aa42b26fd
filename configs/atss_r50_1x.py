r"""ATSS, ResNet-50, 1x: the baseline without DyHead.

Row: mmdetection `atss_r50_fpn_1x_coco`, COCO val2017. Target AP 39.4.

Schedule: 12 epochs (87,960 steps) of 16 images, SGD at 0.01, divided by 10 after 8 and 11 epochs, warm-up of 500 steps,
short side 800. Meant for 8 GPUs of 16 GB or a TPU v4-8, two images per device. Needs torchvision's ImageNet weights.

    python train.py --config=configs/atss_r50_1x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50.pth --workdir=runs/atss_r50_1x

Not run.
"""

from dyhead_jax.config import Config, DyHeadConfig, FPNConfig, ModelConfig, recipes


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            **recipes.torch_resnet(50),
            neck=FPNConfig(extra="p5"),
            dyhead=DyHeadConfig(num_blocks=0),
            head=recipes.mmdet_atss(towers=4, kernel=3, center_offset=0.0),
        ),
        data=recipes.coco(),
        **recipes.epochs(12),
    )
