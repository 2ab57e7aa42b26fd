"""One file a detector; `build` makes the one that a config names."""

from typing import Any

import jax.numpy as jnp

from dyhead_jax.config import ModelConfig, nodes


def build(model: ModelConfig, *, axis_name: str | None = None) -> Any:
    """The Linen module of a detector, with methods `losses`, `detect` and `features` (see `detector.Detector`).

    axis_name: the mapped axis (of `jax.pmap`) over which batch statistics and loss normalisers are averaged; None where
    one program sees the whole batch.
    Raises SymbolError when an import path of the config leads nowhere.
    """
    dtype = jnp.dtype(model.dtype)
    backbone = nodes.build(model.backbone, dtype=dtype, axis_name=axis_name)
    neck = nodes.build(model.neck, dtype=dtype)
    dyhead = nodes.build(model.dyhead, dtype=dtype)
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
