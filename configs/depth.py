r"""The depth of the head: ATSS with 0 to 10 blocks, ResNet-50, 1x.

Rows: the paper's efficiency table, of 1, 2, 4, 6, 8, 10 blocks. The text after the colon is the number of blocks, by
default six; `0` is the baseline with ATSS's own towers. Targets, COCO val2017: 42.4 AP with six (official code,
retrained); in the paper two blocks already beat the baseline at lower cost.

Schedule: 90,000 steps of 16 images, SGD at 0.01, divided by 10 after 60,000 and 80,000, warm-up of 1000 steps, short
side 800. Meant for 8 GPUs of 32 GB or a TPU v4-16, two images per device. Needs MSRA's caffe-style ImageNet weights.

    for blocks in 0 1 2 4 6 8 10; do
        python train.py --config=configs/depth.py:$blocks --config.data.root=PATH/TO/coco \
            --config.model.pretrained=PATH/TO/resnet50_msra.pth --workdir=runs/depth_$blocks
    done

Not run.
"""

from dyhead_jax.config import ATSSConfig, Config, DyHeadConfig, recipes


def get_config(blocks: str = "6") -> Config:
    """blocks: "0" to "10". Raises ConfigError for others."""
    count = int(recipes.chosen(blocks, [str(n) for n in range(11)]))
    config = recipes.atss_r50(DyHeadConfig(num_blocks=count))
    if count == 0:
        config.model.head = ATSSConfig(towers=4, kernel=3)
    return config
