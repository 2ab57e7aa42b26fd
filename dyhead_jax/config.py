"""The schema of an experiment: nested dataclasses whose fields are every option there is.

A config file is Python with `get_config() -> Config`. As the nodes are slotted dataclasses, a misspelt name dies in
the file, and `--config.a.b=v` (ml_collections.config_flags) fails on the command line. The nodes `model.backbone`,
`model.neck`, `model.dyhead`, `model.head` and `data.source` name a class in `module`; the other fields of such a
node are the keyword arguments of that class (see `symbols.build`). `validate` runs after the overrides.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dyhead_jax import symbols


class ConfigError(ValueError):
    """A value that no run can use; the message names the field."""


@dataclass(slots=True, kw_only=True)
class ResNetConfig:
    """ResNet and ResNeXt, with deformable convolutions in chosen stages."""

    module: str = "dyhead_jax.backbones.resnet:ResNet"
    depth: int = 50  # 18, 34, 50, 101 or 152
    style: str = "torch"  # where a bottleneck strides: "torch" in its 3x3, "caffe" in its first 1x1
    width: int = 64  # channels of the stem; the stages scale with it
    groups: int = 1  # ResNeXt cardinality, 64 in 64x4d
    group_width: int = 64  # ResNeXt base width, 4 in 64x4d; without effect at groups=1
    norm: str = "eval"  # "frozen" no training at all, "eval" fixed statistics, "sync" statistics of the global batch
    frozen_stages: int = 1  # -1 nothing, 0 the stem, k the stem and the first k stages
    deform: str = "none"  # "none", "v1" (offsets) or "v2" (offsets and mask)
    deform_stages: tuple[int, ...] = ()  # among 2, 3, 4, 5, for the maps C2 to C5


@dataclass(slots=True, kw_only=True)
class EfficientNetLiteConfig:
    """EfficientNet-Lite0, the small backbone that trains on a CPU."""

    module: str = "dyhead_jax.backbones.efficientnet_lite:EfficientNetLite"
    norm: str = "eval"  # as in ResNetConfig
    frozen_stages: int = 2  # -1 nothing, 0 the stem, k the stem and the first k of the seven stages


@dataclass(slots=True, kw_only=True)
class SwinConfig:
    """Swin Transformer; the defaults are Swin-T."""

    module: str = "dyhead_jax.backbones.swin:Swin"
    features: int = 96  # channels of the first stage
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    drop_path: float = 0.2  # of the last block; earlier ones linearly less
    absolute_position: bool = False  # a learned table added after the patch embedding
    position_size: int = 56  # side of that table in patches, 1/4 of the pretraining image's
    frozen_stages: int = -1  # -1 nothing, 0 the patch embedding, k also the first k stages
    remat: bool = False  # recompute each block in the backward pass


@dataclass(slots=True, kw_only=True)
class FPNConfig:
    """Feature pyramid: 1x1 laterals, nearest upsampling, 3x3 outputs, extra coarse levels."""

    module: str = "dyhead_jax.necks.fpn:FPN"
    features: int = 256
    start: int = 1  # first backbone map used: 0 is C2 (stride 4), 1 is C3 (stride 8)
    levels: int = 5  # of the pyramid, extra ones included
    extra: str = "p5"  # what the extra levels come from: "p5", "c5" (stride-2 convs) or "pool" (max pool of the last)
    relu_before_extra: bool = False  # ReLU on P6 before the conv to P7


@dataclass(slots=True, kw_only=True)
class DyHeadConfig:
    """The stack of blocks between neck and predictors."""

    module: str = "dyhead_jax.dyhead.head:DyHead"
    num_blocks: int = 6  # 0 for a detector without DyHead
    features: int = 256
    block: str = "dyhead_jax.dyhead.head:DyHeadBlock"
    spatial: str = "dyhead_jax.dyhead.spatial:SpatialAttention"  # "none": plain 3x3 convolutions
    scale: str = "dyhead_jax.dyhead.scale:ScaleAttention"  # "none": plain mean
    task: str = "dyhead_jax.dyhead.task:TaskAttention"  # "none": ReLU
    coarse_offsets: str = "flat"  # "flat" (as every published AP), "crop", "resize", "upsample_first"
    norm_groups: int = 16
    dcn_bias: bool = True  # bias of the deformable convolutions: official yes, mmdetection no
    lineage: str = "official"  # initial weights: "official", "mmdet" or "mmdet_simple" (zero offset convolution)
    implementation: str = "auto"  # of deform_conv
    remat: bool = False  # recompute each block in the backward pass
    scan: bool = False  # one compiled block, scanned; needs neck features == dyhead features


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
class FasterRCNNConfig:
    """Faster R-CNN: region proposals, RoIAlign, two fully connected layers."""

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
    task: str = "none"  # import path of the attention in place of the fully connected layers, as the paper draws it
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


@dataclass(slots=True, kw_only=True)
class ModelConfig:
    num_classes: int = 80
    dtype: str = "float32"  # or "bfloat16"; coordinates, norms, pooled statistics and losses stay float32
    pixel_mean: tuple[float, ...] = (123.675, 116.28, 103.53)  # in the order of RGB, whatever `bgr` says
    pixel_std: tuple[float, ...] = (58.395, 57.12, 57.375)
    bgr: bool = False  # the backbone wants blue first (caffe weights)
    pad_divisor: int = 32  # an image's own padding; anchors beyond it do not train (mmdetection's rule)
    pretrained: str = ""  # of the backbone: a PyTorch file of a ResNet, or "efficientnet-lite0" (extra lite0)
    backbone: Any = field(default_factory=ResNetConfig)
    neck: Any = field(default_factory=FPNConfig)
    dyhead: DyHeadConfig = field(default_factory=DyHeadConfig)
    head: Any = field(default_factory=ATSSConfig)


@dataclass(slots=True, kw_only=True)
class ShapesConfig:
    """Drawn shapes: needs no files; made into an array_record data set on first use."""

    module: str = "dyhead_jax.data.shapes:Shapes"
    root: str = ""  # where the data set is kept; "" is <workdir>/data
    train_images: int = 2000
    val_images: int = 200
    size: int = 160  # pixels of a square picture
    seed: int = 0


@dataclass(slots=True, kw_only=True)
class CocoFolderConfig:
    """Any folder with COCO-JSON annotations."""

    module: str = "dyhead_jax.data.coco_folder:CocoFolder"
    root: str = ""  # the folder; the four paths below are relative to it
    train_annotations: str = "annotations/instances_train.json"
    train_images: str = "train"
    val_annotations: str = "annotations/instances_val.json"
    val_images: str = "val"
    limit: int = 0  # only the first so many images of each split; 0 is all
    prepared: bool = False  # pack the images into array_record under <workdir>/data first; for slow network disks


@dataclass(slots=True, kw_only=True)
class DataConfig:
    source: Any = field(default_factory=CocoFolderConfig)
    root: str = ""  # shorthand: when set, it replaces source.root
    canvases: tuple[tuple[int, int], ...] = ((800, 1344), (1344, 800))  # (height, width) buckets
    short_side: tuple[int, ...] = (800,)  # one value, or a (low, high) range drawn in training
    short_side_choice: bool = False  # draw among the values of short_side instead of the range
    long_side: int = 1333
    scale_jitter: tuple[float, float] = (1.0, 1.0)  # further zoom in training; above 1 crops, below 1 pads
    color_jitter: float = 0.0  # strength of brightness, contrast, saturation changes
    flip: float = 0.5  # probability of a horizontal flip in training
    batch_size: int = 16  # images a step, all devices and hosts together
    eval_batch_size: int = 8
    max_boxes: int = 100
    min_box_side: float = 1.0  # pixels after the transforms; smaller boxes are left out of training, and counted
    workers: int = 0  # loader processes; 0 loads in threads of the main one
    skip_empty: bool = True  # leave images without boxes out of training, and say how many


@dataclass(slots=True, kw_only=True)
class OptimConfig:
    name: str = "sgd"  # "sgd" or "adamw"
    learning_rate: float = 0.01
    backbone_rate: float = 1.0  # multiplies the learning rate of the backbone
    bias_rate: float = 1.0  # multiplies the learning rate of biases, but not of norms' (FCOS: 2)
    momentum: float = 0.9  # SGD
    weight_decay: float = 1e-4
    decay_norms: bool = True  # decay also norm scales and biases, as both references do with SGD
    decay_biases: bool = True
    schedule: str = "step"  # "step", "cosine" or "constant"
    milestones: tuple[float, ...] = (8 / 12, 11 / 12)  # of "step", fractions of all steps; x0.1 at each
    warmup_steps: int = 500
    warmup_start: float = 0.001  # fraction of the learning rate at step 0
    clip_norm: float = 0.0  # of the global gradient; 0 is off
    ema: float = 0.0  # decay of the averaged weights that evaluation uses; 0 is off
    accumulate: int = 1  # micro-batches a step


@dataclass(slots=True, kw_only=True)
class RunConfig:
    steps: int = 90_000
    eval_every: int = 7_500  # steps; 0 evaluates at the end only
    checkpoint_every: int = 2_500
    max_to_keep: int = 3  # checkpoints besides the best
    log_every: int = 50
    parallel: str = "pmap"  # "pmap", "jit" (over a mesh) or "single"
    tensorboard: bool = False  # needs the extra `tensorboard`
    figure_images: int = 9  # held-out images drawn after each evaluation
    compilation_cache: str = ""  # folder; "" is <workdir>/.cache, "off" is none
    debug_nans: bool = False


@dataclass(slots=True, kw_only=True)
class Config:
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)


def validate(config: Config) -> None:
    """Checks what types cannot; raises ConfigError with the field's name and what it may be."""
    model, data, optim, run = config.model, config.data, config.optim, config.run
    choices = [
        ("model.dtype", model.dtype, ("float32", "bfloat16")),
        ("model.dyhead.coarse_offsets", model.dyhead.coarse_offsets, ("flat", "crop", "resize", "upsample_first")),
        ("model.dyhead.lineage", model.dyhead.lineage, ("official", "mmdet", "mmdet_simple")),
        ("optim.name", optim.name, ("sgd", "adamw")),
        ("optim.schedule", optim.schedule, ("step", "cosine", "constant")),
        ("run.parallel", run.parallel, ("pmap", "jit", "single")),
    ]
    if isinstance(model.backbone, ResNetConfig):
        choices += [
            ("model.backbone.depth", model.backbone.depth, (18, 34, 50, 101, 152)),
            ("model.backbone.style", model.backbone.style, ("torch", "caffe")),
            ("model.backbone.norm", model.backbone.norm, ("frozen", "eval", "sync")),
            ("model.backbone.deform", model.backbone.deform, ("none", "v1", "v2")),
        ]
    if isinstance(model.head, ATSSConfig):
        choices += [
            ("model.head.giou_eps", model.head.giou_eps, ("added", "floor")),
            ("model.head.delta_clamp", model.head.delta_clamp, ("upper", "both")),
            ("model.head.rank_by", model.head.rank_by, ("product", "class")),
            ("model.head.clip_boxes", model.head.clip_boxes, ("after", "before")),
        ]
    if isinstance(model.head, FCOSConfig):
        choices += [
            ("model.head.distance", model.head.distance, ("exp", "relu")),
            ("model.head.centerness_on", model.head.centerness_on, ("class", "box")),
            ("model.head.box_loss", model.head.box_loss, ("iou", "giou")),
        ]
        if isinstance(model.neck, FPNConfig) and len(model.head.level_limits) != model.neck.levels - 1:
            raise ConfigError(
                f"config.model.head.level_limits has {len(model.head.level_limits)} values;"
                f" config.model.neck.levels {model.neck.levels} needs {model.neck.levels - 1}"
            )
    if isinstance(model.head, FasterRCNNConfig):
        choices.append(("model.head.delta_clamp", model.head.delta_clamp, ("upper", "both")))
    if isinstance(model.neck, FPNConfig):
        choices.append(("model.neck.extra", model.neck.extra, ("p5", "c5", "pool")))
    for name, value, allowed in choices:
        if value not in allowed:
            raise ConfigError(f"config.{name} is {value!r}; it may be {', '.join(map(repr, allowed))}")
    positive = [
        ("model.num_classes", model.num_classes),
        ("data.batch_size", data.batch_size),
        ("data.eval_batch_size", data.eval_batch_size),
        ("data.max_boxes", data.max_boxes),
        ("data.long_side", data.long_side),
        ("optim.learning_rate", optim.learning_rate),
        ("optim.accumulate", optim.accumulate),
        ("run.steps", run.steps),
        ("run.log_every", run.log_every),
        ("run.checkpoint_every", run.checkpoint_every),
        ("run.max_to_keep", run.max_to_keep),
    ]
    for name, value in positive:
        if not value > 0:
            raise ConfigError(f"config.{name} is {value!r}; it must be above 0")
    if not data.canvases:
        raise ConfigError("config.data.canvases is empty; give at least one (height, width)")
    for canvas in data.canvases:
        if len(canvas) != 2 or min(canvas) <= 0:
            raise ConfigError(f"config.data.canvases has {canvas!r}; a canvas is (height, width)")
    low, high = data.scale_jitter
    if not 0 < low <= high:
        raise ConfigError(f"config.data.scale_jitter is {data.scale_jitter!r}; it must be 0 < low <= high")
    if not 0 <= optim.ema < 1:
        raise ConfigError(f"config.optim.ema is {optim.ema!r}; it must be at least 0 and below 1")
    if data.batch_size % optim.accumulate:
        raise ConfigError(
            f"config.data.batch_size {data.batch_size} is not a multiple of config.optim.accumulate {optim.accumulate}"
        )
    for name in ("block", "spatial", "scale", "task"):
        path = getattr(model.dyhead, name)
        if path != "none":
            _load(f"model.dyhead.{name}", path)
    if isinstance(model.head, FasterRCNNConfig) and model.head.task != "none":
        _load("model.head.task", model.head.task)
    for name, node in (("backbone", model.backbone), ("neck", model.neck), ("head", model.head)):
        _load(f"model.{name}.module", node.module)
    _load("data.source.module", data.source.module)


def _load(name: str, path: str) -> None:
    try:
        symbols.load(path)
    except symbols.SymbolError as error:
        raise ConfigError(f"config.{name}: {error}") from error


def to_json(config: Config) -> str:
    """The config as JSON; each node says its class, so that `from_json` gives back an equal config."""
    return json.dumps(_encode(config), indent=2)


def from_json(text: str, where: str = "config.json") -> Config:
    """The config that `to_json` wrote. Raises ConfigError for other JSON, unknown fields and unknown classes."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where} is not JSON: {error}") from error
    config = _decode(tree, where)
    if not isinstance(config, Config):
        raise ConfigError(f"{where} does not hold a config")
    return config


def load_file(path: str | Path) -> Config:
    """Reads a `config.json` of a workdir. Raises ConfigError when it is missing or broken."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; is its folder the workdir of a run?")
    return from_json(path.read_text(), str(path))


def _encode(node: Any) -> Any:
    if not dataclasses.is_dataclass(node):
        return node
    fields = {f.name: _encode(getattr(node, f.name)) for f in dataclasses.fields(node)}
    return {"class": f"{type(node).__module__}:{type(node).__name__}", **fields}


def _decode(tree: Any, where: str) -> Any:
    if isinstance(tree, list):
        return tuple(_decode(v, where) for v in tree)
    if not isinstance(tree, dict):
        return tree
    cls = symbols.load(str(tree.get("class")))
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConfigError(f"{where}: {tree.get('class')!r} is not a config class")
    names = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(tree) - names - {"class"})
    if unknown:
        raise ConfigError(f"{where}: {cls.__name__} has no field {', '.join(unknown)}")
    return cls(**{k: _decode(v, where) for k, v in tree.items() if k != "class"})
