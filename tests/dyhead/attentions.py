"""Attentions of a fork, small, for the tests of what reaches them and of how their faults are named."""

import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.dyhead.building import ModuleChoice, attentions
from dyhead_jax.dyhead.valid_area import pooled

SEEN: list[tuple[str, bool]] = []  # what was given as `train`, in the order of the calls


class Own(nn.Module):
    """Spatial attention: each level is its only candidate."""

    def __call__(self, pyramid):
        return [[x] for x in pyramid]


class Both(nn.Module):
    """Task attention with dropout and batch statistics."""

    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train=False):
        norm = nn.BatchNorm(not train, dtype=self.dtype, axis_name=self.axis_name, name="norm")
        mask = nn.Dropout(0.5, deterministic=not train)(jnp.ones_like(x))
        self.sow("intermediates", "mask", mask)
        return norm(x) * mask


class SeenSpatial(Own):
    def __call__(self, pyramid, train):
        SEEN.append(("spatial", train))
        return super().__call__(pyramid)


class SeenScale(nn.Module):
    def __call__(self, candidates, valid=None, train=None):
        SEEN.append(("scale", train))
        return candidates[0]


class SeenTask(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        SEEN.append(("task", train))
        return x * self.param("factor", nn.initializers.ones, (1, 1, 1, x.shape[-1])).astype(x.dtype)


class TaskFirst(nn.Module):
    """A block of another order, by the helpers alone; `width` is an option of its own that it hands down."""

    features: int = 256
    spatial: ModuleChoice = Own
    scale: ModuleChoice = None
    task: ModuleChoice = None
    width: int = 3
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pyramid, valid=None, train=False):
        spatial, scale, task = attentions(self, pyramid, valid=valid, train=train)
        candidates = spatial([task(x, level) for level, x in enumerate(pyramid)])
        return [scale(candidates, level) for level in range(len(pyramid))]


class Widened(nn.Module):
    """Task attention with a field that only `TaskFirst` hands down."""

    width: int = 0

    @nn.compact
    def __call__(self, x):
        gate = nn.Dense(self.width, name="squeeze")(pooled(x, None))
        return x * nn.sigmoid(gate.sum(-1))[:, None, None, None].astype(x.dtype)


class OneLevel(TaskFirst):
    """A block that loses a level."""

    @nn.compact
    def __call__(self, pyramid):
        return pyramid[:1]


class Doubled(TaskFirst):
    """A block of twice the channels."""

    @nn.compact
    def __call__(self, pyramid):
        return [jnp.concatenate([x, x], axis=-1) for x in pyramid]


class Stacked(nn.Module):
    """Candidates as one array a level, the batch first."""

    def __call__(self, pyramid):
        return [jnp.stack([x, x], axis=1) for x in pyramid]


class OneList(nn.Module):
    """Maps without a list around those of a level."""

    def __call__(self, pyramid):
        return list(pyramid)


class ThreeAtOnce(nn.Module):
    """Scale attention that needs the same number of candidates everywhere."""

    @nn.compact
    def __call__(self, candidates):
        means = jnp.concatenate([pooled(x, None) for x in candidates], axis=-1)
        weights = nn.softmax(nn.Dense(len(candidates), name="weigh")(means))
        return sum(x * weights[:, i, None, None, None].astype(x.dtype) for i, x in enumerate(candidates))


class Three(nn.Module):
    """The same, without parameters."""

    def __call__(self, candidates):
        own, finer, coarser = candidates
        return own + finer + coarser


class Misspelt(nn.Module):
    """Spatial attention whose `feature` nobody sets."""

    feature: int = 8
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pyramid):
        value = nn.Dense(self.feature, dtype=self.dtype, name="value")
        return [[value(x)] for x in pyramid]
