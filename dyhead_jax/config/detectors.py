"""The detectors: what `config.model.head` may be."""

from dataclasses import dataclass
from typing import Any, ClassVar

from dyhead_jax.config.nodes import Parent


@dataclass(slots=True, kw_only=True)
class ATSSConfig:
    """ATSS: one anchor a cell, adaptive assignment, class, box and centreness."""

    module: str = "dyhead_jax.detectors.atss:ATSS"
    towers: int = 0  # conv-GN-ReLU layers before the predictors; 4 in plain ATSS
    kernel: int = 1  # of the predictors: official 1, mmdetection's simple config 3
    anchor_scale: float = 8.0  # anchor side in strides
    center_offset: float = 0.5  # of the anchor centre inside its cell, in strides
    topk: int = 9  # candidates a level
    box_std: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    box_loss_weight: float = 2.0
    giou_eps: str = "added"  # "added" + 1e-7 (official) or "floor" max(., 1e-6) (mmdetection)
    delta_clamp: str = "upper"  # clamp of decoded log sizes: "upper" (official) or "both" sides (mmdetection)
    rank_by: str = "product"  # candidates a level by class x centreness (official), or by "class" (mmdetection)
    clip_boxes: str = "after"  # NMS (official) or "before" it (mmdetection)
    train_in_padding: bool = True  # anchors beyond the image's own padding train (official) or not (mmdetection)
    empty_counts_one: bool = False  # an image without positives adds 1 to the normaliser (mmdetection)
    centerness_floor: float = 0.0  # least divisor of the box loss: none (official) or 1 (mmdetection)
    divisor_eps: float = 0.0  # added to the losses' divisors: none (official) or 2^-23 (mmdetection)
    score_threshold: float = 0.05
    nms_threshold: float = 0.6
    nms_candidates: int = 1000  # kept a level before NMS
    max_detections: int = 100


@dataclass(slots=True, kw_only=True)
class RetinaNetConfig:
    """RetinaNet: nine anchors a cell, assignment by IoU, class and box."""

    module: str = "dyhead_jax.detectors.retinanet:RetinaNet"
    towers: int = 4  # conv-ReLU layers before the predictors, kept behind DyHead too; 0 puts DyHead in their place
    kernel: int = 3  # of the predictors
    anchor_base: float = 4.0  # side of the smallest anchor in strides
    octaves: int = 3  # anchor scales between a level and the next
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    center_offset: float = 0.0  # of the anchor centre inside its cell, in strides
    positive_iou: float = 0.5  # an anchor with at least this IoU is positive
    negative_iou: float = 0.4  # below this, negative; between them it does not train
    min_positive_iou: float = 0.0  # least best IoU with which a box still takes its best anchors
    box_std: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    box_loss_weight: float = 1.0
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    nms_candidates: int = 1000  # kept a level before NMS
    max_detections: int = 100


@dataclass(slots=True, kw_only=True)
class FCOSConfig:
    """FCOS: one point a cell, distances to the four sides; the defaults are the plain one."""

    module: str = "dyhead_jax.detectors.fcos:FCOS"
    towers: int = 4  # conv-GN-ReLU layers before the predictors; 0 puts DyHead in their place
    tower_bias: bool = False  # of the towers' convolutions, beside their norm
    norm_groups: int = 32  # of the towers; 0 for no norm
    kernel: int = 3  # of the predictors
    distance: str = "exp"  # of the prediction, in pixels; or "relu" (normalised boxes), in strides
    centerness_on: str = "class"  # tower that predicts centreness, or "box"
    center_radius: float = 0.0  # strides around a box's centre that are positive (1.5), or 0: the whole box
    level_limits: tuple[float, ...] = (64.0, 128.0, 256.0, 512.0)  # pixels between the ranges of neighbouring levels
    box_loss: str = "iou"  # -log IoU, or "giou"
    box_loss_weight: float = 1.0
    score_threshold: float = 0.05
    nms_threshold: float = 0.5  # 0.6 with centre sampling and normalised boxes
    nms_candidates: int = 1000  # kept a level before NMS
    max_detections: int = 100


@dataclass(slots=True, kw_only=True)
class RepPointsConfig:
    """RepPoints: nine points a cell, moved twice; boxes by their moments."""

    module: str = "dyhead_jax.detectors.reppoints:RepPoints"
    towers: int = 3  # conv-GN-ReLU layers; 0 puts DyHead in their place
    norm_groups: int = 32  # of the towers; 0 for no norm
    point_scale: float = 4.0  # strides in the side of a box that a level answers for, and the unit of the point losses
    grid_start: float = 0.0  # strides between the points of the first stage when training starts; 0: all on the cell's
    positive_number: int = 1  # nearest points that answer for a box in the first stage
    positive_iou: float = 0.5  # of the first stage's boxes with the truth, for the second: at least this is positive
    negative_iou: float = 0.4  # below this, negative; between them it does not train
    min_positive_iou: float = 0.0  # least best IoU with which a box still takes its best points
    offset_gradient: float = 0.1  # share of the second stage's gradient that reaches the first stage's points
    moment_gradient: float = 0.01  # share of the gradient that reaches the learned size of a box in deviations
    smooth_beta: float = 0.11  # where smooth L1 turns linear
    first_loss_weight: float = 0.5
    second_loss_weight: float = 1.0
    implementation: str = "auto"  # of deform_conv
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    nms_candidates: int = 1000  # kept a level before NMS
    max_detections: int = 100


@dataclass(slots=True, kw_only=True)
class FasterRCNNConfig(Parent):
    """Faster R-CNN: region proposals, RoIAlign, two fully connected layers."""

    NODES: ClassVar = {"task": ("features", "dtype")}

    module: str = "dyhead_jax.detectors.faster_rcnn:FasterRCNN"
    anchor_scale: float = 8.0  # anchor side in strides
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height over width
    center_offset: float = 0.0  # of the anchor centre inside its cell, in strides
    rpn_convs: int = 1  # 3x3 convolutions before the proposal predictors
    rpn_features: int = 256
    rpn_box_std: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    rpn_positive: float = 0.7  # least IoU of a positive anchor
    rpn_negative: float = 0.3  # IoU below which an anchor is negative
    rpn_min_positive: float = 0.3  # least IoU of a box's best anchor, positive whatever rpn_positive says
    rpn_samples: int = 256  # anchors an image that train
    rpn_positive_fraction: float = 0.5  # of them, at most
    rpn_nms_threshold: float = 0.7
    proposals_before: tuple[int, int] = (2000, 1000)  # kept a level before NMS, in training and inference
    proposals: tuple[int, int] = (1000, 1000)  # kept an image after NMS, in training and inference
    roi_levels: int = 4  # finest pyramid levels that boxes are pooled from
    roi_size: int = 7  # bins each way
    roi_sampling_ratio: int = 0  # points a bin each way; 0 follows the box's size
    finest_scale: float = 56.0  # boxes of this side, in pixels, and up to twice of it read the finest level
    roi_positive: float = 0.5  # least IoU of a positive proposal; all others are negative
    roi_samples: int = 512  # proposals and ground-truth boxes an image that train
    roi_positive_fraction: float = 0.25  # of them, at most
    layers: int = 2  # fully connected ones after pooling, or attentions of `task` in their place
    fc_features: int = 1024
    task: Any = "none"  # import path of the attention in place of the fully connected layers, as the paper draws it
    box_std: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    delta_clamp: str = "upper"  # as in ATSSConfig
    train_in_padding: bool = True  # as in ATSSConfig
    empty_counts_one: bool = False  # as in ATSSConfig
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    nms_candidates: int = 5000  # (proposal, class) pairs kept an image before NMS
    max_detections: int = 100


@dataclass(slots=True, kw_only=True)
class BorderDetConfig:
    """BorderDet: FCOS whose boxes are corrected from features along their own borders."""

    module: str = "dyhead_jax.detectors.borderdet:BorderDet"
    towers: int = 4  # conv-GN-ReLU layers before the predictors; 0 with DyHead in their place
    norm_groups: int = 32  # of the towers; 0 for no norm
    kernel: int = 3  # of the coarse predictors
    center_offset: float = 0.0  # of a point inside its cell, in strides
    border_class_features: int = 256  # of a side's features in the class branch
    border_box_features: int = 128  # and in the box branch
    pool_size: int = 10  # a side is read at one point more
    level_limits: tuple[float, ...] = (64.0, 128.0, 256.0, 512.0)  # pixels between the ranges of neighbouring levels
    center_radius: float = 1.5  # of the centre box, in strides
    border_iou: float = 0.6  # least IoU with the truth of a coarse box that is corrected
    border_std: float = 0.5  # unit of the corrections, in sides of the coarse box
    score_threshold: float = 0.05  # of the coarse score
    nms_threshold: float = 0.6
    nms_candidates: int = 1000  # kept a level before NMS
    max_detections: int = 100
