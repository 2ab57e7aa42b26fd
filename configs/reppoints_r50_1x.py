r"""RepPoints (moment), ResNet-50, 1x: the baseline without DyHead.

Row: mmdetection `reppoints-moment_r50_fpn_1x_coco`, COCO val2017. Target AP 37.0. (Its other row, 38.1 AP, has group
norm in the towers, `--config.model.head.norm_groups=32`, and in the pyramid, which this package does not have.)

Schedule: 12 epochs (87,960 steps) of 16 images, SGD at 0.01, divided by 10 after 8 and 11 epochs, warm-up of 500 steps,
short side 800. Meant for 8 GPUs of 16 GB or a TPU v4-8, two images per device. Needs torchvision's ImageNet weights.

    python train.py --config=configs/reppoints_r50_1x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50.pth --workdir=runs/reppoints_r50_1x

Not run.
"""

from dyhead_jax.config import Config, DyHeadConfig, FPNConfig, ModelConfig, RepPointsConfig, recipes


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            **recipes.torch_resnet(50),
            neck=FPNConfig(extra="c5"),
            dyhead=DyHeadConfig(num_blocks=0),
            head=RepPointsConfig(towers=3, norm_groups=0),
        ),
        data=recipes.coco(),
        **recipes.epochs(12),
    )
