"""The part of a detector that an operation belongs to, and the pass, by the scope that JAX noted beside it.

A scope is a path such as jit(step_fn)/transpose(jvp(ATSS.losses))/dyhead/block_0/spatial/dot_general.
"""

import re

PASSES = ("forward", "recomputed", "backward", "update")
LOSS, UPDATE = "targets and losses", "update"
# The first name of a scope that stands here decides; the three attentions come before the whole of DyHead, since they
# lie inside of it.
_PARTS = {
    "backbone": "backbone",
    "neck": "neck",
    "spatial": "DyHead: spatial",
    "scale": "DyHead: scale",
    "task": "DyHead: task",
    "class_tower": "towers and predictors",
    "box_tower": "towers and predictors",
}
NAMES = (*dict.fromkeys(_PARTS.values()), "DyHead: other", LOSS, UPDATE)
