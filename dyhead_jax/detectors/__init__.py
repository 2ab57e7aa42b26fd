"""One file a detector; `build` makes the one that a config names.

What a new part of a detector has to offer. All parts are Linen modules, named in the config by import path. `build`
gives each the options of its config node and, where it declares them, `dtype` and `axis_name`.

Backbone: `__call__(x, train)` takes x (b, h, w, 3) and returns the maps [C2, C3, C4, C5], (b, h / s, w / s, c_s) with
    strides s = 4, 8, 16, 32, rounded up. train: batch norm uses the statistics of the batch.
Neck: `__call__(maps)` returns a pyramid, a list of (b, h_l, w_l, features), fine to coarse. Fields `features`, `start`
    and `levels`; level l has stride 4 * 2^(start + l).
DyHead: `__call__(pyramid)` returns a pyramid of the same heights and widths, in which a level may be a `Branches`. With
    a keyword `valid` it gets the cells that lie on the image, (b, h_l, w_l) bool of each level, and with a keyword
    `train` whether it is a step of training. Fields `num_blocks` and `features` (its channels, if num_blocks is not 0).
Block of DyHead: as DyHead, for one block; `dyhead.building` has the helpers to write one. Its attentions:
    spatial(pyramid) returns for each level a list of candidates, scale(candidates of a level) one map, and task(x) one
    map or a `Branches`; all maps are (b, h_l, w_l, features) in `dtype`. A level has as many candidates as the spatial
    attention gives it: the shipped one 2 at both ends, 3 between, and 1 where there is a single level.
    Each gets what it declares: as a field those of `dyhead.head.HANDED_DOWN` (`features`, `dtype`, `axis_name`, ...),
    as a keyword of its call `valid` and `train`. In training there are the random stream "dropout" and the collection
    "batch_stats"; each block has its own. `python -m dyhead_jax.contract` checks all of this.
Each of the three may have `is_frozen(path)`: whether the parameter at `path`, the names below the module's own, never
    trains. A part without that method has no frozen parameters. What else a module may declare of its parameters (that
    they say where to sample, or are not decayed) is in `training.parameters`.
Detector: a subclass of `detector.Detector` with `predict`, `targets`, `normalizers`, `loss_terms` and
    `detect_from_maps`. A one-stage detector is a subclass of `dense.DenseDetector`: its `setup` makes `class_tower` and
    `box_tower`, and `predict_from_towers` and `candidates` take the place of `predict` and `detect_from_maps`.
Training needs the methods `losses`, `detect`, `is_frozen` and, where gradients are accumulated, `count` of a model.
"""

from typing import Any

import jax.numpy as jnp

from dyhead_jax.config import ModelConfig, nodes


def build(model: ModelConfig, *, axis_name: str | None = None) -> Any:
    """The detector of a config, with methods `losses`, `detect` and `features` (see `detector.Detector`).

    axis_name: the mapped axis (of `jax.pmap`) over which batch statistics and loss normalizers are averaged; None where
    one program sees the whole batch.
    Raises ConfigError where an import path of the config does not exist, or options do not fit.
    """
    dtype = jnp.dtype(model.dtype)
    backbone, neck, dyhead = (
        nodes.build(node, dtype=dtype, axis_name=axis_name) for node in (model.backbone, model.neck, model.dyhead)
    )
    return nodes.build(
        model.head,
        backbone=backbone,
        neck=neck,
        dyhead=dyhead,
        num_classes=model.num_classes,
        pixel_mean=model.pixel_mean,
        pixel_std=model.pixel_std,
        bgr=model.bgr,
        pad_divisor=model.pad_divisor,
        dtype=dtype,
        axis_name=axis_name,
    )
