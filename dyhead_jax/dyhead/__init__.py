"""Dynamic Head: `DyHead` stacks blocks; a block is task(scale(spatial(pyramid)))."""

from dyhead_jax.dyhead.branches import Branches
from dyhead_jax.dyhead.building import ModuleChoice, attentions, hand_down, make_attention
from dyhead_jax.dyhead.head import DyHead, DyHeadBlock
from dyhead_jax.dyhead.scale import ScaleAttention
from dyhead_jax.dyhead.spatial import SpatialAttention
from dyhead_jax.dyhead.task import TaskAttention

__all__ = [
    "Branches",
    "DyHead",
    "DyHeadBlock",
    "ModuleChoice",
    "ScaleAttention",
    "SpatialAttention",
    "TaskAttention",
    "attentions",
    "hand_down",
    "make_attention",
]
