"""Random subsets of anchors or proposals, of a fixed size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sample(NamedTuple):
    """Positives first. index: (s,) int32 among the candidates; positive, mask: (s,) bool, mask False where empty."""

    index: jax.Array
    positive: jax.Array
    mask: jax.Array


def sample(key: jax.Array, positive: jax.Array, negative: jax.Array, count: int, fraction: float) -> Sample:
    """At most int(count * fraction) of the positives, then negatives up to `count`, each drawn without bias.

    positive, negative: (n,) bool of one image (vmap for a batch). The result has min(count, n) slots.
    Source: mmdetection `RandomSampler`, Faster R-CNN (Ren et al. 2015), section 3.1.3.
    """
    size = positive.shape[0]
    most_positive, count = min(int(count * fraction), size), min(count, size)
    order = jax.random.uniform(key, (size,))
    rank, positives = jax.lax.top_k(jnp.where(positive, order, -1.0), most_positive)
    real_positive = rank >= 0
    rank, negatives = jax.lax.top_k(jnp.where(negative, order, -1.0), count)
    real_negative = (rank >= 0) & (jnp.arange(count) < count - jnp.sum(real_positive))
    real = jnp.concatenate([real_positive, real_negative])
    first = jnp.argsort(~real, stable=True)[:count]
    return Sample(
        index=jnp.concatenate([positives, negatives])[first].astype(jnp.int32),
        positive=jnp.concatenate([real_positive, jnp.zeros_like(real_negative)])[first],
        mask=real[first],
    )
