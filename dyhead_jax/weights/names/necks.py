"""Names of what lies between backbone and predictors: the feature pyramid and the DyHead tower."""

import dataclasses

from dyhead_jax.weights.names.pieces import conv, flat_conv, linear, norm
from dyhead_jax.weights.state_dict import Rule, Table


def fpn_mmdet(used: int) -> Table:
    """mmdetection's FPN of `used` backbone maps; its extra convolutions follow in the same list as the outputs."""
    return Table(
        conv("lateral_convs.{}.conv", "lateral_{}", bias=True)
        + tuple(r for i in range(used) for r in conv(f"fpn_convs.{i}.conv", f"output_{i}", bias=True))
        + tuple(r for i in range(4) for r in conv(f"fpn_convs.{used + i}.conv", f"extra_{i}", bias=True))
    )


def fpn_detectron2(start: int) -> Table:
    """detectron2's FPN (`fpn_lateral3`, `fpn_output3`, `top_block.p6`) from backbone map `start` on; 0 is C2."""
    return Table(
        tuple(
            rule
            for level in range(start + 2, 6)
            for rule in (
                *conv(f"fpn_lateral{level}", f"lateral_{level - start - 2}", bias=True),
                *conv(f"fpn_output{level}", f"output_{level - start - 2}", bias=True),
            )
        )
        + conv("top_block.p6", "extra_0", bias=True)
        + conv("top_block.p7", "extra_1", bias=True)
    )


def official_dyhead(blocks: int, scan: bool = False) -> Table:
    """The official DyHead's tower, names from "0.DyConv.0.conv.weight" on (in its files below `...dyhead_tower.`).

    scan: for `DyHead(scan=True)`, whose parameters are stacked over blocks.
    """
    rules: list[Rule] = []
    for i in range(blocks):
        for index, kind in enumerate(("high", "mid", "low")):
            rules += [
                Rule(f"{i}.DyConv.{index}.conv.weight", f"spatial/{kind}_kernel", "conv"),
                Rule(f"{i}.DyConv.{index}.conv.bias", f"spatial/{kind}_bias", "same"),
                *norm(f"{i}.DyConv.{index}.bn", f"spatial/{kind}_norm"),
            ]
        rules += conv(f"{i}.offset", "spatial/offset", bias=True)
        rules += flat_conv(f"{i}.AttnConv.1", "scale/gate")
        rules += linear(f"{i}.relu.fc.0", "task/squeeze") + linear(f"{i}.relu.fc.2", "task/expand")
    return Table(_in_blocks(rules, blocks, scan))


def mmdet_dyhead(blocks: int, scan: bool = False) -> Table:
    """mmdetection's DyHead, names from "dyhead_blocks.0.spatial_conv_high.conv.weight" on; its DCN has no bias."""
    rules: list[Rule] = []
    for i in range(blocks):
        for kind in ("high", "mid", "low"):
            rules.append(Rule(f"dyhead_blocks.{i}.spatial_conv_{kind}.conv.weight", f"spatial/{kind}_kernel", "conv"))
            rules += norm(f"dyhead_blocks.{i}.spatial_conv_{kind}.norm", f"spatial/{kind}_norm")
        rules += conv(f"dyhead_blocks.{i}.spatial_conv_offset", "spatial/offset", bias=True)
        rules += flat_conv(f"dyhead_blocks.{i}.scale_attn_module.1", "scale/gate")
        rules += flat_conv(f"dyhead_blocks.{i}.task_attn_module.conv1.conv", "task/squeeze")
        rules += flat_conv(f"dyhead_blocks.{i}.task_attn_module.conv2.conv", "task/expand")
    return Table(_in_blocks(rules, blocks, scan))


def _in_blocks(rules: list[Rule], blocks: int, scan: bool) -> tuple[Rule, ...]:
    each = len(rules) // max(blocks, 1)
    place = (lambda i, target: f"blocks/{target}[{i}]") if scan else (lambda i, target: f"block_{i}/{target}")
    return tuple(dataclasses.replace(rule, target=place(n // each, rule.target)) for n, rule in enumerate(rules))
