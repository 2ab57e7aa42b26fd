"""The part of a detector and the pass that an operation belongs to, by the scope that JAX noted beside it.

A scope is a path such as jit(step_fn)/transpose(jvp(ATSS.losses))/ATSS.features/dyhead/block_0/spatial/dot_general, in
which Flax puts the names of modules and of their methods.
"""

import re

PASSES = ("forward", "recomputed", "backward", "update")
OTHER, UPDATE, UNNAMED = "rest of the model", "update", "made by the compiler"
# The first expression that is found in a scope decides.
_PARTS = (
    (r"\bbackbone\b", "backbone"),
    (r"\bneck\b", "neck"),
    (r"\bspatial\._predict\b", "DyHead: offsets"),
    (r"\bspatial\._deform\b", "DyHead: deformable convolutions"),
    (r"\bspatial\._normed\b", "DyHead: norms"),
    (r"\bspatial\b", "DyHead: rest of spatial"),
    (r"\bscale\b", "DyHead: scale"),
    (r"\btask\b", "DyHead: task"),
    (r"\b(dyhead|DyHead|blocks)\b", "DyHead: rest"),
    (r"\b(predict_from_towers|class_tower|box_tower|predict)\b", "towers and predictors"),
    (r"\blosses_from_maps\b", "targets and losses"),
    (r"\bnetwork_input\b", "input"),
    (r"\bjvp\b", OTHER),
    (r"^jit\(step_fn\)/", UPDATE),  # the function of `steps.make_train_step`, outside of the model
)
NAMES = (*dict.fromkeys(name for _, name in _PARTS), UNNAMED)
# Of the names in a scope those that tell the parts that have products; see `multiply_adds`.
PRODUCTS = {
    "backbone": "backbone",
    "neck": "neck",
    "_predict": "DyHead: offsets",
    "_deform": "DyHead: deformable convolutions",
    "scale": "DyHead: scale",
    "task": "DyHead: task",
    "predict_from_towers": "towers and predictors",
    "class_tower": "towers and predictors",
    "box_tower": "towers and predictors",
    "losses_from_maps": "targets and losses",
}


def part_of(scope: str) -> str:
    """One of NAMES. A scope that is no path is the name of an argument, which the compiler copies."""
    if "/" not in scope:
        return UNNAMED
    return next((name for expression, name in _PARTS if re.search(expression, scope)), OTHER)


def pass_of(scope: str) -> str:
    """One of PASSES. The scope of what is recomputed lies in the backward pass."""
    if "rematted_computation" in scope:
        return "recomputed"
    if "transpose(" in scope:
        return "backward"
    return "update" if part_of(scope) == UPDATE else "forward"
