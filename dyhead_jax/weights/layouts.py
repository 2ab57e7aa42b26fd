"""Which name table a file of weights needs: found from the names in it, or put together from a config.

A layout is a way to name parameters. "mmdet" (mmdetection 2 and 3) and "official" (DynamicHead, detectron2, and cvpods
for BorderDet) name whole detectors; those in BACKBONES name a backbone only.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dyhead_jax.config import (
    ATSSConfig,
    BorderDetConfig,
    EfficientNetLiteConfig,
    FasterRCNNConfig,
    FCOSConfig,
    ModelConfig,
    RepPointsConfig,
    ResNetConfig,
    RetinaNetConfig,
    SwinConfig,
)
from dyhead_jax.weights import names
from dyhead_jax.weights.state_dict import Table


class LayoutError(ValueError):
    """Names that fit no table, or a model for which a layout has no names."""


WHOLE = ("mmdet", "official")

# layout -> (two names that a file of it has, its table); the first that fits counts
BACKBONES: dict[str, tuple[tuple[str, str], Table]] = {
    "resnet": (("conv1.weight", "layer1.0.conv1.weight"), names.resnet),  # torchvision, timm, mmdetection
    "resnet-detectron2": (("stem.conv1.weight", "res2.0.conv1.weight"), names.resnet_detectron2),
    "resnet-caffe2": (("conv1_w", "res2_0_branch2a_w"), names.resnet_caffe2),
    "swin-mmdet": (("patch_embed.projection.weight", "stages.0.blocks.0.norm1.weight"), names.swin_mmdet),
    "swin-official": (("patch_embed.proj.weight", "layers.0.downsample.norm.weight"), names.swin_official),
    "swin-timm": (("patch_embed.proj.weight", "layers.1.downsample.norm.weight"), names.swin_timm),
    "swin-torchvision": (("features.0.0.weight", "features.1.0.attn.qkv.weight"), names.swin_torchvision),
    "efficientnet-lite": (("_conv_stem.weight", "_blocks.0._depthwise_conv.weight"), names.efficientnet_lite),
}
ALL = (*WHOLE, *BACKBONES)

# names that only a whole detector has
MARKS = (
    ("mmdet", re.compile(r"(bbox_head|rpn_head|neck)\.")),
    ("official", re.compile(r"(backbone\.)*(dyhead_tower\.|fpn_lateral\d|proposal_generator)|head\.cls_")),
)

MMDET_IGNORED = (
    ("data_preprocessor.*", "mean and standard deviation of pixels, which config.model has"),
    ("ema_*", "the second set of weights of averaged training; the main names have those that mmdetection evaluates"),
    ("steps", "a counter of averaged training"),
)
OFFICIAL_IGNORED = (
    ("pixel_mean", "mean of pixels, which config.model has"),
    ("pixel_std", "standard deviation of pixels, which config.model has"),
    ("anchor_generator.*", "anchors, which are computed here"),
    ("shift_generator.*", "points, which are computed here"),
)


@dataclass(frozen=True)
class Backbone:
    """A backbone among the names of a file: its layout, the prefix of its names, and its table (without prefix)."""

    layout: str
    prefix: str
    table: Table


def detect(file_names: Iterable[str]) -> str:
    """The layout of the names in a file, that of a whole detector where there is more than a backbone.

    Raises LayoutError where no layout fits.
    """
    names_in_file = list(file_names)
    for layout, mark in MARKS:
        if any(mark.match(name) for name in names_in_file):
            return layout
    return find_backbone(names_in_file).layout


def find_backbone(file_names: Iterable[str], layout: str = "") -> Backbone:
    """The backbone among the names of a file, below whatever prefix.

    layout: one of BACKBONES, or "" for the first that fits. Raises LayoutError where there is none.
    """
    names_in_file = dict.fromkeys(file_names)
    for name, ((first, second), table) in BACKBONES.items():
        if layout not in ("", name):
            continue
        ends = [other for other in names_in_file if other == first or other.endswith(f".{first}")]
        for prefix in sorted((end.removesuffix(first) for end in ends), key=len):
            if prefix + second in names_in_file:
                return Backbone(name, prefix, table)
    wanted = f"the layout {layout!r}" if layout else f"no layout: {', '.join(ALL)}"
    raise LayoutError(f"names like {next(iter(names_in_file), 'none at all')!r} fit {wanted}")


def detector(model: ModelConfig, layout: str) -> Table:
    """The table of the whole detector that a config describes. layout: one of WHOLE.

    Raises LayoutError where the layout has no names for a part of it.
    """
    if layout not in WHOLE:
        raise LayoutError(f"the layout {layout!r} has names for a backbone only; {' and '.join(WHOLE)} for a detector")
    return _mmdet(model) if layout == "mmdet" else _official(model)


def _mmdet(model: ModelConfig) -> Table:
    table = _backbone(model, "mmdet").under("backbone.", "backbone")
    dyhead = model.dyhead
    table += names.fpn_mmdet(_maps(model) - model.neck.start).under("neck.0." if dyhead.num_blocks else "neck.", "neck")
    if dyhead.num_blocks:
        table += names.mmdet_dyhead(dyhead.num_blocks, dyhead.scan).under("neck.1.", "dyhead")
    head = model.head
    if isinstance(head, FasterRCNNConfig):
        table += names.faster_rcnn_mmdet(head.rpn_convs)
    else:
        heads = (
            (ATSSConfig, names.atss_mmdet),
            (RetinaNetConfig, names.retinanet_mmdet),
            (FCOSConfig, names.fcos_mmdet),
            (RepPointsConfig, names.reppoints_mmdet),
        )
        part = next((part for kind, part in heads if isinstance(head, kind)), None)
        table += _known(part, "mmdet", head).under("bbox_head.", "")
    return table + Table((), ignored=MMDET_IGNORED)


def _official(model: ModelConfig) -> Table:
    dyhead, head = model.dyhead, model.head
    pyramid = "backbone.backbone." if dyhead.num_blocks else "backbone."
    table = _backbone(model, "official").under(f"{pyramid}bottom_up.", "backbone")
    table += names.fpn_detectron2(model.neck.start).under(pyramid, "neck")
    if dyhead.num_blocks:
        table += names.official_dyhead(dyhead.num_blocks, dyhead.scan).under("backbone.dyhead_tower.", "dyhead")
    part = None
    if isinstance(head, FasterRCNNConfig):
        return table + names.faster_rcnn_detectron2(head.layers) + Table((), ignored=OFFICIAL_IGNORED)
    if isinstance(head, ATSSConfig) and head.towers == 0:
        part = names.atss_official
    elif isinstance(head, RetinaNetConfig):
        part = names.retinanet_detectron2(head.towers, head.octaves, len(head.ratios))
    elif isinstance(head, BorderDetConfig):
        part = names.borderdet_official(head.towers)
    return table + _known(part, "official", head).under("head.", "") + Table((), ignored=OFFICIAL_IGNORED)


def _backbone(model: ModelConfig, layout: str) -> Table:
    kinds = (
        (ResNetConfig, {"mmdet": names.resnet, "official": names.resnet_detectron2}),
        (SwinConfig, {"mmdet": names.swin_mmdet, "official": names.swin_official}),
        # neither project has it: these are the names of the pip package, so that such a model can be exported
        (EfficientNetLiteConfig, {"mmdet": names.efficientnet_lite, "official": names.efficientnet_lite}),
    )
    part = next((tables[layout] for kind, tables in kinds if isinstance(model.backbone, kind)), None)
    return _known(part, layout, model.backbone)


def _known(part: Table | None, layout: str, node: object) -> Table:
    if part is None:
        raise LayoutError(
            f"the layout {layout!r} has no names for a {type(node).__name__.removesuffix('Config')} like this"
        )
    return part


def _maps(model: ModelConfig) -> int:
    """The number of maps that the backbone gives."""
    return len(model.backbone.depths) if isinstance(model.backbone, SwinConfig) else 4
