r"""ATSS with six DyHead blocks, Swin-L, 2x.

Rows (targets): the paper's DyHead Swin-L, COCO test-dev, multi-scale test, 58.7 AP (AP50 77.1, AP75 64.5; medium 62.0,
large 72.8). As `:single_scale` mmdetection's `atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco`, val2017, 56.2. As
`:self_training` the paper's row with extra data, test-dev, 60.6 (AP50 78.5, AP75 66.6; medium 64.0, large 74.2).

Schedule: 24 epochs (175,920 steps) of 16 images, AdamW at 5e-5 with decay 0.05 except for norms and position tables,
the rate divided by 10 after 16 and 22 epochs, warm-up of 500 steps, short sides drawn from 480 to 1200, long sides at
most 2000 (mmdetection's; the paper's was not released). After the last step the model is tested at thirteen scales with
their object-size ranges, each also mirrored; evaluations during training are plain. Meant for 16 GPUs of 80 GB or a TPU
v4-32, one image per device. Needs the released ImageNet-22k weights (patch 4, window 12, 384 pixels).

Neither the recipe nor the weights of self-training were released: `:self_training` trains on your own ground truth and
pseudo labels in annotations/instances_self_training.json, with all images in self_training/.

    python train.py --config=configs/atss_swin_l_dyhead_2x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/swin_large_384_22k.pth --workdir=runs/atss_swin_l_dyhead_2x
    python train.py --config=configs/atss_swin_l_dyhead_2x.py:single_scale --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/swin_large_384_22k.pth --workdir=runs/atss_swin_l_dyhead_2x_single_scale
    python train.py --config=configs/atss_swin_l_dyhead_2x.py:self_training --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/swin_large_384_22k.pth --workdir=runs/atss_swin_l_dyhead_2x_self_training

Not run.
"""

from dyhead_jax.config import Config, DyHeadConfig, EvaluationConfig, FPNConfig, ModelConfig, recipes


def get_config(kind: str = "multi_scale") -> Config:
    """kind: "multi_scale", "single_scale" or "self_training". Raises ConfigError for another."""
    recipes.chosen(kind, ("multi_scale", "single_scale", "self_training"))
    data = recipes.coco(multiple=128, short_side=(480, 1200), long_side=2000)
    if kind == "self_training":
        data.source.train_annotations = "annotations/instances_self_training.json"
        data.source.train_images = "self_training"
    return Config(
        model=ModelConfig(
            **recipes.swin("l", window=12),
            pad_divisor=128,
            neck=FPNConfig(extra="p5"),
            dyhead=DyHeadConfig(dcn_bias=False, lineage="mmdet"),
            head=recipes.mmdet_atss(kernel=1),
        ),
        data=data,
        **recipes.epochs(
            24, name="adamw", learning_rate=5e-5, weight_decay=0.05, decay_norms=False, decay_positions=False
        ),
        evaluation=EvaluationConfig() if kind == "single_scale" else recipes.multi_scale_test(),
    )
