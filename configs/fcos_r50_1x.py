r"""FCOS, ResNet-50, 1x: the baseline without DyHead, plain or with its later improvements.

Rows, COCO val2017 (targets): mmdetection `fcos_r50-caffe_fpn_gn-head_1x_coco`, 36.6 AP, and as `:improved`, with centre
sampling, normalised boxes, centreness on the box tower, GIoU and NMS at 0.6
(`fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco`), 38.7 AP.

Schedule: 12 epochs (87,960 steps) of 16 images, SGD at 0.01, divided by 10 after 8 and 11 epochs, warm-up of 500 steps,
short side 800, biases at twice the rate and not decayed. Differences: mmdetection's plain row holds a third of the rate
for 500 steps, while here it rises from a third; and here the biases of norms are not decayed. Meant for 8 GPUs of 16 GB
or a TPU v4-8, two images per device. Needs the caffe-style ImageNet weights.

    python train.py --config=configs/fcos_r50_1x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50_caffe.pth --workdir=runs/fcos_r50_1x
    python train.py --config=configs/fcos_r50_1x.py:improved --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/resnet50_caffe.pth --workdir=runs/fcos_r50_1x_improved

Not run.
"""

from dyhead_jax.config import Config, DyHeadConfig, FCOSConfig, FPNConfig, ModelConfig, recipes


def get_config(kind: str = "plain") -> Config:
    """kind: "plain" or "improved". Raises ConfigError for another."""
    improved = recipes.chosen(kind, ("plain", "improved")) == "improved"
    model = ModelConfig(
        **recipes.msra_resnet(50, frozen_stages=1),
        neck=FPNConfig(extra="p5", relu_before_extra=True),
        dyhead=DyHeadConfig(num_blocks=0),
        head=recipes.improved_fcos(tower_bias=True) if improved else FCOSConfig(),
    )
    if not improved:
        model.pixel_mean = (122.7717, 115.9465, 102.9801)
    biases = {"bias_rate": 2.0, "decay_biases": False, "warmup_start": 1 / 3}
    schedule = recipes.epochs(12, **biases, clip_norm=0.0 if improved else 35.0)
    return Config(model=model, data=recipes.coco(), **schedule)
