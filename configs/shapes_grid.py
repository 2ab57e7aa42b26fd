"""A grid of experiments on drawn shapes: any detector with DyHead, without it, or with some attentions; minutes each.

The text after the colon is a detector (atss, retinanet, fcos, reppoints, faster_rcnn, borderdet), alone for two full
DyHead blocks, or followed by `plain` (no blocks, but towers of two layers), `none` (blocks with all three attentions
off) or the names of the attentions that are on. DyHead replaces the towers, except in RetinaNet, which keeps them as in
the official code; with `towers` as one more word the others keep two layers, too. Backbone, pyramid, pictures and
schedule are those of `demo_shapes.py`. The initial GroupNorm scales make features after a block about equally large in
every experiment: the mean of three maps is smaller than each of them, and the scale attention initially halves it.

    python train.py --config=configs/shapes_grid.py:fcos --workdir=runs/fcos
    python train.py --config=configs/shapes_grid.py:fcos,plain --workdir=runs/fcos_plain
    python train.py --config=configs/shapes_grid.py:atss,scale,task --workdir=runs/scale_task
    python train.py --config=configs/shapes_grid.py:fcos,towers --workdir=runs/fcos_towers

Several of them in one table, with three seeds each:

    python -m dyhead_jax.compare shapes_grid:atss,none shapes_grid:atss,scale shapes_grid:atss --workdir=runs/grid
"""

from typing import Any

from dyhead_jax.config import (
    ATSSConfig,
    BorderDetConfig,
    Config,
    ConfigError,
    FasterRCNNConfig,
    RepPointsConfig,
    RetinaNetConfig,
    recipes,
)
from dyhead_jax.config.flags import load_file

ATTENTIONS = ("scale", "spatial", "task")
LIMITS = (24.0, 48.0, 96.0)  # borders between the ranges of the four levels, in pixels; shapes have 8 to 100


def get_config(cell: str = "atss") -> Config:
    """cell: the text described above. Raises ConfigError for others."""
    detector, *on = cell.split(",")
    if detector not in HEADS:
        raise ConfigError(f":{cell} does not begin with a detector; it may be one of {', '.join(HEADS)}")
    plain = on == ["plain"]
    keep = "towers" in on
    if keep:
        on.remove("towers")
    if keep and detector == "faster_rcnn":
        raise ConfigError(f":{cell}: faster_rcnn has no towers")
    if not plain and on != ["none"] and (set(on) - set(ATTENTIONS) or len(set(on)) != len(on)):
        raise ConfigError(
            f":{cell}: the detector may be followed by plain, or by none or any of {', '.join(ATTENTIONS)}, and towers"
        )
    config = load_file("demo_shapes")
    if plain:
        config.model.dyhead.num_blocks = 0
    for name in ATTENTIONS:
        if on and name not in on:
            setattr(config.model.dyhead, name, "none")
    config.model.dyhead.norm_scale = 3**0.5 * (1 if config.model.dyhead.scale == "none" else 2)
    config.model.head = HEADS[detector](towers=2 if plain or keep or detector == "retinanet" else 0)
    return config


def _faster_rcnn(towers: int) -> FasterRCNNConfig:
    del towers  # it has none
    return FasterRCNNConfig(
        anchor_scale=4.0,
        rpn_features=64,
        proposals_before=(200, 200),
        proposals=(100, 100),
        roi_levels=3,
        finest_scale=28.0,
        roi_samples=64,
        roi_sampling_ratio=2,
        fc_features=256,
        nms_candidates=600,
    )


HEADS: dict[str, Any] = {
    "atss": lambda towers: ATSSConfig(towers=towers, kernel=3),
    "retinanet": lambda towers: RetinaNetConfig(towers=towers, min_positive_iou=0.2),
    "fcos": lambda towers: recipes.improved_fcos(towers=towers, norm_groups=16, level_limits=LIMITS),
    "reppoints": lambda towers: RepPointsConfig(towers=towers, norm_groups=16, grid_start=2.0, min_positive_iou=0.1),
    "faster_rcnn": _faster_rcnn,
    "borderdet": lambda towers: BorderDetConfig(
        towers=towers, norm_groups=16, level_limits=LIMITS, border_class_features=64, border_box_features=32
    ),
}
