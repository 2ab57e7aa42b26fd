r"""RepPoints (moment) with six DyHead blocks in place of its towers, ResNet-50, 1x.

Row: none is published. The paper reports a gain of 1.2 to 3.2 AP from DyHead in five detectors, so the target is 38.2
to 40.2 AP on COCO val2017, over the 37.0 of `reppoints_r50_1x.py`. Model, data and schedule are those of that file
except for the towers.

Schedule: 12 epochs (87,960 steps) of 16 images, SGD at 0.01, divided by 10 after 8 and 11 epochs, warm-up of 500 steps,
short side 800. Meant for 8 GPUs of 32 GB or a TPU v4-16, two images per device. Needs torchvision's ImageNet weights.

    python train.py --config=configs/reppoints_r50_dyhead_1x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50.pth --workdir=runs/reppoints_r50_dyhead_1x

Not run.
"""

from dyhead_jax.config import Config, DyHeadConfig, FPNConfig, ModelConfig, RepPointsConfig, recipes


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            **recipes.torch_resnet(50),
            neck=FPNConfig(extra="c5"),
            dyhead=DyHeadConfig(num_blocks=6),
            head=RepPointsConfig(towers=0),
        ),
        data=recipes.coco(),
        **recipes.epochs(12),
    )
