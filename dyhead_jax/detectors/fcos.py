"""FCOS (Tian et al. 2019): one point a cell; class, distances to the four sides, centreness.

Coordinates: pixels of the padded input; the point of cell (i, j) is ((j + 0.5) * stride, (i + 0.5) * stride), its
distances are (left, top, right, bottom).
Source: mmdetection `FCOSHead`, plain (the defaults) and with centre sampling, normalised boxes and centreness on the
box tower (`center_radius` 1.5, `distance` "relu", `centerness_on` "box").
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dyhead_jax.boxes import anchors as grids
from dyhead_jax.boxes import assign, geometry, postprocess
from dyhead_jax.detectors import losses
from dyhead_jax.detectors.detector import Detector, Maps, flatten, image_sizes_or_canvas, shapes_of
from dyhead_jax.detectors.towers import Tower, predictor, prior_bias, widen
from dyhead_jax.types import Detections, GroundTruth


class FCOS(Detector):
    """Towers and predictors shared over levels, with a learned scale for each level's distances.

    distance: "exp" of the prediction in pixels, or "relu" of it in strides. A point is positive for the smallest box
    around it, within `center_radius` strides of the box's centre where that is not 0, whose farthest side lies in its
    level's range: `level_limits` divide 0 to infinity between the levels.
    Initialisation: convolutions N(0, 0.01), class bias -log(99), the rest 0; scales 1.
    """

    towers: int = 4
    tower_bias: bool = False
    norm_groups: int = 32
    kernel: int = 3
    distance: str = "exp"
    centerness_on: str = "class"
    center_radius: float = 0.0
    level_limits: tuple[float, ...] = (64.0, 128.0, 256.0, 512.0)
    box_loss: str = "iou"
    box_loss_weight: float = 1.0
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    nms_candidates: int = 1000
    max_detections: int = 100

    def setup(self):
        for name, allowed in {"distance": ("exp", "relu"), "centerness_on": ("class", "box")}.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"FCOS {name} is {getattr(self, name)!r}; it may be {' or '.join(map(repr, allowed))}")
        if len(self.level_limits) != self.neck.levels - 1:
            raise ValueError(f"FCOS level_limits {self.level_limits} do not divide {self.neck.levels} levels")
        options = {"norm_groups": self.norm_groups, "bias": self.tower_bias, "dtype": self.dtype}
        self.class_tower = Tower(self.towers, self.neck.features, **options)
        self.box_tower = Tower(self.towers, self.neck.features, **options)
        self.class_predictor = predictor(self.num_classes, self.kernel, self.dtype, None, prior_bias())
        self.box_predictor = predictor(4, self.kernel, self.dtype, None)
        self.centerness_predictor = predictor(1, self.kernel, self.dtype, None)
        self.scales = self.param("scales", nn.initializers.ones, (self.neck.levels,))

    def predict(self, pyramid: list[jax.Array]) -> Maps:
        """ "class" logits (b, h, w, q), "box" distances in pixels (b, h, w, 4) and "centerness" logits (b, h, w, 1) of
        each level."""
        maps: Maps = {"class": [], "box": [], "centerness": []}
        for level, x in enumerate(pyramid):
            class_x, box_x = self.class_tower(x), self.box_tower(x)
            box = widen(self.box_predictor(box_x)) * self.scales[level]
            box = jnp.exp(box) if self.distance == "exp" else nn.relu(box) * self.strides[level]
            center_x = class_x if self.centerness_on == "class" else box_x
            maps["class"].append(widen(self.class_predictor(class_x)))
            maps["box"].append(box)
            maps["centerness"].append(widen(self.centerness_predictor(center_x)))
        return maps

    def points(self, shapes: list[tuple[int, int]]) -> list[jax.Array]:
        """(h * w, 2) as (x, y) of each level."""
        return [jnp.asarray(level) for level in grids.points(shapes, self.strides)]

    def match(self, shapes: list[tuple[int, int]], ground_truth: GroundTruth) -> jax.Array:
        """Matched box of each point (b, n) (see `assign`). Points in the padding are negatives, as in the reference."""
        points, counts = jnp.concatenate(self.points(shapes)), [h * w for h, w in shapes]
        limits = (-1.0, *self.level_limits, math.inf)
        ranges = jnp.asarray(np.repeat(np.stack([limits[:-1], limits[1:]], axis=1), counts, axis=0), jnp.float32)
        radius = None
        if self.center_radius:
            radius = jnp.asarray(np.repeat(np.asarray(self.strides) * self.center_radius, counts), jnp.float32)
        real = ground_truth.mask & ~ground_truth.crowd  # crowds train neither way
        each = lambda boxes, mask: assign.fcos(points, boxes, mask, ranges, radius)  # noqa: E731
        return jax.vmap(each)(ground_truth.boxes, real)

    def losses(self, images: jax.Array, ground_truth: GroundTruth, train: bool = True) -> dict[str, jax.Array]:
        """loss_class (focal), loss_box (-log IoU or GIoU, weighted by centreness), loss_centerness (binary
        cross-entropy)."""
        maps = self.features(images, ground_truth.sizes, train)
        return self.losses_from_maps(maps, ground_truth)

    def losses_from_maps(self, maps: Maps, ground_truth: GroundTruth) -> dict[str, jax.Array]:
        """`losses` from the raw predictions."""
        shapes = shapes_of(maps["class"])
        logits, distances = flatten(maps["class"], self.num_classes), flatten(maps["box"], 4)
        center_logits = flatten(maps["centerness"], 1)[..., 0]
        points = jnp.concatenate(self.points(shapes)).astype(distances.dtype)[None]
        match = self.match(shapes, ground_truth)
        positive = match >= 0
        index = jnp.maximum(match, 0)
        labels = jnp.where(positive, jnp.take_along_axis(ground_truth.labels, index, axis=1), -1)
        # negatives get a box of two pixels around their point, so that no NaN can enter a gradient
        spare = jnp.concatenate([points - 1.0, points + 1.0], axis=-1)
        boxes = jnp.take_along_axis(ground_truth.boxes, index[..., None], axis=1)
        boxes = jnp.where(positive[..., None], boxes, spare).astype(distances.dtype)
        predicted = geometry.decode_distances(points, jnp.where(positive[..., None], distances, 1.0))

        count = jnp.maximum(self.mean_over_devices(jnp.sum(positive).astype(distances.dtype)), 1.0)
        loss_class = jnp.sum(losses.focal(logits, losses.one_hot(labels, self.num_classes))) / count

        target = jnp.where(positive, geometry.centerness(points, boxes), 0.0)
        box_loss = losses.iou(predicted, boxes) if self.box_loss == "iou" else losses.giou(predicted, boxes)
        weight = jnp.maximum(self.mean_over_devices(jnp.sum(target)), 1e-6)
        loss_box = self.box_loss_weight * jnp.sum(box_loss * target) / weight

        center_loss = losses.binary_cross_entropy(center_logits, target)
        loss_centerness = jnp.sum(jnp.where(positive, center_loss, 0.0)) / count
        return {"loss_class": loss_class, "loss_box": loss_box, "loss_centerness": loss_centerness}

    def detect(self, images: jax.Array, image_sizes: jax.Array) -> Detections:
        sizes = image_sizes_or_canvas(images, image_sizes)
        return self.detect_from_maps(self.features(images, sizes), sizes)

    def detect_from_maps(self, maps: Maps, sizes: jax.Array) -> Detections:
        """`detect` from the raw predictions; sizes: (b, 2). Candidates are ranked by class alone."""
        boxes, scores, ranks = [], [], []
        for level, points in enumerate(self.points(shapes_of(maps["class"]))):
            logits, distances, center = (maps[name][level] for name in ("class", "box", "centerness"))
            score = jax.nn.sigmoid(logits.reshape(logits.shape[0], -1, self.num_classes))
            distances = distances.reshape(distances.shape[0], -1, 4)
            boxes.append(geometry.decode_distances(points[None].astype(distances.dtype), distances))
            scores.append(score * jax.nn.sigmoid(center.reshape(center.shape[0], -1, 1)))
            ranks.append(jnp.where(score > self.score_threshold, score, 0.0))
        candidates = postprocess.select_levels(boxes, scores, ranks, self.nms_candidates)
        return postprocess.detections(candidates, sizes, self.nms_threshold, self.max_detections, "before")
