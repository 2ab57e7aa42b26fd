r"""ATSS with six DyHead blocks, Swin-T, 2x.

Row: the official code, retrained, multi-scale training, COCO val2017. Target AP 49.8.

Schedule: 90,000 steps of 32 images, AdamW at 1e-4 with decay 0.05, divided by 10 after 60,000 and 80,000, warm-up of
1000 steps, short sides of 640 to 800 in steps of 32. Meant for 16 GPUs of 32 GB or a TPU v4-32, two images per device.
Needs the released ImageNet weights.

    python train.py --config=configs/atss_swin_t_dyhead_2x.py --config.data.root=PATH/TO/coco \
        --config.model.pretrained=PATH/TO/swin_tiny_patch4_window7_224.pth --workdir=runs/atss_swin_t_dyhead_2x

Not run.
"""

from dyhead_jax.config import Config, recipes


def get_config() -> Config:
    return recipes.atss_swin_2x("t", dyhead=True)
