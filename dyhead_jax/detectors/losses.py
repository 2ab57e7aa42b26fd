"""Losses of single elements: callers weight, sum and normalise. All in float32 or wider."""

import jax
import jax.numpy as jnp

from dyhead_jax.boxes import geometry
from dyhead_jax.choices import Choice

# Not `optax.losses`: its cross-entropies, focal loss and Huber loss round differently, so that a run could not be
# resumed to the bit.


class IoULoss(Choice):
    """Form of the IoU loss."""

    LOG = "log"  # -log(max(IoU, 1e-6)), Yu et al. 2016
    LINEAR = "linear"  # 1 - IoU


def binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-(t log s(x) + (1 - t) log(1 - s(x))) with the sigmoid s, stable for any logit x. Shapes are equal."""
    return jnp.maximum(logits, 0.0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def focal(logits: jax.Array, targets: jax.Array, alpha: float = 0.25, gamma: float = 2.0) -> jax.Array:
    """Sigmoid focal loss (Lin et al. 2017, equation 5). logits, targets: (..., q), targets 0 or 1."""
    p = jax.nn.sigmoid(logits)
    miss = p * (1 - targets) + (1 - p) * targets  # 1 - p_t
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * miss**gamma * binary_cross_entropy(logits, targets)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log softmax(logits)[label]. logits: (..., q); labels: (...) int, 0 to q - 1. Returns (...)."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]


def one_hot(labels: jax.Array, classes: int) -> jax.Array:
    """labels: (...) int, negative for background. Returns (..., classes) float32, all zero for background."""
    return jax.nn.one_hot(labels, classes, dtype=jnp.float32)


def giou(predicted: jax.Array, target: jax.Array, eps: str = geometry.GIoUEps.FLOOR) -> jax.Array:
    """1 - GIoU of boxes (..., 4); eps as in `geometry.giou`."""
    return 1.0 - geometry.giou(predicted, target, eps)


def iou(predicted: jax.Array, target: jax.Array, mode: str = IoULoss.LOG) -> jax.Array:
    """IoU loss of boxes (..., 4); mode: an `IoULoss`. Raises ValueError for another one."""
    overlap = jnp.maximum(geometry.iou(predicted, target), geometry.EPS)
    return -jnp.log(overlap) if IoULoss.parse("IoU loss mode", mode) == IoULoss.LOG else 1.0 - overlap


def l1(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """|predicted - target|, shapes equal."""
    return jnp.abs(predicted - target)


def smooth_l1(predicted: jax.Array, target: jax.Array, beta: float) -> jax.Array:
    """d^2 / (2 beta) where d = |predicted - target| is below beta > 0, else d - beta / 2. Girshick 2015."""
    d = jnp.abs(predicted - target)
    return jnp.where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta)
