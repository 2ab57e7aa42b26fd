"""Greedy non-maximum suppression with fixed shapes.

Coordinates: boxes are (x1, y1, x2, y2) in pixels. A box whose IoU with a kept one is above the threshold is suppressed.
"""

import jax
import jax.numpy as jnp

from dyhead_jax.boxes import geometry


def nms(
    boxes: jax.Array, scores: jax.Array, labels: jax.Array, threshold: float, keep: int
) -> tuple[jax.Array, jax.Array]:
    """The first `keep` boxes that class-wise greedy suppression keeps, best score first.

    boxes: (n, 4); scores: (n,), candidates are those above 0; labels: (n,), only boxes of the same label suppress each
    other (all zeros: suppression across classes). Returns indices (keep,) int32 and a mask (keep,) of those that hold a
    box. One step for each kept box, O(n): exact, and fast because few are kept. Of equal scores the earlier box first.
    """

    def pick(scores, _):
        best = jnp.argmax(scores)
        real = scores[best] > 0
        overlap = geometry.iou(boxes, boxes[best][None])
        suppressed = (overlap > threshold) & (labels == labels[best])
        suppressed = suppressed.at[best].set(True)
        return jnp.where(real & suppressed, 0.0, scores), (best.astype(jnp.int32), real)

    _, (index, real) = jax.lax.scan(pick, scores, length=keep)
    return index, real
