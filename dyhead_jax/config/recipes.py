"""Shared parts of the experiments in configs/: backbones with the input format of their pretraining, COCO, schedules.

A backbone is a dict of fields of `ModelConfig`, a schedule a dict of fields of `Config`. A config file unpacks them and
so shows only what is its own:

    Config(model=ModelConfig(**msra_resnet(50), head=...), data=coco(), **iterations(90_000))

Sources: the configs of the official DynamicHead code (the detectron2 lineage) and of mmdetection 3.3.0.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dyhead_jax.config import (
    ATSSConfig,
    CocoFolderConfig,
    Config,
    ConfigError,
    DataConfig,
    DyHeadConfig,
    EfficientNetLiteConfig,
    EvaluationConfig,
    FCOSConfig,
    FPNConfig,
    ModelConfig,
    OptimConfig,
    ResNetConfig,
    RunConfig,
    SwinConfig,
)

COCO_EPOCH = 7_330  # steps of 16 images in one epoch of train2017
SWIN = {  # channels, depths, heads
    "t": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "s": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "b": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "l": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


def chosen(argument: str, allowed: Sequence[str]) -> str:
    """`argument`, the text after the colon of `--config=FILE:TEXT`. Raises ConfigError unless it is in `allowed`."""
    if argument not in allowed:
        raise ConfigError(f":{argument} does not exist; it may be {', '.join(f':{text}' for text in allowed)}")
    return argument


# Backbones: fields of ModelConfig


def msra_resnet(depth: int = 50, **fields: Any) -> dict[str, Any]:
    """The caffe-style ResNet of the official code: stride in the 1x1, BGR, standard deviation 1; frozen batch norm, all
    else trained."""
    defaults: dict[str, Any] = {"norm": "frozen", "frozen_stages": -1}
    backbone = ResNetConfig(depth=depth, style="caffe", **defaults | fields)
    return {"backbone": backbone, "pixel_std": (1.0, 1.0, 1.0), "bgr": True}


def torch_resnet(depth: int = 50, **fields: Any) -> dict[str, Any]:
    """torchvision's ResNet as mmdetection trains it: batch norm in eval mode with a trained affine map, stem and first
    stage frozen."""
    defaults: dict[str, Any] = {"norm": "eval", "frozen_stages": 1}
    return {"backbone": ResNetConfig(depth=depth, style="torch", **defaults | fields)}


def resnext101_64x4d(**fields: Any) -> dict[str, Any]:
    """ResNeXt-101 64x4d, otherwise as `torch_resnet`; `dcn=True`: modulated deformable convolutions in the last two
    stages."""
    if fields.pop("dcn", False):
        fields |= {"deform": "v2", "deform_stages": (4, 5)}
    return torch_resnet(101, groups=64, group_width=4, **fields)


def swin(size: str, **fields: Any) -> dict[str, Any]:
    """Swin-T, S, B or L by its letter, in lower case."""
    features, depths, heads = SWIN[size]
    return {"backbone": SwinConfig(features=features, depths=depths, heads=heads, **fields)}


def lite0() -> dict[str, Any]:
    """EfficientNet-Lite0 with its ImageNet weights, for small data and CPUs: batch norm, stem and two stages frozen."""
    return {
        "pretrained": "efficientnet-lite0",
        "pixel_mean": (127.0, 127.0, 127.0),  # as in the training of Lite0
        "pixel_std": (128.0, 128.0, 128.0),
        "backbone": EfficientNetLiteConfig(norm="frozen", frozen_stages=2),
    }


# Heads


def mmdet_atss(**fields: Any) -> ATSSConfig:
    """ATSS with mmdetection's numerics."""
    return ATSSConfig(
        giou_eps="floor",
        delta_clamp="both",
        rank_by="class",
        clip_boxes="before",
        train_in_padding=False,
        empty_counts_one=True,
        centerness_floor=1.0,
        divisor_eps=2**-23,
        **fields,
    )


def improved_fcos(**fields: Any) -> FCOSConfig:
    """FCOS with centre sampling, normalised boxes, centreness on the box tower and GIoU."""
    return FCOSConfig(
        distance="relu", centerness_on="box", center_radius=1.5, box_loss="giou", nms_threshold=0.6, **fields
    )


def dyhead(attentions: Sequence[str] = ("scale", "spatial", "task"), **fields: Any) -> DyHeadConfig:
    """DyHead with these attentions on and the others off."""
    off: dict[str, Any] = {name: "none" for name in ("scale", "spatial", "task") if name not in attentions}
    return DyHeadConfig(**off, **fields)


# Data and schedules


def coco(multiple: int = 32, **fields: Any) -> DataConfig:
    """COCO 2017 below `data.root`, by default with short side 800, long side at most 1333 and 16 images per step.

    multiple: canvas sides are multiples of it; with 128 each pyramid level is exactly half of the finer one.
    """
    source = CocoFolderConfig(
        train_annotations="annotations/instances_train2017.json",
        train_images="train2017",
        val_annotations="annotations/instances_val2017.json",
        val_images="val2017",
    )
    short = max(fields.get("short_side", (800,)))
    height, width = (-(-side // multiple) * multiple for side in (short, fields.get("long_side", 1333)))
    defaults: dict[str, Any] = {"source": source, "canvases": ((height, width), (width, height))}
    return DataConfig(**defaults | fields)


def iterations(steps: int = 90_000, **optim: Any) -> dict[str, Any]:
    """The official schedule: rate x 0.1 after 6/9 and again after 8/9 of the steps, 1000 steps of warm-up."""
    defaults: dict[str, Any] = {"milestones": (60 / 90, 80 / 90), "warmup_steps": 1_000}
    return {"optim": OptimConfig(**defaults | optim), "run": RunConfig(steps=steps, eval_every=7_500)}


def epochs(count: int = 12, **optim: Any) -> dict[str, Any]:
    """mmdetection's schedule: rate x 0.1 after 8/12 and again after 11/12 of the epochs, 500 steps of warm-up."""
    defaults: dict[str, Any] = {"milestones": (8 / 12, 11 / 12), "warmup_steps": 500}
    run = RunConfig(steps=count * COCO_EPOCH, eval_every=COCO_EPOCH)
    return {"optim": OptimConfig(**defaults | optim), "run": run}


def short_adamw(backbone_rate: float, **fields: Any) -> OptimConfig:
    """AdamW for a few hundred steps on small data, cosine after 50 steps of warm-up, with averaged parameters."""
    defaults: dict[str, Any] = {
        "name": "adamw",
        "learning_rate": 2e-3,
        "backbone_rate": backbone_rate,
        "offset_rate": 0.05,  # a full step of Adam would move the samples by pixels
        "weight_decay": 0.02,
        "decay_norms": False,
        "decay_biases": False,
        "schedule": "cosine",
        "warmup_steps": 50,
        "clip_norm": 10.0,
        "ema": 0.99,
    }
    return OptimConfig(**defaults | fields)


# Whole experiments


def atss_r50(dyhead: DyHeadConfig) -> Config:
    """ATSS, ResNet-50, 90,000 steps: the official code's experiment; ablation and depths are variants of it."""
    return Config(
        model=replace(_atss(msra_resnet(50), dyhead=True), dyhead=dyhead),
        data=coco(multiple=128),
        **iterations(90_000),
    )


def atss_2x(backbone: dict[str, Any], *, dyhead: bool) -> Config:
    """ATSS, 180,000 steps, short sides from 640 to 800; with six blocks, or with towers of four convolutions.

    No recipe of the paper's 2x rows was released: head and schedule are those of the official 1x code, twice as long;
    the short sides are ATSS's own (Zhang et al. 2020).
    """
    return Config(model=_atss(backbone, dyhead), data=coco(multiple=128, short_side=(640, 800)), **iterations(180_000))


def atss_swin_2x(size: str, *, dyhead: bool) -> Config:
    """ATSS on a Swin, 90,000 steps of 32 images, short sides from 640 to 800: the official code's Swin-T experiment."""
    sides = (640, 672, 704, 736, 768, 800)
    return Config(
        model=_atss(swin(size), dyhead),
        data=coco(multiple=128, short_side=sides, short_side_choice=True, batch_size=32),
        **iterations(90_000, name="adamw", learning_rate=1e-4, weight_decay=0.05),
    )


def _atss(backbone: dict[str, Any], dyhead: bool) -> ModelConfig:
    """The official head after six blocks, or plain ATSS."""
    return ModelConfig(
        **backbone,
        pad_divisor=128,
        neck=FPNConfig(extra="p5", relu_before_extra=True),
        dyhead=DyHeadConfig(num_blocks=6 if dyhead else 0),
        head=ATSSConfig() if dyhead else ATSSConfig(towers=4, kernel=3),
    )


# Test time


def multi_scale_test() -> EvaluationConfig:
    """ATSS's thirteen scales, each also mirrored, small ones for large objects and large ones for small objects.

    Source: the released ATSS and GLIP code (`TEST.BBOX_AUG`, `SCALE_RANGES`).
    """
    scales = {  # short side: range of sqrt(area) of objects, in pixels of that scale; 10,000 is no limit
        800: (0, 10_000),
        400: (96, 10_000),
        500: (96, 10_000),
        600: (64, 10_000),
        640: (64, 10_000),
        700: (64, 10_000),
        900: (0, 10_000),
        1000: (0, 10_000),
        1100: (0, 256),
        1200: (0, 256),
        1300: (0, 192),
        1400: (0, 192),
        1800: (0, 96),
    }
    return EvaluationConfig(
        short_sides=tuple(scales),
        long_sides=tuple(1333 if side <= 800 else 2500 for side in scales),
        size_ranges=tuple((float(low), float(high)) for low, high in scales.values()),
        flip=True,
    )
