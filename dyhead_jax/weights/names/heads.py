"""Names of the detectors' own layers: towers, predictors, proposals."""

import dataclasses

from dyhead_jax.weights.names.pieces import conv, linear, norm
from dyhead_jax.weights.state_dict import Rule, Table

ANCHORS = "anchors, which are computed here"


def _subnets(towers: int, cls: str, box: str, step: int) -> list[Rule]:
    """Towers written as one `Sequential` of convolution, norm (where step is 3) and ReLU."""
    rules: list[Rule] = []
    for theirs, ours in ((cls, "class_tower"), (box, "box_tower")):
        for i in range(towers):
            rules += conv(f"{theirs}.{step * i}", f"{ours}/conv_{i}", bias=True)
            if step == 3:
                rules += norm(f"{theirs}.{step * i + 1}", f"{ours}/norm_{i}")
    return rules


atss_official = Table(
    (
        *conv("cls_logits", "class_predictor", bias=True),
        *conv("bbox_pred", "box_predictor", bias=True),
        *conv("centerness", "centerness_predictor", bias=True),
        Rule("scales.{}.scale", "scales[{}]", "scalar_1"),
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


def retinanet_detectron2(towers: int, octaves: int, ratios: int) -> Table:
    """Names of detectron2's RetinaNet, below `head.` in its files.

    Its anchors of a cell go by size, then ratio; ours, as mmdetection's, by ratio, then size.
    """
    order = tuple(size * ratios + ratio for ratio in range(ratios) for size in range(octaves))
    predictors = conv("cls_score", "class_predictor", bias=True) + conv("bbox_pred", "box_predictor", bias=True)
    ordered = (dataclasses.replace(rule, order=order) for rule in predictors)
    return Table((*_subnets(towers, "cls_subnet", "bbox_subnet", 2), *ordered))


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
        ignored=(("proposal_generator.anchor_generator.*", ANCHORS),),
    )


def borderdet_official(towers: int) -> Table:
    """The official BorderDet's head (cvpods names), `towers` layers deep; below `head.` in its files."""
    rules = _subnets(towers, "cls_subnet", "bbox_subnet", 3)
    for theirs, ours in (("cls", "class"), ("bbox", "box")):
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
    return Table((*rules, Rule("scales.{}.scale", "scales[{}]", "scalar_1")))
