r"""FCOS with six DyHead blocks in place of its towers, ResNet-50, 1x.

Row: none is published. The paper reports a gain of 1.2 to 3.2 AP from DyHead in five detectors, so the target is 39.9
to 41.9 AP on COCO val2017, over the 38.7 of `fcos_r50_1x.py:improved`. Model, data and schedule are those of that file
except for the towers, the biases (trained like other parameters) and the warm-up (that of the other rows).

Schedule: 12 epochs (87,960 steps) of 16 images, SGD at 0.01, divided by 10 after 8 and 11 epochs, warm-up of 500 steps,
short side 800. Meant for 8 GPUs of 32 GB or a TPU v4-16, two images per device. Needs the caffe-style ImageNet weights.

    python train.py --config=configs/fcos_r50_dyhead_1x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50_caffe.pth --workdir=runs/fcos_r50_dyhead_1x

Not run.
"""

from dyhead_jax.config import Config, DyHeadConfig, FPNConfig, ModelConfig, recipes


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            **recipes.msra_resnet(50, frozen_stages=1),
            neck=FPNConfig(extra="p5", relu_before_extra=True),
            dyhead=DyHeadConfig(num_blocks=6),
            head=recipes.improved_fcos(towers=0),
        ),
        data=recipes.coco(),
        **recipes.epochs(12),
    )
