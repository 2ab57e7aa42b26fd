"""Names of what lies between backbone and predictors: the feature pyramid and the DyHead tower."""

import dataclasses
from collections.abc import Mapping

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


# Names below that of a block.
_OFFICIAL = {
    "spatial": Table(
        tuple(
            rule
            for index, kind in enumerate(("high", "mid", "low"))
            for rule in (
                Rule(f"DyConv.{index}.conv.weight", f"{kind}_kernel", "conv"),
                Rule(f"DyConv.{index}.conv.bias", f"{kind}_bias", "same"),
                *norm(f"DyConv.{index}.bn", f"{kind}_norm"),
            )
        )
        + conv("offset", "offset", bias=True)
    ),
    "scale": Table(flat_conv("AttnConv.1", "gate")),
    "task": Table(linear("relu.fc.0", "squeeze") + linear("relu.fc.2", "expand")),
}

_MMDET = {  # its deformable convolutions have no bias
    "spatial": Table(
        tuple(
            rule
            for kind in ("high", "mid", "low")
            for rule in (
                Rule(f"spatial_conv_{kind}.conv.weight", f"{kind}_kernel", "conv"),
                *norm(f"spatial_conv_{kind}.norm", f"{kind}_norm"),
            )
        )
        + conv("spatial_conv_offset", "offset", bias=True)
    ),
    "scale": Table(flat_conv("scale_attn_module.1", "gate")),
    "task": Table(
        flat_conv("task_attn_module.conv1.conv", "squeeze") + flat_conv("task_attn_module.conv2.conv", "expand")
    ),
}


dyhead_attentions = {"official": _OFFICIAL, "mmdet": _MMDET}


def dyhead(layout: str, blocks: int, scan: bool = False, attentions: Mapping[str, Table] | None = None) -> Table:
    """The tower of a layout: names from "0." ("official", in its files below `...dyhead_tower.`) or
    "dyhead_blocks.0." ("mmdet") on.

    scan: for `DyHead(scan=True)`, whose parameters are stacked over blocks. attentions: the tables of the modules of a
    block by name, with names below that of a block; by default those of the shipped attentions.
    """
    tables = dyhead_attentions[layout] if attentions is None else attentions
    block = sum((table.under("", name) for name, table in tables.items()), Table(()))
    prefix = "" if layout == "official" else "dyhead_blocks."
    table = Table(())
    for i in range(blocks):
        one = block.under(f"{prefix}{i}.", "blocks" if scan else f"block_{i}")
        stacked = tuple(dataclasses.replace(rule, target=f"{rule.target}[{i}]") for rule in one.rules)
        table += dataclasses.replace(one, rules=stacked) if scan else one
    return table
