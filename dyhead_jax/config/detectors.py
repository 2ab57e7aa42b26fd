"""The detectors: choices for `config.model.head`."""

from dataclasses import dataclass
from typing import Any, ClassVar

from dyhead_jax.config.nodes import Parent


@dataclass(slots=True, kw_only=True)
class ATSSConfig:
    """ATSS: one anchor per cell, adaptive assignment; predicts class, box and centreness."""

    module: str = "dyhead_jax.detectors.atss:ATSS"
    towers: int = 0  # conv-GN-ReLU layers before the predictors; 4 in plain ATSS
    kernel: int = 1  # of the predictors: 1 (official) or 3 (mmdetection's simple config)
    anchor_scale: float = 8.0  # anchor side in strides
    center_offset: float = 0.5  # of the anchor centre inside its cell, in strides
    topk: int = 9  # candidates per level
    box_std: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    box_loss_weight: float = 2.0
    giou_eps: str = "added"  # "added": + 1e-7 (official), or "floor": max(., 1e-6) (mmdetection)
    delta_clamp: str = "upper"  # clamp of decoded log sizes: "upper" (official) or "both" sides (mmdetection)
    rank_by: str = "product"  # rank of candidates: class x centreness (official), or "class" score (mmdetection)
    clip_boxes: str = "after"  # to the image: "after" NMS (official) or "before" it (mmdetection)
    train_in_padding: bool = True  # whether anchors beyond the image's own padding train: official yes, mmdetection no
    empty_counts_one: bool = False  # an image without positives adds 1 to the normaliser (mmdetection)
    centerness_floor: float = 0.0  # minimum divisor of the box loss: none (official) or 1 (mmdetection)
    divisor_eps: float = 0.0  # added to the losses' divisors: none (official) or 2^-23 (mmdetection)
    score_threshold: float = 0.05
    nms_threshold: float = 0.6
    nms_candidates: int = 1000  # kept per level before NMS
    max_detections: int = 100  # per image


@dataclass(slots=True, kw_only=True)
class RetinaNetConfig:
    """RetinaNet: nine anchors per cell, assignment by IoU; predicts class and box."""

    module: str = "dyhead_jax.detectors.retinanet:RetinaNet"
    towers: int = 4  # layers before the predictors, also after DyHead; 0: DyHead in their place
    norm_groups: int = 0  # of the towers; 0: no norm, as in the references
    kernel: int = 3  # of the predictors
    anchor_base: float = 4.0  # side of the smallest anchor, in strides
    octaves: int = 3  # anchor scales per level
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    center_offset: float = 0.0  # of the anchor centre inside its cell, in strides
    positive_iou: float = 0.5  # an anchor with at least this IoU is positive
    negative_iou: float = 0.4  # below this it is negative; in between it does not train
    min_positive_iou: float = 0.0  # minimum IoU at which the best anchors of a box are positive
    box_std: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    box_loss_weight: float = 1.0
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    nms_candidates: int = 1000  # kept per level before NMS
    max_detections: int = 100  # per image


@dataclass(slots=True, kw_only=True)
class FCOSConfig:
    """FCOS: one point per cell, distances to the four sides; the defaults are the plain version."""

    module: str = "dyhead_jax.detectors.fcos:FCOS"
    towers: int = 4  # conv-GN-ReLU layers before the predictors; 0: DyHead in their place
    tower_bias: bool = False  # of the towers' convolutions, in addition to their norm
    norm_groups: int = 32  # of the towers; 0: no norm
    kernel: int = 3  # of the predictors
    distance: str = "exp"  # activation: "exp", in pixels, or "relu" (normalised boxes), in strides
    centerness_on: str = "class"  # tower that predicts centreness: "class" or "box"
    center_radius: float = 0.0  # radius of the positive area around a box centre, in strides (1.5); 0: the whole box
    level_limits: tuple[float, ...] = (64.0, 128.0, 256.0, 512.0)  # borders between the ranges of the levels, in pixels
    box_loss: str = "iou"  # "iou" (-log IoU) or "giou"
    box_loss_weight: float = 1.0
    score_threshold: float = 0.05
    nms_threshold: float = 0.5  # 0.6 with centre sampling and normalised boxes
    nms_candidates: int = 1000  # kept per level before NMS
    max_detections: int = 100  # per image


@dataclass(slots=True, kw_only=True)
class RepPointsConfig:
    """RepPoints: nine points per cell, predicted in two stages; boxes from their moments."""

    module: str = "dyhead_jax.detectors.reppoints:RepPoints"
    towers: int = 3  # conv-GN-ReLU layers; 0: DyHead in their place
    norm_groups: int = 32  # of the towers; 0: no norm
    point_scale: float = 4.0  # side of the boxes assigned to a level, in strides; also the unit of the point losses
    grid_start: float = 0.0  # initial spacing of the first stage's points, in strides; 0: all on the cell's point
    positive_number: int = 1  # number of nearest points that are positive for a box in the first stage
    positive_iou: float = 0.5  # second stage: a first-stage box with at least this IoU is positive
    negative_iou: float = 0.4  # below this it is negative; in between it does not train
    min_positive_iou: float = 0.0  # minimum IoU at which the best points of a box are positive
    offset_gradient: float = 0.1  # factor on the second stage's gradient to the first stage's points
    moment_gradient: float = 0.01  # factor on the gradient to the learned ratio of box size to deviation
    smooth_beta: float = 0.11  # transition of smooth L1 from quadratic to linear
    first_loss_weight: float = 0.5
    second_loss_weight: float = 1.0
    implementation: str = "auto"  # of deform_conv
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    nms_candidates: int = 1000  # kept per level before NMS
    max_detections: int = 100  # per image


@dataclass(slots=True, kw_only=True)
class FasterRCNNConfig(Parent):
    """Faster R-CNN: region proposals, RoIAlign, two fully connected layers."""

    NODES: ClassVar = {"task": ("features", "dtype", "axis_name")}

    module: str = "dyhead_jax.detectors.faster_rcnn:FasterRCNN"
    anchor_scale: float = 8.0  # anchor side in strides
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    center_offset: float = 0.0  # of the anchor centre inside its cell, in strides
    rpn_convs: int = 1  # 3x3 convolutions before the proposal predictors
    rpn_features: int = 256
    rpn_box_std: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    rpn_positive: float = 0.7  # minimum IoU of a positive anchor
    rpn_negative: float = 0.3  # IoU below which an anchor is negative
    rpn_min_positive: float = 0.3  # minimum IoU at which a box's best anchor is positive anyway
    rpn_samples: int = 256  # training anchors per image
    rpn_positive_fraction: float = 0.5  # of rpn_samples, at most
    rpn_nms_threshold: float = 0.7
    proposals_before: tuple[int, int] = (2000, 1000)  # kept per level before NMS, in training and inference
    proposals: tuple[int, int] = (1000, 1000)  # kept per image after NMS, in training and inference
    roi_levels: int = 4  # number of levels, from the finest on, to pool from
    roi_size: int = 7  # bins per side
    roi_sampling_ratio: int = 0  # points per bin and axis; 0: depends on the box size
    finest_scale: float = 56.0  # boxes with sides below twice this, in pixels, are pooled from the finest level
    roi_positive: float = 0.5  # minimum IoU of a positive proposal; all others are negative
    roi_samples: int = 512  # training proposals and ground-truth boxes per image
    roi_positive_fraction: float = 0.25  # of roi_samples, at most
    layers: int = 2  # number of fully connected layers after pooling, or of `task` attentions in their place
    fc_features: int = 1024
    task: Any = "none"  # import path of an attention in place of the fully connected layers, as in the paper's figure
    box_std: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    delta_clamp: str = "upper"  # as in ATSSConfig
    train_in_padding: bool = True  # as in ATSSConfig
    empty_counts_one: bool = False  # as in ATSSConfig
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    nms_candidates: int = 5000  # (proposal, class) pairs kept per image before NMS
    max_detections: int = 100  # per image


@dataclass(slots=True, kw_only=True)
class BorderDetConfig:
    """BorderDet: FCOS with boxes refined by features along their borders."""

    module: str = "dyhead_jax.detectors.borderdet:BorderDet"
    towers: int = 4  # conv-GN-ReLU layers before the predictors; 0: DyHead in their place
    norm_groups: int = 32  # of the towers; 0: no norm
    kernel: int = 3  # of the coarse predictors
    center_offset: float = 0.0  # of a point inside its cell, in strides
    border_class_features: int = 256  # channels per side in the class branch
    border_box_features: int = 128  # channels per side in the box branch
    pool_size: int = 10  # intervals per side: it is sampled at one point more
    level_limits: tuple[float, ...] = (64.0, 128.0, 256.0, 512.0)  # borders between the ranges of the levels, in pixels
    center_radius: float = 1.5  # of the positive area around a box centre, in strides
    border_iou: float = 0.6  # minimum IoU with the truth at which a coarse box is refined
    border_std: float = 0.5  # unit of the refinements, in sides of the coarse box
    score_threshold: float = 0.05  # on the coarse score
    nms_threshold: float = 0.6
    nms_candidates: int = 1000  # kept per level before NMS
    max_detections: int = 100  # per image
