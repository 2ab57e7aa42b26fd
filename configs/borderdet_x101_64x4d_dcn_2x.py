r"""BorderDet, ResNeXt-101 64x4d with deformable convolutions in its last two stages, 2x: without DyHead.

Row: BorderDet X-101-64x4d-DCN of the paper, COCO test-dev, multi-scale test. Target AP 50.3 (AP50 68.9, AP75 55.2;
small 32.8, medium 52.8, large 62.3). At a single scale the official repository has 47.5 on val2017 (small 29.6, medium
51.1, large 62.4).

Schedule: 180,000 steps of 16 images, SGD at 0.01, divided by 10 after 120,000 and 160,000, warm-up of 1000 steps, short
side 640 or 800; norms do not decay. After the last step the model is tested at thirteen scales with their object-size
ranges, each also mirrored; evaluations during training are plain. The scales are ATSS's, since BorderDet's were not
released. Meant for 8 GPUs of 32 GB or a TPU v4-16, two images per device. Needs ImageNet weights of ResNeXt-101 64x4d.

    python train.py --config=configs/borderdet_x101_64x4d_dcn_2x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnext101_64x4d.pth --workdir=runs/borderdet_x101_64x4d_dcn_2x

Not run.
"""

from dyhead_jax.config import BorderDetConfig, Config, DyHeadConfig, FPNConfig, ModelConfig, recipes


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            backbone=recipes.resnext101_64x4d(dcn=True, norm="frozen")["backbone"],
            pixel_std=(1.0, 1.0, 1.0),  # and BGR, as published, although these weights were trained differently
            bgr=True,
            neck=FPNConfig(extra="c5", relu_before_extra=True),
            dyhead=DyHeadConfig(num_blocks=0),
            head=BorderDetConfig(),
        ),
        data=recipes.coco(short_side=(640, 800), short_side_choice=True),
        **recipes.iterations(180_000, decay_norms=False),
        evaluation=recipes.multi_scale_test(),
    )
