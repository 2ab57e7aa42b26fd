r"""ATSS, ResNeXt-101 64x4d, 2x: the baseline without DyHead.

Row: ATSS (Zhang et al. 2020), COCO test-dev. Target AP 45.6.

Schedule: 180,000 steps of 16 images, SGD at 0.01, divided by 10 after 120,000 and 160,000, warm-up of 1000 steps, short
sides drawn from 640 to 800 (the recipe of this row was not released: the schedule is the official 1x code's, twice as
long, the sides are ATSS's). Meant for 8 GPUs of 32 GB or a TPU v4-16, two images per device. Needs ImageNet weights of
ResNeXt-101 64x4d.

    python train.py --config=configs/atss_x101_64x4d_2x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnext101_64x4d.pth --workdir=runs/atss_x101_64x4d_2x

Not run.
"""

from dyhead_jax.config import Config, recipes


def get_config() -> Config:
    return recipes.atss_2x(recipes.resnext101_64x4d(), dyhead=False)
