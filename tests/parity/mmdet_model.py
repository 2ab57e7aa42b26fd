"""A golden case's mmdetection config as our ModelConfig, its weights as our variables, its boxes as our GroundTruth."""

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.config import (
    ATSSConfig,
    DyHeadConfig,
    FasterRCNNConfig,
    FCOSConfig,
    FPNConfig,
    ModelConfig,
    RepPointsConfig,
    ResNetConfig,
    RetinaNetConfig,
    SwinConfig,
)
from dyhead_jax.detectors import build
from dyhead_jax.types import GroundTruth
from dyhead_jax.weights import names
from dyhead_jax.weights.names import Table
from tests.parity.goldens import Case, nhwc


def resnet(c: dict) -> ResNetConfig:
    trained = c["norm_cfg"].get("requires_grad", True)
    dcn = c.get("dcn")
    if dcn and (dcn.get("deform_groups", 1) != 1 or dcn.get("fallback_on_stride", False)):
        raise ValueError(f"{c['type']} dcn {dcn}: ours has one deformable group and no fallback on strides")
    if c.get("num_stages", 4) != 4 or tuple(c.get("out_indices", range(4))) != (0, 1, 2, 3):
        raise ValueError(f"{c['type']}: ours has four stages and gives the maps of all")
    stages = [i + 2 for i, on in enumerate(c.get("stage_with_dcn", (False,) * 4)) if on] if dcn else []
    return ResNetConfig(
        depth=c["depth"],
        style=c.get("style", "pytorch").replace("pytorch", "torch"),
        width=c.get("base_channels", 64),
        groups=c.get("groups", 1),
        group_width=c.get("base_width", 64),
        norm="eval" if trained else "frozen",
        frozen_stages=c.get("frozen_stages", -1),
        deform={None: "none", "DCN": "v1", "DCNv2": "v2"}[dcn and dcn["type"]],
        deform_stages=tuple(stages),
    )


def swin(c: dict) -> SwinConfig:
    return SwinConfig(
        features=c["embed_dims"],
        depths=tuple(c["depths"]),
        heads=tuple(c["num_heads"]),
        window=c.get("window_size", 7),
        drop_path=c.get("drop_path_rate", 0.1),
    )


def fpn(c: dict) -> FPNConfig:
    extra = {"on_output": "p5", "on_input": "c5", False: "pool"}[c.get("add_extra_convs", False)]
    return FPNConfig(
        features=c["out_channels"],
        start=c.get("start_level", 0) + 4 - len(c["in_channels"]),  # a Swin may leave out its finest maps
        levels=c["num_outs"],
        extra=extra,
        relu_before_extra=c.get("relu_before_extra_convs", False),
    )


def dyhead(c: dict | None, features: int) -> DyHeadConfig:
    if c is None:
        return DyHeadConfig(num_blocks=0, features=features)
    lineage = "mmdet_simple" if c.get("zero_init_offset", True) else "mmdet"
    return DyHeadConfig(num_blocks=c["num_blocks"], features=c["out_channels"], dcn_bias=False, lineage=lineage)


def atss_head(c: dict) -> ATSSConfig:
    head, test = c["bbox_head"], c["test_cfg"]
    return ATSSConfig(
        towers=head.get("stacked_convs", 4),
        kernel=head.get("pred_kernel_size", 3),
        anchor_scale=head["anchor_generator"]["octave_base_scale"],
        center_offset=head["anchor_generator"].get("center_offset", 0.0),
        topk=c["train_cfg"]["assigner"]["topk"],
        box_std=tuple(head["bbox_coder"]["target_stds"]),
        box_loss_weight=head["loss_bbox"]["loss_weight"],
        giou_eps="floor",
        delta_clamp="both",
        rank_by="class",
        clip_boxes="before",
        train_in_padding=False,
        empty_counts_one=True,
        centerness_floor=1.0,
        divisor_eps=2**-23,
        score_threshold=test["score_thr"],
        nms_threshold=test["nms"]["iou_threshold"],
        nms_candidates=test["nms_pre"],
        max_detections=test["max_per_img"],
    )


def detection_settings(c: dict) -> dict:
    return {
        "score_threshold": c["test_cfg"]["score_thr"],
        "nms_threshold": c["test_cfg"]["nms"]["iou_threshold"],
        "nms_candidates": c["test_cfg"]["nms_pre"],
        "max_detections": c["test_cfg"]["max_per_img"],
    }


def retinanet_head(c: dict) -> RetinaNetConfig:
    head, assigner = c["bbox_head"], c["train_cfg"]["assigner"]
    anchors = head["anchor_generator"]
    return RetinaNetConfig(
        towers=head.get("stacked_convs", 4),
        anchor_base=anchors["octave_base_scale"],
        octaves=anchors["scales_per_octave"],
        ratios=tuple(anchors["ratios"]),
        center_offset=anchors.get("center_offset", 0.0),
        positive_iou=assigner["pos_iou_thr"],
        negative_iou=assigner["neg_iou_thr"],
        min_positive_iou=assigner.get("min_pos_iou", 0.0),
        box_std=tuple(head["bbox_coder"]["target_stds"]),
        box_loss_weight=head["loss_bbox"]["loss_weight"],
        **detection_settings(c),
    )


def fcos_head(c: dict) -> FCOSConfig:
    head = c["bbox_head"]
    ranges = head.get("regress_ranges", ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8)))
    return FCOSConfig(
        towers=head.get("stacked_convs", 4),
        tower_bias=head.get("conv_bias", "auto") is True,
        norm_groups=head.get("norm_cfg", {"num_groups": 32})["num_groups"],
        distance="relu" if head.get("norm_on_bbox", False) else "exp",
        centerness_on="box" if head.get("centerness_on_reg", False) else "class",
        center_radius=head.get("center_sample_radius", 1.5) if head.get("center_sampling", False) else 0.0,
        level_limits=tuple(float(high) for _, high in ranges[:-1]),
        box_loss={"IoULoss": "iou", "GIoULoss": "giou"}[head["loss_bbox"]["type"]],
        box_loss_weight=head["loss_bbox"]["loss_weight"],
        **detection_settings(c),
    )


def reppoints_head(c: dict) -> RepPointsConfig:
    head, first, second = c["bbox_head"], c["train_cfg"]["init"]["assigner"], c["train_cfg"]["refine"]["assigner"]
    assert head["transform_method"] == "moment"
    assert head["num_points"] == 9
    assert first["scale"] == head["point_base_scale"]
    assert head["loss_bbox_init"]["beta"] == head["loss_bbox_refine"]["beta"]
    norm = head.get("norm_cfg")
    return RepPointsConfig(
        towers=head.get("stacked_convs", 4),
        norm_groups=norm["num_groups"] if norm else 0,
        point_scale=head["point_base_scale"],
        positive_number=first["pos_num"],
        positive_iou=second["pos_iou_thr"],
        negative_iou=second["neg_iou_thr"],
        min_positive_iou=second["min_pos_iou"],
        offset_gradient=head.get("gradient_mul", 0.1),
        moment_gradient=head.get("moment_mul", 0.01),
        smooth_beta=head["loss_bbox_init"]["beta"],
        first_loss_weight=head["loss_bbox_init"]["loss_weight"],
        second_loss_weight=head["loss_bbox_refine"]["loss_weight"],
        **detection_settings(c),
    )


def faster_rcnn_head(c: dict) -> FasterRCNNConfig:
    rpn, roi, train, test = c["rpn_head"], c["roi_head"], c["train_cfg"], c["test_cfg"]
    box, extractor = roi["bbox_head"], roi["bbox_roi_extractor"]
    anchors, first, second = rpn["anchor_generator"], train["rpn"], train["rcnn"]
    return FasterRCNNConfig(
        anchor_scale=anchors["scales"][0],
        anchor_ratios=tuple(anchors["ratios"]),
        center_offset=anchors.get("center_offset", 0.0),
        rpn_convs=rpn.get("num_convs", 1),
        rpn_features=rpn["feat_channels"],
        rpn_box_std=tuple(rpn["bbox_coder"]["target_stds"]),
        rpn_positive=first["assigner"]["pos_iou_thr"],
        rpn_negative=first["assigner"]["neg_iou_thr"],
        rpn_min_positive=first["assigner"]["min_pos_iou"],
        rpn_samples=first["sampler"]["num"],
        rpn_positive_fraction=first["sampler"]["pos_fraction"],
        rpn_nms_threshold=test["rpn"]["nms"]["iou_threshold"],
        proposals_before=(train["rpn_proposal"]["nms_pre"], test["rpn"]["nms_pre"]),
        proposals=(train["rpn_proposal"]["max_per_img"], test["rpn"]["max_per_img"]),
        roi_levels=len(extractor["featmap_strides"]),
        roi_size=extractor["roi_layer"]["output_size"],
        roi_sampling_ratio=extractor["roi_layer"]["sampling_ratio"],
        finest_scale=extractor.get("finest_scale", 56),
        roi_positive=second["assigner"]["pos_iou_thr"],
        roi_samples=second["sampler"]["num"],
        roi_positive_fraction=second["sampler"]["pos_fraction"],
        fc_features=box["fc_out_channels"],
        box_std=tuple(box["bbox_coder"]["target_stds"]),
        delta_clamp="both",
        train_in_padding=False,
        empty_counts_one=True,
        score_threshold=test["rcnn"]["score_thr"],
        nms_threshold=test["rcnn"]["nms"]["iou_threshold"],
        max_detections=test["rcnn"]["max_per_img"],
    )


# detector type -> (our head config, the name table of the head)
HEADS = {
    "ATSS": (atss_head, lambda config: names.atss_mmdet.under("bbox_head.", "")),
    "RetinaNet": (retinanet_head, lambda config: names.retinanet_mmdet.under("bbox_head.", "")),
    "FCOS": (fcos_head, lambda config: names.fcos_mmdet.under("bbox_head.", "")),
    "RepPointsDetector": (reppoints_head, lambda config: names.reppoints_mmdet.under("bbox_head.", "")),
    "FasterRCNN": (faster_rcnn_head, lambda config: names.faster_rcnn_mmdet(config["rpn_head"].get("num_convs", 1))),
}


def model_config(c: dict) -> ModelConfig:
    """mmdetection's model dict to ours."""
    necks = c["neck"] if isinstance(c["neck"], list) else [c["neck"]]
    pyramid = fpn(necks[0])
    blocks = dyhead(necks[1] if len(necks) > 1 else None, pyramid.features)
    pre = c["data_preprocessor"]
    head = c.get("bbox_head") or c["roi_head"]["bbox_head"]
    return ModelConfig(
        num_classes=head["num_classes"],
        pixel_mean=tuple(pre["mean"]),
        pixel_std=tuple(pre["std"]),
        pad_divisor=pre["pad_size_divisor"],
        backbone=swin(c["backbone"]) if c["backbone"]["type"] == "SwinTransformer" else resnet(c["backbone"]),
        neck=pyramid,
        dyhead=blocks,
        head=HEADS[c["type"]][0](c),
    )


def name_table(c: dict) -> Table:
    backbone = names.swin_mmdet if c["backbone"]["type"] == "SwinTransformer" else names.resnet
    necks = c["neck"] if isinstance(c["neck"], list) else [c["neck"]]
    used = len(necks[0]["in_channels"]) - necks[0].get("start_level", 0)
    listed = isinstance(c["neck"], list)
    table = backbone.under("backbone.", "backbone")
    table += names.fpn_mmdet(used).under("neck.0." if listed else "neck.", "neck")
    if len(necks) > 1:
        table += names.dyhead("mmdet", necks[1]["num_blocks"]).under("neck.1.", "dyhead")
    return table + HEADS[c["type"]][1](c)


def load(case: Case, c: dict, weights: dict[str, np.ndarray], dtype: str = "float32", axis_name: str | None = None):
    """The model and its variables, every parameter of both sides accounted for."""
    config = model_config(c)
    model = build(config, axis_name=axis_name).clone(dtype=jnp.dtype(dtype))
    if dtype != "float32":
        parts = {n: getattr(model, n).clone(dtype=jnp.dtype(dtype)) for n in ("backbone", "neck", "dyhead")}
        model = model.clone(**parts)
    images = jax.ShapeDtypeStruct((1, *case.shape("in/img")[2:], 3), jnp.float32)
    sizes = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    shapes = jax.eval_shape(lambda k, i, s: model.init(k, i, s, method="detect"), jax.random.key(0), images, sizes)
    start = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)  # stays where the case has nothing
    variables = names.load(name_table(c), weights, start)
    return model, jax.tree.map(lambda v: jnp.asarray(v, dtype), variables)


def ground_truth(case: Case, dtype: str = "float32", spare: int = 3) -> GroundTruth:
    """gt/<i>.bboxes and gt/<i>.labels, and `spare` rows of padding or more; sizes from in/img_shape where there are."""
    count = case.shape("in/img")[0]
    padded = max(len(case[f"gt/{i}.bboxes"]) for i in range(count)) + spare
    boxes, labels = np.zeros((count, padded, 4)), np.zeros((count, padded), np.int32)
    mask = np.zeros((count, padded), bool)
    for i in range(count):
        n = len(case[f"gt/{i}.bboxes"])
        boxes[i, :n], labels[i, :n], mask[i, :n] = case[f"gt/{i}.bboxes"], case[f"gt/{i}.labels"], True
    sizes = jnp.asarray(case["in/img_shape"], jnp.int32) if "in/img_shape" in case else None
    return GroundTruth(
        boxes=jnp.asarray(boxes, dtype),
        labels=jnp.asarray(labels),
        mask=jnp.asarray(mask),
        crowd=jnp.zeros_like(mask),
        sizes=sizes,
    )


def images(case: Case, dtype: str = "float32"):
    return jnp.asarray(nhwc(case["in/img"]), dtype)
