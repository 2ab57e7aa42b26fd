"""Detectors that compile in seconds, on the backbone of the contract."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.contract.tiny_model import Backbone
from dyhead_jax.dyhead.head import DyHead
from dyhead_jax.necks.fpn import FPN
from dyhead_jax.types import GroundTruth
from tests.variables import draw

CLASSES = 3
CANVAS = (64, 96)
FEATURES = 16


def make(detector: Any, blocks: int = 1, **options: Any) -> Any:
    """A detector on levels of strides 8, 16 and 32."""
    return detector(
        backbone=Backbone(),
        neck=FPN(features=FEATURES, start=1, levels=3),
        dyhead=DyHead(num_blocks=blocks, features=FEATURES, norm_groups=4),
        num_classes=CLASSES,
        **options,
    )


def images(count: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, *CANVAS, 3)), jnp.float32)


def init(model: Any, seed: int = 0) -> Any:
    """Variables near where they start, none at a special place."""
    image = np.zeros((1, *CANVAS, 3), np.float32)
    return draw(lambda: model.init(jax.random.key(0), image, None, method="detect"), seed)


def truth(boxes: list[list[list[float]]], padded: int = 4, sizes: list | None = None) -> GroundTruth:
    """boxes: for each image; box i has label i % CLASSES."""
    rows = np.zeros((len(boxes), padded, 4), np.float32)
    mask = np.zeros((len(boxes), padded), bool)
    for i, own in enumerate(boxes):
        if own:
            rows[i, : len(own)], mask[i, : len(own)] = own, True
    labels = np.tile(np.arange(padded, dtype=np.int32) % CLASSES, (len(boxes), 1))
    return GroundTruth(
        boxes=jnp.asarray(rows),
        labels=jnp.asarray(labels),
        mask=jnp.asarray(mask),
        crowd=jnp.zeros_like(mask),
        sizes=None if sizes is None else jnp.asarray(sizes, jnp.int32),
    )
