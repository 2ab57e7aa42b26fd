"""BorderDet (Qiu et al. 2020): FCOS, then a second class and box from features along each coarse box's own borders.

Coordinates: pixels of the padded input; the point of cell (i, j) is ((j + center_offset) * stride,
(i + center_offset) * stride), its distances are (left, top, right, bottom). Border alignment works in cells of a level.
Source: the official code, with the loss normalisers of its first release, which the published numbers come from.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dyhead_jax.boxes import anchors as grids
from dyhead_jax.boxes import assign, geometry, postprocess
from dyhead_jax.detectors import losses
from dyhead_jax.detectors.detector import Detector, Maps, flatten, image_sizes_or_canvas, shapes_of
from dyhead_jax.detectors.towers import Tower, predictor, prior_bias, small_normal, widen
from dyhead_jax.ops.border_align import border_align_levels
from dyhead_jax.types import Detections, GroundTruth


def instance_norm(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """(b, h, w, c) to mean 0 and variance 1 over each map, nothing learned; in float32 or wider. A 1x1 map gives 0."""
    wide = widen(x)
    gap = wide - jnp.mean(wide, axis=(1, 2), keepdims=True)
    variance = jnp.mean(gap * gap, axis=(1, 2), keepdims=True)
    return (gap * jax.lax.rsqrt(variance + epsilon)).astype(x.dtype)


class BorderBranch(nn.Module):
    """A tower's features at a point and at the four sides of its box, merged. Convolutions N(0, 0.01), bias 0.

    border_features: of each side and of the point; features: of the result.
    """

    border_features: int
    features: int
    pool_size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pyramid: list[jax.Array], boxes: list[jax.Array]) -> list[jax.Array]:
        """pyramid: (b, h_l, w_l, c); boxes: (b, h_l * w_l, 4) in cells. Returns (b, h_l, w_l, features) each."""
        conv = lambda n, name: nn.Conv(n, (1, 1), kernel_init=small_normal, dtype=self.dtype, name=name)  # noqa: E731
        point_conv, side_conv = conv(self.border_features, "point_conv"), conv(4 * self.border_features, "side_conv")
        merge_conv = conv(self.features, "merge_conv")
        points = [nn.relu(instance_norm(point_conv(x))) for x in pyramid]
        sides = [nn.relu(instance_norm(side_conv(x))) for x in pyramid]
        sides = [
            side.reshape(*x.shape[:3], -1)
            for side, x in zip(border_align_levels(sides, boxes, self.pool_size), pyramid, strict=True)
        ]
        merged = [jnp.concatenate(pair, axis=-1) for pair in zip(sides, points, strict=True)]
        return [nn.relu(merge_conv(x)) for x in merged]


class BorderDet(Detector):
    """Towers and predictors shared over levels, with a learned scale for each level's distances.

    towers: conv-GN-ReLU layers (0 puts DyHead in their place) with norm_groups; kernel: of the coarse predictors.
    border_class_features, border_box_features: channels of a side in the two border branches; pool_size: see
    `border_align`. level_limits divide 0 to infinity between the levels, in pixels; center_radius in strides; coarse
    boxes of at least border_iou with the truth are corrected to it, border_std scales those corrections.
    Initialisation: convolutions N(0, 0.01), class biases -log(99), the rest 0; scales 1.
    """

    towers: int = 4
    norm_groups: int = 32
    kernel: int = 3
    center_offset: float = 0.0
    border_class_features: int = 256
    border_box_features: int = 128
    pool_size: int = 10
    level_limits: tuple[float, ...] = (64.0, 128.0, 256.0, 512.0)
    center_radius: float = 1.5
    border_iou: float = 0.6
    border_std: float = 0.5
    score_threshold: float = 0.05
    nms_threshold: float = 0.6
    nms_candidates: int = 1000
    max_detections: int = 100

    def setup(self):
        if len(self.level_limits) != self.neck.levels - 1:
            raise ValueError(f"BorderDet level_limits {self.level_limits} do not divide {self.neck.levels} levels")
        features = self.neck.features
        options = {"norm_groups": self.norm_groups, "bias": True, "dtype": self.dtype}
        self.class_tower = Tower(self.towers, features, **options)
        self.box_tower = Tower(self.towers, features, **options)
        self.class_predictor = predictor(self.num_classes, self.kernel, self.dtype, None, prior_bias())
        self.box_predictor = predictor(4, self.kernel, self.dtype, None)
        self.centerness_predictor = predictor(1, self.kernel, self.dtype, None)
        self.scales = self.param("scales", nn.initializers.ones, (self.neck.levels,))
        branch = lambda n: BorderBranch(n, features, self.pool_size, self.dtype)  # noqa: E731
        self.border_class, self.border_box = branch(self.border_class_features), branch(self.border_box_features)
        self.border_class_predictor = predictor(self.num_classes, 1, self.dtype, None, prior_bias())
        self.border_box_predictor = predictor(4, 1, self.dtype, None)

    def predict(self, pyramid: list[jax.Array]) -> Maps:
        """Of each level "class" logits (b, h, w, q), "box" distances in pixels (b, h, w, 4), "centerness" logits
        (b, h, w, 1), "border_class" logits (b, h, w, q) and "border_box" corrections (b, h, w, 4)."""
        maps: Maps = {"class": [], "box": [], "centerness": [], "border_class": [], "border_box": []}
        class_pyramid, box_pyramid = [self.class_tower(x) for x in pyramid], [self.box_tower(x) for x in pyramid]
        for level, (class_x, box_x) in enumerate(zip(class_pyramid, box_pyramid, strict=True)):
            distances = nn.relu(widen(self.box_predictor(box_x)) * self.scales[level])
            maps["class"].append(widen(self.class_predictor(class_x)))
            maps["box"].append(distances * self.strides[level])
            maps["centerness"].append(widen(self.centerness_predictor(box_x)))
        cells = self.border_cells(self.coarse_boxes(maps["box"]), maps["box"])
        maps["border_class"] = [widen(self.border_class_predictor(x)) for x in self.border_class(class_pyramid, cells)]
        maps["border_box"] = [widen(self.border_box_predictor(x)) for x in self.border_box(box_pyramid, cells)]
        return maps

    def points(self, shapes: list[tuple[int, int]]) -> list[jax.Array]:
        """(h * w, 2) as (x, y) of each level."""
        return [jnp.asarray(level) for level in grids.points(shapes, self.strides, self.center_offset)]

    def coarse_boxes(self, distances: list[jax.Array]) -> list[jax.Array]:
        """(b, h * w, 4) of each level from its distances (b, h, w, 4): not clipped, without gradient."""
        points = self.points(shapes_of(distances))
        flat = [jax.lax.stop_gradient(d.reshape(d.shape[0], -1, 4)) for d in distances]
        return [geometry.decode_distances(p[None].astype(d.dtype), d) for p, d in zip(points, flat, strict=True)]

    def border_cells(self, boxes: list[jax.Array], maps: list[jax.Array]) -> list[jax.Array]:
        """Coarse boxes (b, h * w, 4) of each level, in pixels, as cells of that level's map (b, h, w, .), inside it."""
        levels = []
        for box, x, stride in zip(boxes, maps, self.strides, strict=True):
            limit = jnp.asarray([x.shape[2] - 1, x.shape[1] - 1] * 2, box.dtype).reshape(1, 1, 4)
            levels.append(jnp.clip(box / stride, 0.0, limit))
        return levels

    def match(self, maps: Maps, ground_truth: GroundTruth) -> tuple[jax.Array, jax.Array]:
        """Matched box of each point, (b, n) (see `assign`), for the coarse predictions and for the border ones.

        The latter answer for the truth that the coarse box overlaps most, whichever point it comes from. Points in the
        padding are negatives.
        """
        shapes = shapes_of(maps["class"])
        counts = [h * w for h, w in shapes]
        points = jnp.concatenate(self.points(shapes))
        limits = (-1.0, *self.level_limits, math.inf)
        ranges = jnp.asarray(np.repeat(np.stack([limits[:-1], limits[1:]], axis=1), counts, axis=0), jnp.float32)
        radius = jnp.asarray(np.repeat(np.asarray(self.strides) * self.center_radius, counts), jnp.float32)
        coarse = jnp.concatenate(self.coarse_boxes(maps["box"]), axis=1)
        real = ground_truth.mask & ~ground_truth.crowd  # crowds train neither way

        def each(boxes: jax.Array, mask: jax.Array, coarse: jax.Array) -> tuple[jax.Array, jax.Array]:
            border = assign.max_iou(
                coarse, boxes, mask, positive=self.border_iou, negative=self.border_iou, low_quality=False
            )
            return assign.fcos(points, boxes, mask, ranges, radius), border

        return jax.vmap(each)(ground_truth.boxes, real, coarse)

    def losses(self, images: jax.Array, ground_truth: GroundTruth, train: bool = True) -> dict[str, jax.Array]:
        """loss_class, loss_border_class (focal), loss_box (GIoU weighted by centreness), loss_centerness (binary
        cross-entropy), loss_border_box (L1)."""
        maps = self.features(images, ground_truth.sizes, train)
        return self.losses_from_maps(maps, ground_truth)

    def losses_from_maps(self, maps: Maps, ground_truth: GroundTruth) -> dict[str, jax.Array]:
        """`losses` from the raw predictions."""
        match, border_match = self.match(maps, ground_truth)
        return self._coarse_losses(maps, ground_truth, match) | self._border_losses(maps, ground_truth, border_match)

    def _coarse_losses(self, maps: Maps, ground_truth: GroundTruth, match: jax.Array) -> dict[str, jax.Array]:
        distances, center_logits = flatten(maps["box"], 4), flatten(maps["centerness"], 1)[..., 0]
        points = jnp.concatenate(self.points(shapes_of(maps["class"]))).astype(distances.dtype)[None]
        positive, boxes, loss_class = self._class_loss(maps["class"], ground_truth, match)
        # negatives get a box of two pixels around their point, so that no NaN can enter a gradient
        spare = jnp.concatenate([points - 1.0, points + 1.0], axis=-1)
        boxes = jnp.where(positive[..., None], boxes.astype(distances.dtype), spare)
        target = jnp.where(positive, geometry.centerness(points, boxes), 0.0)

        around = lambda d: jnp.concatenate([-d[..., :2], d[..., 2:]], axis=-1)  # noqa: E731  boxes seen from the point
        predicted = around(jnp.where(positive[..., None], distances, 1.0))
        box_loss = losses.giou(predicted, around(geometry.encode_distances(points, boxes))) * target
        center_loss = jnp.where(positive, losses.binary_cross_entropy(center_logits, target), 0.0)
        return {
            "loss_class": loss_class,
            "loss_box": jnp.sum(box_loss) / self._at_least_one(jnp.sum(target)),
            "loss_centerness": jnp.sum(center_loss) / self._at_least_one(jnp.sum(positive)),
        }

    def _border_losses(self, maps: Maps, ground_truth: GroundTruth, match: jax.Array) -> dict[str, jax.Array]:
        corrections = flatten(maps["border_box"], 4)
        positive, boxes, loss_class = self._class_loss(maps["border_class"], ground_truth, match)
        # coarse boxes without extent are never positive, but would divide by zero
        unit = jnp.asarray([0.0, 0.0, 1.0, 1.0], corrections.dtype).reshape(1, 1, 4)
        coarse = jnp.where(positive[..., None], jnp.concatenate(self.coarse_boxes(maps["box"]), axis=1), unit)
        size = jnp.tile(coarse[..., 2:] - coarse[..., :2], 2)
        target = (boxes.astype(coarse.dtype) - coarse) / (size * self.border_std)
        box_loss = jnp.where(positive[..., None], jnp.abs(corrections - target), 0.0)
        count = self._at_least_one(jnp.sum(positive))
        return {"loss_border_class": loss_class, "loss_border_box": jnp.sum(box_loss) / count}

    def _class_loss(self, maps: list[jax.Array], ground_truth: GroundTruth, match: jax.Array):
        """Which points are positive (b, n), their boxes (b, n, 4), and the loss of their classes."""
        positive, index = match >= 0, jnp.maximum(match, 0)
        labels = jnp.where(positive, jnp.take_along_axis(ground_truth.labels, index, axis=1), -1)
        loss = losses.focal(flatten(maps, self.num_classes), losses.one_hot(labels, self.num_classes))
        boxes = jnp.take_along_axis(ground_truth.boxes, index[..., None], axis=1)
        return positive, boxes, jnp.sum(loss) / self._at_least_one(jnp.sum(positive))

    def _at_least_one(self, total: jax.Array) -> jax.Array:
        return jnp.maximum(self.mean_over_devices(total.astype(jnp.float32)), 1.0)

    def detect(self, images: jax.Array, image_sizes: jax.Array) -> Detections:
        sizes = image_sizes_or_canvas(images, image_sizes)
        return self.detect_from_maps(self.features(images, sizes), sizes)

    def detect_from_maps(self, maps: Maps, sizes: jax.Array) -> Detections:
        """`detect` from the raw predictions; sizes: (b, 2). Scores are (class x centreness)^(1/4) x border class^(1/2),
        candidates those whose coarse score sqrt(class x centreness) is above the threshold."""
        boxes, scores, ranks = [], [], []
        for level, coarse in enumerate(self.coarse_boxes(maps["box"])):
            names = ("class", "centerness", "border_class", "border_box")
            logits, center, border, corrections = (
                maps[name][level].reshape(coarse.shape[0], coarse.shape[1], -1) for name in names
            )
            first = jnp.sqrt(jax.nn.sigmoid(logits) * jax.nn.sigmoid(center))
            both = first * jax.nn.sigmoid(border)
            size = jnp.tile(coarse[..., 2:] - coarse[..., :2], 2)
            boxes.append(coarse + corrections * self.border_std * size)
            scores.append(jnp.sqrt(both))
            ranks.append(jnp.where(first > self.score_threshold, both, 0.0))
        candidates = postprocess.select_levels(boxes, scores, ranks, self.nms_candidates)
        return postprocess.detections(candidates, sizes, self.nms_threshold, self.max_detections, "after")
