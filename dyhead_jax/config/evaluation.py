"""Test time: `config.evaluation`."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class EvaluationConfig:
    """Several scales and mirror images, merged; the defaults are one plain pass. Used by the evaluation after the last
    step and by `python -m dyhead_jax.evaluate`; evaluations on the way are always plain."""

    short_sides: tuple[int, ...] = ()  # the scales of a multi-scale test; none: the largest of data.short_side
    long_sides: tuple[int, ...] = ()  # at most, one a scale; none: data.long_side
    size_ranges: tuple[tuple[float, float], ...] = ()  # one a scale: sqrt(area), in its pixels, of the boxes it keeps
    flip: bool = False  # each scale also mirrored
    merge: str = "nms"  # of the scales' boxes, class by class: "nms" or "vote" (boxes that meet are averaged by score)
    merge_threshold: float = 0.6  # IoU above which boxes of different scales meet
    max_detections: int = 100  # an image, after merging
