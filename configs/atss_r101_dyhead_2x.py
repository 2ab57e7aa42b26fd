r"""ATSS with six DyHead blocks, ResNet-101, 2x.

Row: the paper's DyHead R-101, COCO test-dev. Target AP 46.5 (AP50 64.5, AP75 50.7; small 28.3, medium 50.3, large
57.5).

Schedule: 180,000 steps of 16 images, SGD at 0.01, divided by 10 after 120,000 and 160,000, warm-up of 1000 steps, short
sides drawn from 640 to 800 (the recipe of this row was not released: the schedule is the official 1x code's, twice as
long, the sides are ATSS's). Meant for 8 GPUs of 32 GB or a TPU v4-16, two images per device. Needs MSRA's caffe-style
ImageNet weights.

    python train.py --config=configs/atss_r101_dyhead_2x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet101_msra.pth --workdir=runs/atss_r101_dyhead_2x

Not run.
"""

from dyhead_jax.config import Config, recipes


def get_config() -> Config:
    return recipes.atss_2x(recipes.msra_resnet(101), dyhead=True)
