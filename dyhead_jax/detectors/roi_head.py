"""The second stage's layers of Faster R-CNN, on the pooled features of a proposal."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.detectors.towers import small_normal, widen
from dyhead_jax.dyhead.branches import merged
from dyhead_jax.dyhead.building import ModuleChoice, hand_down, make


class RoIHead(nn.Module):
    """Pooled features to class logits and deltas for each class.

    layers: number of fully connected layers of fc_features channels, Xavier-uniform; or, with `task` (a module class, a
    partial of one or its import path), number of such attentions, on the pooled map (of two branches the mean).
    Predictors N(0, 0.01) and N(0, 0.001). Features are flattened with channels first, as in PyTorch's checkpoints.
    """

    class_parameters: ClassVar = {  # see training/parameters.py
        "class_predictor": "classes, background", "box_predictor": "classes x boxes",
    }  # fmt: skip
    num_classes: int
    layers: int = 2
    fc_features: int = 1024
    task: ModuleChoice = None
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """x: (n, s, s, c). Returns (n, q + 1) logits, the background last, and (n, q, 4) deltas, both float32.

        train: for the attentions that take it."""
        attends = self.task is not None and self.task != "none"
        if attends:
            for i in range(self.layers):
                handed = {"features": x.shape[-1], "dtype": self.dtype, "axis_name": self.axis_name}
                x = merged(hand_down(make(self.task, f"task_{i}", **handed), train=train)(x))
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        if not attends:
            for i in range(self.layers):
                dense = nn.Dense(
                    self.fc_features, kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype, name=f"fc_{i}"
                )
                x = nn.relu(dense(x))
        classes = nn.Dense(self.num_classes + 1, kernel_init=small_normal, dtype=self.dtype, name="class_predictor")
        deltas = nn.Dense(
            4 * self.num_classes, kernel_init=nn.initializers.normal(0.001), dtype=self.dtype, name="box_predictor"
        )
        return widen(classes(x)), widen(deltas(x)).reshape(-1, self.num_classes, 4)
