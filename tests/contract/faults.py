"""Attentions of a fork, each with one fault, by the name of the property that it breaks."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.dyhead import ModuleChoice, attentions
from dyhead_jax.dyhead.valid_area import pooled


class Spatial(nn.Module):
    """Sound: each level is its only candidate, through one shared layer."""

    features: int
    dtype: jnp.dtype = jnp.float32
    gain: float = 1.0  # an option of its own

    @nn.compact
    def __call__(self, pyramid):
        layer = nn.Dense(self.features, dtype=self.dtype, name="layer")
        return [[self.gain * layer(x)] for x in pyramid]


class Task(nn.Module):
    """Sound: a gate from the mean of the map."""

    @nn.compact
    def __call__(self, x, valid=None):
        gate = nn.Dense(x.shape[-1], name="gate")(pooled(x, valid))
        return x * nn.sigmoid(gate)[:, None, None].astype(x.dtype)


class Trained(nn.Module):
    """Sound: dropout and batch statistics, in training only."""

    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(not train, axis_name=self.axis_name, dtype=self.dtype)(x)
        return nn.Dropout(0.5, deterministic=not train)(x)


class Block(nn.Module):
    """Sound: no task attention."""

    features: int = 256
    spatial: ModuleChoice = None
    scale: ModuleChoice = None
    task: ModuleChoice = None
    norm_groups: int = 16
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pyramid, valid=None, train=False):
        spatial, scale, _ = attentions(self, pyramid, valid=valid, train=train)
        candidates = spatial(pyramid)
        return [scale(candidates, level) for level in range(len(pyramid))]


class Fields(nn.Module):
    """Another name for `dtype`."""

    d_type: jnp.dtype = jnp.float32

    def __call__(self, pyramid):
        return [[x.astype(self.d_type)] for x in pyramid]


class Shapes(nn.Module):
    """Right for even sizes only."""

    def __call__(self, x):
        half = nn.avg_pool(x, (2, 2), (2, 2))
        return jnp.repeat(jnp.repeat(half, 2, axis=1), 2, axis=2)


class Levels(nn.Module):
    """A table by level that is not declared."""

    @nn.compact
    def __call__(self, pyramid):
        table = self.param("table", nn.initializers.normal(), (len(pyramid), pyramid[0].shape[-1]))
        return [[x + table[None, None, None, i].astype(x.dtype)] for i, x in enumerate(pyramid)]


class DeclaredLevels(Levels):
    """The same, declared."""

    level_parameters: ClassVar = ("table",)


class Train(nn.Module):
    """Drops in detection too."""

    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=False)(x)


class Statistics(nn.Module):
    """Batch statistics that never move."""

    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(True, dtype=x.dtype)(x)


class Rates(nn.Module):
    """Its offsets are not declared, so that they learn as fast as all else."""

    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(1, dtype=x.dtype, name="my_offsets")(x)


class Missing(Task):
    """It declares what it does not have."""

    offset_parameters: ClassVar = ("sampling",)


class Detectors(nn.Module):
    """It cannot be trained: `train` is no number."""

    @nn.compact
    def __call__(self, x, train):
        if train:
            raise TypeError("not in training")
        return x


class Gradients(nn.Module):
    """A parameter that nothing reads."""

    @nn.compact
    def __call__(self, x):
        spare = self.param("spare", nn.initializers.ones, (3,))
        return x + 0 * spare.sum().astype(x.dtype)


class Infinite(nn.Module):
    """The gradient of a root at zero."""

    @nn.compact
    def __call__(self, x):
        weight = self.param("weight", nn.initializers.ones, ())
        return x + jnp.sqrt(weight.astype(x.dtype) * nn.relu(-jnp.abs(x)))


class Dead(nn.Module):
    """Two factors that both start at zero."""

    @nn.compact
    def __call__(self, x):
        first, second = (self.param(name, nn.initializers.zeros, ()) for name in ("first", "second"))
        return x * (1 + first * second).astype(x.dtype)


class Batch(nn.Module):
    """The mean over the batch."""

    def __call__(self, x):
        return x - x.mean(0, keepdims=True)


class Padding(nn.Module):
    """It takes `valid` and means over everything."""

    def __call__(self, x, valid=None):
        return x - x.mean((1, 2), keepdims=True)


class Bfloat16(nn.Module):
    """It computes in float32, whatever the model does."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(x.shape[-1], name="layer")(x.astype(jnp.float32))


class Rounded(nn.Module):
    """Another function in bfloat16."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="layer")(x) * (1 if self.dtype == jnp.float32 else 1.5)


class Scan(nn.Module):
    """Another factor in the second block."""

    @nn.compact
    def __call__(self, x):
        return x * (2 if "block_1" in self.path else 1)


class Sharding(nn.Module):
    """One image after the other."""

    def __call__(self, x):
        return jax.lax.map(lambda image: image / (1 + jnp.abs(image)), x)
