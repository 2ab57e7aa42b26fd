r"""ATSS, Swin-L, 2x: the baseline without DyHead.

Row: none is published; with DyHead, `atss_swin_l_dyhead_2x.py:single_scale`, the target AP is 56.2.

Schedule: 24 epochs (175,920 steps) of 16 images, AdamW at 5e-5 with decay 0.05 except for norms and position tables,
the rate divided by 10 after 16 and 22 epochs, warm-up of 500 steps, short sides drawn from 480 to 1200, long sides at
most 2000. Meant for 16 GPUs of 80 GB or a TPU v4-32, one image per device. Needs the released ImageNet-22k weights
(patch 4, window 12, 384 pixels).

    python train.py --config=configs/atss_swin_l_2x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/swin_large_384_22k.pth --workdir=runs/atss_swin_l_2x

Not run.
"""

from dyhead_jax.config import Config, DyHeadConfig, FPNConfig, ModelConfig, recipes


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            **recipes.swin("l", window=12),
            pad_divisor=128,
            neck=FPNConfig(extra="p5"),
            dyhead=DyHeadConfig(num_blocks=0),
            head=recipes.mmdet_atss(towers=4, kernel=3),
        ),
        data=recipes.coco(multiple=128, short_side=(480, 1200), long_side=2000),
        **recipes.epochs(
            24, name="adamw", learning_rate=5e-5, weight_decay=0.05, decay_norms=False, decay_positions=False
        ),
    )
