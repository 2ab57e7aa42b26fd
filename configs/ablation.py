r"""The ablation of the three attentions: ATSS with six blocks, ResNet-50, 1x, each attention on or off.

Rows: the paper's ablation, COCO val2017. Targets, as AP gained over all three off: scale +0.9, spatial +2.4, task +1.3,
all three +3.6. The text after the colon lists the attentions that are on, in any order: `scale`, `spatial`, `task`, or
`none`; without it all are. With all off a block is a plain convolution of a level and its two neighbours.

Schedule: 90,000 steps of 16 images, SGD at 0.01, divided by 10 after 60,000 and 80,000, warm-up of 1000 steps, short
side 800. Meant for 8 GPUs of 32 GB or a TPU v4-16, two images per device. Needs MSRA's caffe-style ImageNet weights.

    for on in none scale spatial task scale,spatial scale,task spatial,task scale,spatial,task; do
        python train.py --config=configs/ablation.py:$on --config.data.root=PATH/TO/coco \
            --config.model.pretrained=PATH/TO/resnet50_msra.pth --workdir=runs/ablation_$on
    done

Not run.
"""

from dyhead_jax.config import Config, ConfigError, recipes

ATTENTIONS = ("scale", "spatial", "task")


def get_config(on: str = "scale,spatial,task") -> Config:
    """on: names among ATTENTIONS, separated by commas, or "none". Raises ConfigError for others."""
    names = [] if on == "none" else on.split(",")
    if set(names) - set(ATTENTIONS) or len(names) != len(set(names)):
        raise ConfigError(
            f":{on} is not known; it may be :none or attentions, as in :scale,task or :scale,spatial,task"
        )
    return recipes.atss_r50(recipes.dyhead(names))
