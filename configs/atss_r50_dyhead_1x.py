r"""ATSS with six DyHead blocks, ResNet-50, 1x: the paper's experiment and its two reproductions.

Rows (targets): the paper's DyHead R-50, COCO test-dev, 43.0 AP (AP50 60.7, AP75 46.8; small 24.7, medium 46.4, large
53.9); the official code, retrained, val2017, 42.4. As `:reproduction` mmdetection's
`atss_r50-caffe_fpn_dyhead_1x_coco`, 42.5, and as `:simple` its `atss_r50_fpn_dyhead_1x_coco`, 43.3.

Schedule: 90,000 steps of 16 images, SGD at 0.01, divided by 10 after 60,000 and 80,000, warm-up of 1000 steps, short
side 800; the two variants: 12 epochs (87,960 steps) of 16 images, SGD at 0.01, divided by 10 after 8 and 11 epochs,
warm-up of 500 steps, short side 800. Meant for 8 GPUs of 32 GB or a TPU v4-16, two images per device. Needs MSRA's
caffe-style ImageNet weights, `:simple` torchvision's.

    python train.py --config=configs/atss_r50_dyhead_1x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50_msra.pth --workdir=runs/atss_r50_dyhead_1x
    python train.py --config=configs/atss_r50_dyhead_1x.py:reproduction --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50_msra.pth --workdir=runs/atss_r50_dyhead_1x_reproduction
    python train.py --config=configs/atss_r50_dyhead_1x.py:simple --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50.pth --workdir=runs/atss_r50_dyhead_1x_simple

Not run.
"""

from dyhead_jax.config import Config, DyHeadConfig, FPNConfig, ModelConfig, recipes


def get_config(kind: str = "official") -> Config:
    """kind: "official", "reproduction" or "simple". Raises ConfigError for another."""
    if recipes.chosen(kind, ("official", "reproduction", "simple")) == "official":
        return recipes.atss_r50(DyHeadConfig())
    simple = kind == "simple"
    backbone = recipes.torch_resnet(50) if simple else recipes.msra_resnet(50, frozen_stages=1)
    return Config(
        model=ModelConfig(
            **backbone,
            pad_divisor=32 if simple else 128,
            neck=FPNConfig(extra="p5"),
            dyhead=DyHeadConfig(dcn_bias=False, lineage="mmdet_simple" if simple else "mmdet"),
            head=recipes.mmdet_atss(kernel=3 if simple else 1, center_offset=0.0 if simple else 0.5),
        ),
        data=recipes.coco(multiple=32 if simple else 128),
        **recipes.epochs(12),
    )
