r"""ATSS with six DyHead blocks, ResNeXt-101 64x4d with deformable convolutions in its last two stages, 2x.

Row: the paper's DyHead X-101-64x4d-DCN, COCO test-dev, multi-scale training and test. Target AP 54.0 (AP50 72.1, AP75
59.3; small 37.1, medium 57.2, large 66.3).

Schedule: 180,000 steps of 16 images, SGD at 0.01, divided by 10 after 120,000 and 160,000, warm-up of 1000 steps, short
sides drawn from 640 to 800 (the recipe of this row was not released: the schedule is the official 1x code's, twice as
long, the sides are ATSS's). After the last step the model is tested at thirteen scales with their object-size ranges,
each also mirrored; evaluations during training are plain. Meant for 8 GPUs of 32 GB or a TPU v4-16, two images per
device. Needs ImageNet weights of ResNeXt-101 64x4d.

    python train.py --config=configs/atss_x101_64x4d_dcn_dyhead_2x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnext101_64x4d.pth --workdir=runs/atss_x101_64x4d_dcn_dyhead_2x

Not run.
"""

from dyhead_jax.config import Config, recipes


def get_config() -> Config:
    config = recipes.atss_2x(recipes.resnext101_64x4d(dcn=True), dyhead=True)
    config.evaluation = recipes.multi_scale_test()
    return config
