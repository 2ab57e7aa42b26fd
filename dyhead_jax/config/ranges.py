"""The allowed values of every number in a config: one table, by class and field.

A field that is missing here fails a test, which also tries each edge. Texts are choices (`validation`) or free.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol


class Rule(Protocol):
    def allows(self, value: Any) -> bool: ...


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`, without the first where `above`, without the last where `below`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def allows(self, value: Any) -> bool:
        low, high = (value > self.low if self.above else value >= self.low), value <= self.high
        return math.isfinite(value) and low and (value < self.high if self.below else high)

    def __str__(self) -> str:
        low = f"above {self.low}" if self.above else f"at least {self.low}"
        if math.isinf(self.high):
            return "finite" if math.isinf(self.low) else low
        if self.above or self.below:
            return f"{low} and {'below' if self.below else 'at most'} {self.high}"
        return f"from {self.low} to {self.high}"


@dataclass(frozen=True)
class OneOf:
    values: tuple[int, ...]

    def allows(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}"


@dataclass(frozen=True)
class Each:
    """A row of values of one kind, of one of the lengths `counts`; None: of any, but at least `least`."""

    rule: "Rule"
    counts: tuple[int, ...] | None = None
    least: int = 0

    def allows(self, value: Any) -> bool:
        fits = len(value) >= self.least if self.counts is None else len(value) in self.counts
        return fits and all(self.rule.allows(item) for item in value)

    def __str__(self) -> str:
        if self.counts is not None:
            count = f"{' or '.join(map(str, self.counts))} values"
        else:
            count = f"{self.least} or more values"
        return f"{count}, each {self.rule}"


COUNT = Range(1)  # of things that there must be
NUMBER = Range(0)  # of things that there may be, or a size where 0 is off
# of layers that are made one by one: a stored config of anybody must not ask for a billion
LAYERS, SOME_LAYERS = Range(0, 100), Range(1, 100)
POSITIVE = Range(0, above=True)
FRACTION = Range(0, 1)
SEED = Range(0, 2**32 - 1)
PAIR = Each(COUNT, (2,))
TESTING = {"score_threshold": FRACTION, "nms_threshold": FRACTION, "nms_candidates": COUNT, "max_detections": COUNT}
KERNEL = OneOf((1, 3, 5, 7))
STD = Each(POSITIVE, (4,))
ATSS: dict[str, Rule] = {
    "towers": LAYERS,
    "kernel": KERNEL,
    "anchor_scale": POSITIVE,
    "center_offset": FRACTION,
    "topk": COUNT,
    "box_std": STD,
    **dict.fromkeys(("box_loss_weight", "centerness_floor", "divisor_eps"), NUMBER),
    **TESTING,
}

# of a node that has no class in `config`, the import path stands in place of the class's name
RANGES: dict[str, dict[str, Rule]] = {
    "Config": {"seed": SEED},
    "ModelConfig": {
        "num_classes": COUNT,
        "pixel_mean": Each(Range(), (3,)),
        "pixel_std": Each(POSITIVE, (3,)),
        "pad_divisor": COUNT,
    },
    "DataConfig": {
        "canvases": Each(PAIR, least=1),
        "short_side": Each(COUNT, least=1),
        "long_side": COUNT,
        "scale_jitter": Each(POSITIVE, (2,)),
        **dict.fromkeys(("color_jitter", "blur", "noise", "min_box_side", "workers"), NUMBER),
        **dict.fromkeys(("flip", "random_crop", "mosaic", "copy_boxes", "mixup", "repeat_factor"), FRACTION),
        **dict.fromkeys(("batch_size", "eval_batch_size", "max_boxes"), COUNT),
    },
    "ShapesConfig": {"train_images": COUNT, "val_images": COUNT, "size": Range(32), "seed": SEED},
    "PhotosConfig": {"val_fraction": FRACTION, "limit": NUMBER},
    "CocoFolderConfig": {"limit": NUMBER},
    "CocoRecordsConfig": {"limit": NUMBER},
    "OptimConfig": {
        "learning_rate": POSITIVE,
        "milestones": Each(FRACTION),
        **dict.fromkeys(("backbone_rate", "offset_rate", "bias_rate", "weight_decay", "clip_norm"), NUMBER),
        **dict.fromkeys(("base_batch_size", "warmup_steps"), NUMBER),
        **dict.fromkeys(("momentum", "warmup_start"), FRACTION),
        "ema": Range(0, 1, below=True),
        "accumulate": COUNT,
    },
    "RunConfig": {
        **dict.fromkeys(("steps", "checkpoint_every", "max_to_keep", "log_every", "shard_state"), COUNT),
        **dict.fromkeys(("eval_every", "figure_images"), NUMBER),
        "profile_steps": Each(COUNT, (0, 2)),
    },
    "EvaluationConfig": {
        "short_sides": Each(COUNT),
        "long_sides": Each(COUNT),
        "size_ranges": Each(Each(NUMBER, (2,))),
        "merge_threshold": Range(0, 1, above=True),
        "max_detections": COUNT,
    },
    "ResNetConfig": {
        "depth": OneOf((18, 34, 50, 101, 152)),
        **dict.fromkeys(("width", "groups", "group_width"), COUNT),
        "frozen_stages": Range(-1, 4),
        "deform_stages": Each(Range(2, 5)),
    },
    "EfficientNetLiteConfig": {"frozen_stages": Range(-1, 7)},
    "SwinConfig": {
        **dict.fromkeys(("features", "window", "position_size"), COUNT),
        "depths": Each(SOME_LAYERS, least=1),
        "heads": Each(COUNT, least=1),
        "drop_path": Range(0, 1, below=True),
        "frozen_stages": Range(-1),
    },
    "FPNConfig": {"features": COUNT, "start": LAYERS, "levels": SOME_LAYERS},
    "DyHeadConfig": {
        "num_blocks": LAYERS,
        "features": COUNT,
        "norm_groups": COUNT,
        "norm_scale": POSITIVE,
        "neighbour_scale": POSITIVE,
    },
    "dyhead_jax.dyhead.task:TaskAttention": {"reduction": COUNT},
    "dyhead_jax.variants.paper_block:PaperBlock": {"reduction": COUNT},
    "dyhead_jax.variants.dcn_v4:DCNv3": {"group_features": COUNT},
    "dyhead_jax.variants.dcn_v4:DCNv4": {"group_features": COUNT},
    "dyhead_jax.variants.ms_deform:MultiScaleDeformable": {"heads": COUNT, "points": COUNT},
    "dyhead_jax.variants.selective_kernel:SelectiveKernel": {"reduction": COUNT, "smallest": COUNT},
    "dyhead_jax.variants.branch_gates:BranchGates": {"reduction": COUNT},
    "dyhead_jax.variants.task_decomposition:TaskDecomposition": {"layers": SOME_LAYERS, "reduction": COUNT},
    "ATSSConfig": ATSS,
    "dyhead_jax.detectors.tood:TOOD": ATSS | {"norm_groups": COUNT, "layers": SOME_LAYERS, "reduction": COUNT},
    "RetinaNetConfig": {
        "towers": LAYERS,
        "norm_groups": NUMBER,
        "kernel": KERNEL,
        "anchor_base": POSITIVE,
        "octaves": SOME_LAYERS,
        "ratios": Each(POSITIVE, least=1),
        **dict.fromkeys(("center_offset", "positive_iou", "negative_iou", "min_positive_iou"), FRACTION),
        "box_std": STD,
        "box_loss_weight": NUMBER,
        **TESTING,
    },
    "FCOSConfig": {
        "towers": LAYERS,
        **dict.fromkeys(("norm_groups", "center_radius", "box_loss_weight"), NUMBER),
        "kernel": KERNEL,
        "level_limits": Each(POSITIVE),
        **TESTING,
    },
    "RepPointsConfig": {
        "towers": LAYERS,
        **dict.fromkeys(("norm_groups", "grid_start", "offset_gradient", "moment_gradient"), NUMBER),
        **dict.fromkeys(("point_scale", "smooth_beta"), POSITIVE),
        "positive_number": COUNT,
        **dict.fromkeys(("positive_iou", "negative_iou", "min_positive_iou"), FRACTION),
        **dict.fromkeys(("first_loss_weight", "second_loss_weight"), NUMBER),
        **TESTING,
    },
    "FasterRCNNConfig": {
        **dict.fromkeys(("anchor_scale", "finest_scale"), POSITIVE),
        "anchor_ratios": Each(POSITIVE, least=1),
        **dict.fromkeys(("center_offset", "rpn_positive", "rpn_negative", "rpn_min_positive"), FRACTION),
        **dict.fromkeys(("rpn_positive_fraction", "rpn_nms_threshold", "roi_positive"), FRACTION),
        "roi_positive_fraction": FRACTION,
        **dict.fromkeys(("rpn_convs", "roi_levels", "layers"), SOME_LAYERS),
        **dict.fromkeys(("rpn_features", "rpn_samples", "roi_samples", "roi_size", "fc_features"), COUNT),
        "roi_sampling_ratio": NUMBER,
        **dict.fromkeys(("proposals_before", "proposals"), PAIR),
        **dict.fromkeys(("box_std", "rpn_box_std"), STD),
        **TESTING,
    },
    "BorderDetConfig": {
        "towers": LAYERS,
        **dict.fromkeys(("norm_groups", "center_radius"), NUMBER),
        "kernel": KERNEL,
        **dict.fromkeys(("center_offset", "border_iou"), FRACTION),
        **dict.fromkeys(("border_class_features", "border_box_features", "pool_size"), COUNT),
        "level_limits": Each(POSITIVE),
        "border_std": POSITIVE,
        **TESTING,
    },
}


def rules_of(value: Any) -> dict[str, Rule]:
    """The rules for the fields of a config object, a node or not; {} for a class of another package."""
    for cls in type(value).__mro__:
        if cls.__name__ in RANGES and cls.__module__.startswith(f"{__package__}."):
            return RANGES[cls.__name__]
    return RANGES.get(str(getattr(value, "module", "")), {})
