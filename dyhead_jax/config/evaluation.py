"""Test time: `config.evaluation`."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class EvaluationConfig:
    """Testing at several scales with mirror images; the defaults are one plain pass. Used by `python -m
    dyhead_jax.evaluate` and after the last training step; evaluations during training are always plain."""

    short_sides: tuple[int, ...] = ()  # short side of each scale; none: one scale, the largest of data.short_side
    long_sides: tuple[int, ...] = ()  # maximum long side of each scale; none: data.long_side
    size_ranges: tuple[tuple[float, float], ...] = ()  # of each scale: range of sqrt(area), in its pixels, to keep
    flip: bool = False  # test each scale also mirrored
    merge: str = "nms"  # of the boxes of all scales, per class: "nms" or "vote" (score-weighted mean)
    merge_threshold: float = 0.6  # IoU above which boxes are merged
    max_detections: int = 100  # per image, after merging
