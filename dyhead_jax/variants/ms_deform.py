"""Multi-scale deformable attention as spatial attention: each cell reads a few points of every level.

One candidate a level takes the place of `SpatialAttention`'s three: norm(x + sum over heads i of W_i sum over levels l
and points k of A_ilk (V_i x_l)(r_l + d_ilk)), where A is a softmax over levels and points together, r_l is the cell's
centre in level l, and offsets d count in pixels of level l.

Plugs in as `config.model.dyhead.spatial = "dyhead_jax.variants.ms_deform:MultiScaleDeformable"`. Source: Zhu et al.,
Deformable DETR, 2020, equation 3 and appendix A.4; the residual and the embedding of levels are those of its encoder.
Here GroupNorm takes the place of its LayerNorm, and there is no feed-forward layer and no embedding of positions.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dyhead_jax.dyhead.spatial import group_norm
from dyhead_jax.dyhead.valid_area import normed
from dyhead_jax.ops.deform_conv import gather, geometry


class MultiScaleDeformable(nn.Module):
    """heads, points: of each level; norm_groups, norm_scale: of the GroupNorm after the residual.

    Weights start equal; offsets start as a star: head i looks in direction 2 pi i / heads, point k in a distance of
    k pixels, k = 1 ... points.
    """

    features: int = 256
    heads: int = 8
    points: int = 4
    norm_groups: int = 16
    norm_scale: float = 1.0
    dtype: jnp.dtype = jnp.float32
    offset_parameters: ClassVar = ("offset",)
    position_parameters: ClassVar = ("level",)
    level_parameters: ClassVar = ("level", "offset", "weight")

    @nn.compact
    def __call__(self, pyramid: list[jax.Array], valid: list[jax.Array] | None = None) -> list[list[jax.Array]]:
        """pyramid: (b, h_l, w_l, c_in), fine to coarse, of any sizes. Returns one candidate (b, h_l, w_l, features) of
        each level. valid: (b, h_l, w_l) bool; other cells read as zeros and do not count in norms.

        Raises ValueError if heads does not divide features.
        """
        if self.features % self.heads:
            raise ValueError(f"MultiScaleDeformable: {self.heads} heads do not divide {self.features} features")
        maps, masks = [x.astype(self.dtype) for x in pyramid], valid or [None] * len(pyramid)
        value = nn.Dense(self.features, dtype=self.dtype, name="value")
        values = [value(x) for x in maps]
        values = [v if m is None else jnp.where(m[..., None], v, 0) for v, m in zip(values, masks, strict=True)]
        offsets, weights = self._predict(maps)
        sampled = sample_levels(values, offsets, weights).astype(self.dtype)
        sampled = nn.Dense(self.features, dtype=self.dtype, name="out")(sampled)
        if maps[0].shape[-1] != self.features:
            project = nn.Dense(self.features, dtype=self.dtype, name="project")
            maps = [project(x) for x in maps]
        norm = group_norm(self.norm_groups, self.norm_scale, self.dtype, "norm")
        parts = jnp.split(sampled, np.cumsum([x.shape[1] * x.shape[2] for x in maps])[:-1], axis=1)
        return [
            [normed(norm, x + part.reshape(x.shape), mask)] for x, part, mask in zip(maps, parts, masks, strict=True)
        ]

    def _predict(self, maps: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Offsets (b, p, heads, levels, points, 2) as (dy, dx) and weights (b, p, heads, levels, points), float32."""
        shape, c = (self.heads, len(maps), self.points), maps[0].shape[-1]
        embedding = self.param("level", nn.initializers.normal(1.0), (len(maps), c)).astype(self.dtype)
        queries = [x.reshape(x.shape[0], -1, c) + embedding[i, None, None] for i, x in enumerate(maps)]
        query, zeros = jnp.concatenate(queries, axis=1), nn.initializers.zeros

        def star(key: jax.Array, flat: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
            angle = 2 * math.pi * np.arange(self.heads) / self.heads
            direction = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
            direction /= np.abs(direction).max(axis=-1, keepdims=True)
            steps = direction[:, None, None] * np.arange(1, self.points + 1)[:, None]
            return jnp.asarray(np.broadcast_to(steps, (*shape, 2)).reshape(flat), dtype)

        def dense(count: int, name: str, bias: nn.initializers.Initializer) -> jax.Array:
            y = nn.Dense(count, kernel_init=zeros, bias_init=bias, dtype=self.dtype, name=name)(query)
            return y.astype(jnp.promote_types(y.dtype, jnp.float32))

        number = math.prod(shape)
        offsets = dense(2 * number, "offset", star).reshape(*query.shape[:2], *shape, 2)
        logits = dense(number, "weight", zeros).reshape(*query.shape[:2], self.heads, -1)
        return offsets, nn.softmax(logits).reshape(*query.shape[:2], *shape)


def sample_levels(values: Sequence[jax.Array], offsets: jax.Array, weights: jax.Array) -> jax.Array:
    """For each cell of all levels the weighted sum of its samples in all levels: (b, p, c), float32 or wider.

    values: (b, h_l, w_l, c), whose channels are split into heads; offsets: (b, p, heads, levels, points, 2) as (dy, dx)
    in pixels of the level that is read, from the cell's centre; weights: (b, p, heads, levels, points). Beyond a level
    are zeros.
    """
    batch, count, heads, levels, points, _ = offsets.shape
    table, sizes = gather.prepare(values, heads), [v.shape[1:3] for v in values]
    centres = np.concatenate([(np.mgrid[:h, :w].reshape(2, -1) + 0.5) / [[h], [w]] for h, w in sizes], axis=1)
    at = np.stack([centres * np.array([[h], [w]]) - 0.5 for h, w in sizes])  # (levels, 2, p)
    by_tap = jnp.moveaxis(offsets, (3, 4, 0, 2, 1), (0, 1, 2, 3, 4))  # (levels, points, b, heads, p, 2)
    y, x = (by_tap[..., axis] + jnp.asarray(at[:, axis], offsets.dtype)[:, None, None, None] for axis in (0, 1))
    mask = jnp.moveaxis(weights, (3, 4, 0, 2, 1), (0, 1, 2, 3, 4))
    places = geometry.places_of(values)
    fields = np.array([(p.height, p.width, p.row, p.width + 2) for p in places], np.int32).repeat(points, axis=0)
    source = geometry.Source(*(jnp.asarray(v).reshape(-1, 1, 1, 1) for v in fields.T))
    taps = *(v.reshape(levels * points, *v.shape[2:]) for v in (y, x, mask)), source

    def add(total: jax.Array, tap: tuple) -> tuple[jax.Array, None]:
        y, x, mask, source = tap
        return total + gather.read((), table, geometry.samples(source, y, x, mask)), None

    wide = jnp.promote_types(table.dtype, jnp.float32)
    zero = geometry.zeros(table, (batch, heads, count, table.shape[-1]), wide)
    # one tap at a time, read again in the backward pass, so that the samples of only one are in memory
    total, _ = jax.lax.scan(jax.checkpoint(add, prevent_cse=False), zero, taps)
    return geometry.join_groups(total)
