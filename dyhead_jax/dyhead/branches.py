"""What a task attention may return in place of one map: a map for each branch of a dense detector.

The towers read their own branch. Where one map is wanted (the next block, the region proposals of Faster R-CNN) it is
the mean of the two.
"""

from typing import NamedTuple

import jax


class Branches(NamedTuple):
    """Maps of one level, both (b, h, w, c): what classification sees, and what regression (boxes, points) sees."""

    classification: jax.Array
    regression: jax.Array


Level = jax.Array | Branches  # of a pyramid that leaves DyHead


def for_classification(level: Level) -> jax.Array:
    """(b, h, w, c)."""
    return level.classification if isinstance(level, Branches) else level


def for_regression(level: Level) -> jax.Array:
    """(b, h, w, c)."""
    return level.regression if isinstance(level, Branches) else level


def merged(level: Level) -> jax.Array:
    """One map (b, h, w, c): the level itself, or the mean of its branches."""
    return (level.classification + level.regression) / 2 if isinstance(level, Branches) else level
