"""A sanity check: overfits a few photographs of a COCO folder and evaluates on them.

Trains on the first eight images of the training split (`--config.data.source.limit`) and evaluates on the same images,
with 80 classes, at 480x640 pixels. Run it before a long run on new data.

    python train.py --config=configs/coco_overfit_lite0.py --config.data.root=PATH/TO/coco_folder --workdir=runs/overfit
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
            num_classes=80,
            **recipes.lite0(),
            neck=FPNConfig(features=64, start=1, levels=4),
            dyhead=DyHeadConfig(num_blocks=2, features=64, lineage="mmdet_simple"),
            head=ATSSConfig(kernel=3),
        ),
        data=DataConfig(
            source=CocoFolderConfig(val_annotations="annotations/instances_train.json", val_images="train", limit=8),
            canvases=((480, 640), (640, 480)),
            short_side=(480,),
            long_side=640,
            flip=0.0,  # to overfit
            batch_size=4,
            eval_batch_size=4,
        ),
        optim=recipes.short_adamw(backbone_rate=0.15, weight_decay=0.0, warmup_steps=30, ema=0.97),
        run=RunConfig(steps=200, eval_every=0, checkpoint_every=100, log_every=20),
    )
