"""A detector of a few hundred parameters with everything that a train step has to cope with: a frozen part, batch norm
over the global batch, dropout, and losses normalised by a count of the whole batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dyhead_jax.types import Batch, Detections, GroundTruth

CANVAS = (8, 8)


class Backbone(nn.Module):
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(4, (3, 3), strides=2, name="stem")(x)
        x = nn.Conv(6, (3, 3), strides=2, use_bias=False, name="body")(nn.relu(x))
        return nn.relu(nn.BatchNorm(not train, axis_name=self.axis_name if train else None, name="norm")(x))


class TinyDetector(nn.Module):
    axis_name: str | None = None
    dropout: float = 0.0
    batch_norm: bool = True

    def setup(self) -> None:
        self.backbone = Backbone(self.axis_name)
        self.predictor = nn.Dense(5)
        self.drop = nn.Dropout(self.dropout)

    def maps(self, images: jax.Array, train: bool) -> jax.Array:
        x = self.backbone(images.astype(jnp.float32) / 255, train and self.batch_norm)
        x = self.drop(x.reshape(x.shape[0], -1, x.shape[-1]), deterministic=not train)
        return self.predictor(x)

    def count(self, images: jax.Array, ground_truth: GroundTruth, train: bool = True) -> dict[str, jax.Array]:
        boxes = jnp.sum(ground_truth.mask).astype(jnp.float32)
        return {"boxes": boxes if self.axis_name is None else jax.lax.pmean(boxes, self.axis_name)}

    def losses(
        self,
        images: jax.Array,
        ground_truth: GroundTruth,
        train: bool = True,
        normalizers: dict[str, jax.Array] | None = None,
    ) -> dict[str, jax.Array]:
        maps = self.maps(images, train)
        wanted = jnp.mean(jnp.where(ground_truth.mask[..., None], ground_truth.boxes, 0.0), axis=1)
        if normalizers is None:
            normalizers = self.count(images, ground_truth, train)
        count = jnp.maximum(normalizers["boxes"], 1.0)
        distance = jnp.abs(maps[..., :4] - wanted[:, None])
        return {"loss_box": jnp.sum(distance) / count, "loss_class": jnp.mean(maps[..., 4] ** 2)}

    def detect(self, images: jax.Array, image_sizes: jax.Array) -> Detections:
        maps = self.maps(images, False)
        return Detections(
            boxes=maps[..., :4], scores=jax.nn.sigmoid(maps[..., 4]), labels=jnp.zeros(maps.shape[:2], jnp.int32)
        )

    def is_frozen(self, path: tuple[str, ...]) -> bool:
        return path[:2] == ("backbone", "stem")


def make_batch(size: int, seed: int = 0) -> Batch:
    """Host arrays; images differ in how many boxes they have."""
    draw = np.random.default_rng(seed)
    mask = np.arange(3)[None] < draw.integers(0, 4, (size, 1))
    return Batch(
        images=draw.integers(0, 256, (size, *CANVAS, 3), np.uint8),
        ground_truth=GroundTruth(
            boxes=draw.uniform(0, 8, (size, 3, 4)).astype(np.float32),
            labels=np.zeros((size, 3), np.int32),
            mask=mask,
            crowd=np.zeros((size, 3), bool),
            sizes=np.full((size, 2), 8, np.int32),
        ),
    )


def quickly_compiled(step: Any, *arguments: Any) -> Any:
    """What `jax.jit` or `jax.pmap` gave, compiled for these arguments without LLVM's optimisation: programs of a few
    rounds on little data run for a moment, whatever the compiler does."""
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return step.lower(*arguments).compile(quick)


def leaves(tree: Any) -> dict[str, np.ndarray]:
    """Host arrays by path."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in found}


def max_relative_difference(a: Any, b: Any) -> float:
    """The largest over the leaves of |a - b| / |b| (Euclidean norms)."""
    left, right = leaves(a), leaves(b)
    assert left.keys() == right.keys()
    return max(
        float(np.linalg.norm((left[k] - right[k]).ravel()) / max(float(np.linalg.norm(right[k].ravel())), 1e-12))
        for k in left
    )
