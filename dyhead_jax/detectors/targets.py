"""From matches to labels and boxes: what anchors, points or proposals have to predict."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dyhead_jax.types import GroundTruth


class Matched(NamedTuple):
    """Targets of n anchors, points or proposals.

    match: (b, n) int32, the index of a box or an `assign.MatchStatus`; labels: (b, n) int32, -1 where not positive;
    boxes: (b, n, 4), pixels, where not positive a spare box from which no NaN can enter a gradient.
    """

    match: jax.Array
    labels: jax.Array
    boxes: jax.Array

    @property
    def positive(self) -> jax.Array:
        """(b, n) bool: has a box."""
        return self.match >= 0

    def count(self) -> jax.Array:
        """The number of positives of all images, in the dtype of the boxes; an image without positives counts one."""
        return jnp.sum(jnp.maximum(jnp.sum(self.positive, axis=1), 1).astype(self.boxes.dtype))


def gather(match: jax.Array, ground_truth: GroundTruth, spare: jax.Array) -> Matched:
    """The labels and boxes of the matches (b, n).

    spare: boxes (b or 1, n or 1, 4) for those that are not positive; the result's boxes have its dtype.
    """
    positive, index = match >= 0, jnp.maximum(match, 0)
    labels = jnp.where(positive, jnp.take_along_axis(ground_truth.labels, index, axis=1), -1)
    boxes = jnp.take_along_axis(ground_truth.boxes, index[..., None], axis=1)
    return Matched(match, labels, jnp.where(positive[..., None], boxes, spare).astype(spare.dtype))


def trained_boxes(ground_truth: GroundTruth) -> jax.Array:
    """(b, m) bool: the real boxes without crowds, which train neither way, as in both references."""
    return ground_truth.mask & ~ground_truth.crowd


def match_images(
    assign: Callable[..., Any], ground_truth: GroundTruth, valid: jax.Array, *predictions: jax.Array
) -> Any:
    """`assign(boxes (m, 4), mask (m,), valid (n,), *predictions)` of each image, with a leading axis b.

    valid: (b or 1, n) bool, what takes part; predictions: with a leading axis b.
    """
    real = trained_boxes(ground_truth)
    valid = jnp.broadcast_to(valid, (real.shape[0], valid.shape[1]))
    return jax.vmap(assign)(ground_truth.boxes, real, valid, *predictions)
