"""TOOD's task-aligned head on ATSS (Feng et al. 2021): the branches share their layers, and each corrects itself.

In the place of ATSS's towers, `layers` interactive layers and a layer attention for each branch
(`variants.task_decomposition`). Then, from all interactive layers, a map M of probabilities and a map O of offsets:
the class probability becomes sqrt(P M), and each of the four coordinates of the box of a cell is read, bilinearly, from
the boxes around it, at its own offset: B(i + O(i, j, 2c), j + O(i, j, 2c + 1), c), coordinates x1, y1, x2, y2.

This is the paper's head, section 3.1, with the anchors, assignment, centreness and losses of ATSS: its task-aligned
assignment and losses, section 3.2, are not here. As in mmdetection's `TOODHead`, boxes are deformed as corners, and a
box whose corners end up in the wrong order stays as it was. Unlike there, points beyond the map read its nearest cell,
not zeros, which would draw boxes at the rim to the top left.

Coordinates: boxes as in `atss`; offsets are (dy, dx) in cells of the level.
Plugs in as `config.model.head = "dyhead_jax.detectors.tood:TOOD"`, behind DyHead blocks or without.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dyhead_jax.boxes import geometry
from dyhead_jax.detectors.atss import ATSS
from dyhead_jax.detectors.detector import Maps, flatten_levels, shapes_of
from dyhead_jax.detectors.towers import predictor, prior_bias, widen
from dyhead_jax.dyhead.branches import Level, merged
from dyhead_jax.ops.deform_conv import deform_conv
from dyhead_jax.variants.task_decomposition import InteractiveLayers, LayerAttention


class TOOD(ATSS):
    """layers, reduction: as in `TaskDecomposition`; implementation: of `deform_conv`; the rest see `ATSS`.

    Both factors of the class probability start at 0.01, offsets almost at zero, N(0, 0.001).
    """

    offset_parameters: ClassVar = ("offset_predictor",)
    layers: int = 6
    reduction: int = 8
    implementation: str = "auto"
    kernel: int = 3

    def setup(self):
        """Raises ValueError if there are towers."""
        self.check_choices()
        if self.towers:
            raise ValueError(f"TOOD towers is {self.towers}; its layers take their place, so it must be 0")
        features, groups, dtype = self.neck.features, self.norm_groups, self.dtype
        self.interactive = InteractiveLayers(features, self.layers, groups, dtype)
        self.class_layers = LayerAttention(features, self.reduction, groups, dtype)
        self.box_layers = LayerAttention(features, self.reduction, groups, dtype)
        self.class_predictor = predictor(self.num_classes, self.kernel, dtype, None, prior_bias())
        self.box_predictor = predictor(4, self.kernel, dtype, None)
        self.centerness_predictor = predictor(1, self.kernel, dtype, None)
        self.scales = self.param("scales", nn.initializers.ones, (self.neck.levels,))
        hidden = max(features // 4, 1)
        self.alignment_squeeze = predictor(hidden, 1, dtype, None)
        self.alignment_predictor = predictor(1, 3, dtype, None, prior_bias())
        self.offset_squeeze = predictor(hidden, 1, dtype, None)
        self.offset_predictor = nn.Conv(8, (3, 3), padding=1, kernel_init=nn.initializers.normal(0.001), dtype=dtype)

    def predict(self, pyramid: list[Level]) -> Maps:
        """As `ATSS.predict_from_towers`: "class" holds the logits of the aligned probabilities, "box" the deltas of the
        deformed boxes. Of a level with `Branches` their mean is read."""
        stacks = [self.interactive(merged(level)) for level in pyramid]
        maps = self.predict_from_towers([self.class_layers(x) for x in stacks], [self.box_layers(x) for x in stacks])
        shapes = shapes_of(maps["class"])
        level_anchors = jnp.split(self.anchors(shapes), np.cumsum([h * w for h, w in shapes])[:-1])
        for level, (x, priors) in enumerate(zip(stacks, level_anchors, strict=True)):
            x = x.reshape(*x.shape[:3], -1)
            alignment = widen(self.alignment_predictor(nn.relu(self.alignment_squeeze(x))))
            maps["class"][level] = aligned_logits(maps["class"][level], alignment)
            offsets = widen(self.offset_predictor(nn.relu(self.offset_squeeze(x))))
            maps["box"][level] = self._deformed_deltas(maps["box"][level], offsets, priors)
        return maps

    def _deformed_deltas(self, deltas: jax.Array, offsets: jax.Array, priors: jax.Array) -> jax.Array:
        """deltas: (b, h, w, 4); offsets: (b, h, w, 8); priors: (h * w, 4). Returns the deltas of the deformed boxes."""
        priors = priors.astype(deltas.dtype)[None]
        flat = flatten_levels([deltas], 4)[0]
        boxes = geometry.decode_deltas(priors, flat, self.box_std, self.delta_clamp).reshape(deltas.shape)
        boxes = deformed(boxes, offsets, self.implementation)
        return geometry.encode_deltas(priors, boxes.reshape(flat.shape), self.box_std).reshape(deltas.shape)


def aligned_logits(logits: jax.Array, alignment: jax.Array) -> jax.Array:
    """The logit of sqrt(s(logits) s(alignment)) with the sigmoid s; shapes broadcast."""
    log_p = (nn.log_sigmoid(logits) + nn.log_sigmoid(alignment)) / 2
    log_p = jnp.minimum(log_p, -1e-6)  # of a probability that rounds to 1 the logit would be infinite
    return log_p - jnp.log(-jnp.expm1(log_p))


def deformed(boxes: jax.Array, offsets: jax.Array, implementation: str = "auto") -> jax.Array:
    """boxes: (b, h, w, 4), one a cell; offsets: (b, h, w, 8), (dy, dx) for each coordinate. Returns (b, h, w, 4)."""
    b, h, w, _ = boxes.shape
    cells = jnp.asarray(np.mgrid[:h, :w].transpose(1, 2, 0)[None, :, :, None], offsets.dtype)
    last = jnp.asarray([h - 1, w - 1], offsets.dtype).reshape(1, 1, 1, 1, 2)
    inside = jnp.clip(offsets.reshape(b, h, w, 4, 2) + cells, 0.0, last) - cells
    ones = jnp.ones((1, 1, 1, 4), boxes.dtype)
    moved = deform_conv(boxes, inside, None, ones, groups=4, implementation=implementation)
    ordered = jnp.all(moved[..., 2:] > moved[..., :2], axis=-1, keepdims=True)
    return jnp.where(ordered, moved, boxes)
