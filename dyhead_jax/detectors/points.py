"""What FCOS and BorderDet share: points that predict class, distances to the sides of a box, and centreness.

Coordinates: pixels of the padded input; the point of cell (i, j) is ((j + center_offset) * stride,
(i + center_offset) * stride), its distances are (left, top, right, bottom).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dyhead_jax.boxes import anchors, assign, geometry
from dyhead_jax.detectors.dense import DenseDetector
from dyhead_jax.detectors.detector import Maps, shapes_of
from dyhead_jax.detectors.targets import Matched, gather
from dyhead_jax.detectors.towers import predictor, prior_bias
from dyhead_jax.types import GroundTruth


class PointDetector(DenseDetector):
    """Towers and predictors shared over levels, with a learned scale for each level's distances.

    A point is positive for the smallest box around it, within `center_radius` strides of the box's centre where that is
    not 0, whose farthest side lies in the range of its level: `level_limits`, in pixels, divide 0 to infinity between
    the levels. kernel: of the predictors; center_offset: of a point inside its cell, in strides.
    Initialisation: convolutions N(0, 0.01), class bias -log(99), the rest 0; scales 1.
    """

    kernel: int = 3
    center_offset: float = 0.5
    level_limits: tuple[float, ...] = (64.0, 128.0, 256.0, 512.0)
    center_radius: float = 0.0

    def setup(self):
        if len(self.level_limits) != self.neck.levels - 1:
            raise ValueError(
                f"{type(self).__name__} level_limits {self.level_limits} do not divide {self.neck.levels} levels"
            )
        self.class_tower, self.box_tower = self.make_tower(), self.make_tower()
        self.class_predictor = predictor(self.num_classes, self.kernel, self.dtype, None, prior_bias())
        self.box_predictor = predictor(4, self.kernel, self.dtype, None)
        self.centerness_predictor = predictor(1, self.kernel, self.dtype, None)
        self.scales = self.param("scales", nn.initializers.ones, (self.neck.levels,))

    def points(self, shapes: list[tuple[int, int]]) -> list[jax.Array]:
        """(h * w, 2) as (x, y) of each level."""
        return [jnp.asarray(level) for level in anchors.points(shapes, self.strides, self.center_offset)]

    def points_of(self, maps: Maps) -> jax.Array:
        """(1, n, 2) in the dtype of the distances."""
        return jnp.concatenate(self.points(shapes_of(maps["class"]))).astype(maps["box"][0].dtype)[None]

    def match_image(self, shapes: list[tuple[int, int]], boxes: jax.Array, mask: jax.Array) -> jax.Array:
        """Matched box of each point of one image, (n,) (see `assign`); boxes: (m, 4); mask: (m,)."""
        limits = (-1.0, *self.level_limits, math.inf)
        ranges = anchors.repeat_levels(np.stack([limits[:-1], limits[1:]], axis=1), shapes)
        radius = None
        if self.center_radius:
            radius = anchors.repeat_levels(np.asarray(self.strides) * self.center_radius, shapes)
            radius = jnp.asarray(radius, jnp.float32)
        points = jnp.concatenate(self.points(shapes))
        return assign.fcos(points, boxes, mask, jnp.asarray(ranges, jnp.float32), radius)

    def matched_points(self, maps: Maps, match: jax.Array, ground_truth: GroundTruth) -> tuple[Matched, jax.Array]:
        """Labels and boxes of each point, and the centreness (b, n), 0 where not positive; match: (b, n).

        The spare box of a negative is one of two pixels around its point.
        """
        points = self.points_of(maps)
        matched = gather(match, ground_truth, jnp.concatenate([points - 1.0, points + 1.0], axis=-1))
        return matched, jnp.where(matched.positive, geometry.centerness(points, matched.boxes), 0.0)
