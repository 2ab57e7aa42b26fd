"""A task attention may return two maps instead of one, one for each branch of a dense detector.

Each tower reads the map of its branch. Where a single map is needed (the next block, the region proposals of
Faster R-CNN), it is the mean of the two.
"""

from typing import NamedTuple

import jax


class Branches(NamedTuple):
    """Maps of one level, both (b, h, w, c): the input of classification, and that of regression (boxes, points)."""

    classification: jax.Array
    regression: jax.Array


Level = jax.Array | Branches  # of the pyramid that DyHead returns


def for_classification(level: Level) -> jax.Array:
    """The classification input, (b, h, w, c)."""
    return level.classification if isinstance(level, Branches) else level


def for_regression(level: Level) -> jax.Array:
    """The regression input, (b, h, w, c)."""
    return level.regression if isinstance(level, Branches) else level


def merged(level: Level) -> jax.Array:
    """One map (b, h, w, c): the level itself, or the mean of its branches."""
    return (level.classification + level.regression) / 2 if isinstance(level, Branches) else level
