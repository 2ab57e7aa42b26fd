"""Greedy non-maximum suppression with fixed shapes.

Coordinates: boxes are (x1, y1, x2, y2) in pixels; a box falls where its IoU with a kept one is above the threshold.
"""

import jax
import jax.numpy as jnp

from dyhead_jax.boxes import geometry


def nms(
    boxes: jax.Array, scores: jax.Array, labels: jax.Array, threshold: float, keep: int
) -> tuple[jax.Array, jax.Array]:
    """The first `keep` boxes that class-wise greedy suppression retains, best score first.

    boxes: (n, 4); scores: (n,), candidates are those above 0; labels: (n,), boxes of different labels never meet (give
    zeros for suppression across classes). Returns indices (keep,) int32 and a mask (keep,) of those that hold a box.
    One step a kept box, each O(n): exact, and quick because few are kept. Equal scores: the earlier box first.
    """

    def pick(scores, _):
        best = jnp.argmax(scores)
        real = scores[best] > 0
        overlap = geometry.iou(boxes, boxes[best][None])
        fallen = (overlap > threshold) & (labels == labels[best])
        fallen = fallen.at[best].set(True)
        return jnp.where(real & fallen, 0.0, scores), (best.astype(jnp.int32), real)

    _, (index, real) = jax.lax.scan(pick, scores, length=keep)
    return index, real
