"""BorderDet (Qiu et al. 2020): FCOS, then a second class and box from features along each coarse box's own borders.

Coordinates: see `points`. Border alignment works in cells of a level.
Source: the official code, with the loss normalisers of its first release, which the published numbers come from.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.boxes import assign, geometry
from dyhead_jax.boxes.postprocess import ClipBoxes, LevelScores
from dyhead_jax.detectors import losses
from dyhead_jax.detectors.detector import Maps, flatten, flatten_levels, shapes_of
from dyhead_jax.detectors.points import PointDetector
from dyhead_jax.detectors.targets import Matched, gather, trained_boxes
from dyhead_jax.detectors.towers import predictor, prior_bias, small_normal, widen
from dyhead_jax.ops.border_align import border_align_levels
from dyhead_jax.types import GroundTruth

Targets = tuple[Matched, jax.Array, Matched]


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
        point_conv = self._conv(self.border_features, "point_conv")
        side_conv = self._conv(4 * self.border_features, "side_conv")
        merge_conv = self._conv(self.features, "merge_conv")
        points = [nn.relu(instance_norm(point_conv(x))) for x in pyramid]
        sides = [nn.relu(instance_norm(side_conv(x))) for x in pyramid]
        sides = [
            side.reshape(*x.shape[:3], -1)
            for side, x in zip(border_align_levels(sides, boxes, self.pool_size), pyramid, strict=True)
        ]
        merged = [jnp.concatenate(pair, axis=-1) for pair in zip(sides, points, strict=True)]
        return [nn.relu(merge_conv(x)) for x in merged]

    def _conv(self, features: int, name: str) -> nn.Conv:
        return nn.Conv(features, (1, 1), kernel_init=small_normal, dtype=self.dtype, name=name)


class BorderDet(PointDetector):
    """The coarse predictions are those of `PointDetector`.

    border_class_features, border_box_features: channels of a side in the two border branches; pool_size: see
    `border_align`. A coarse box whose IoU with a true box is at least border_iou is corrected to it; border_std scales
    the corrections. Initialisation as in `PointDetector`.
    """

    tower_bias: bool = True
    center_offset: float = 0.0
    class_parameters: ClassVar = {"class_predictor": "classes", "border_class_predictor": "classes"}
    border_class_features: int = 256
    border_box_features: int = 128
    pool_size: int = 10
    center_radius: float = 1.5
    border_iou: float = 0.6
    border_std: float = 0.5
    nms_threshold: float = 0.6
    clip_boxes: ClipBoxes = ClipBoxes.AFTER

    def setup(self):
        super().setup()
        shared = (self.neck.features, self.pool_size, self.dtype)
        self.border_class = BorderBranch(self.border_class_features, *shared)
        self.border_box = BorderBranch(self.border_box_features, *shared)
        self.border_class_predictor = predictor(self.num_classes, 1, self.dtype, None, prior_bias())
        self.border_box_predictor = predictor(4, 1, self.dtype, None)

    def predict_from_towers(self, class_features: list[jax.Array], box_features: list[jax.Array]) -> Maps:
        """Of each level "class" logits (b, h, w, q), "box" distances in pixels (b, h, w, 4), "centerness" logits
        (b, h, w, 1), "border_class" logits (b, h, w, q) and "border_box" corrections (b, h, w, 4)."""
        # the order counts: the gradient of a tower's result is a sum over what reads it, rounded in that order
        boxes = [
            nn.relu(widen(self.box_predictor(x)) * self.scales[level]) * self.strides[level]
            for level, x in enumerate(box_features)
        ]
        maps = {
            "class": [widen(self.class_predictor(x)) for x in class_features],
            "box": boxes,
            "centerness": [widen(self.centerness_predictor(x)) for x in box_features],
        }
        cells = self.border_cells(self.coarse_boxes(boxes), boxes)
        maps["border_class"] = [widen(self.border_class_predictor(x)) for x in self.border_class(class_features, cells)]
        maps["border_box"] = [widen(self.border_box_predictor(x)) for x in self.border_box(box_features, cells)]
        return maps

    def coarse_boxes(self, distances: list[jax.Array]) -> list[jax.Array]:
        """(b, h * w, 4) of each level from its distances (b, h, w, 4): not clipped, without gradient."""
        levels = zip(
            self.points(shapes_of(distances)), jax.lax.stop_gradient(flatten_levels(distances, 4)), strict=True
        )
        return [geometry.decode_distances(points[None].astype(flat.dtype), flat) for points, flat in levels]

    def border_cells(self, boxes: list[jax.Array], maps: list[jax.Array]) -> list[jax.Array]:
        """Coarse boxes (b, h * w, 4) of each level, in pixels, as cells of that level's map (b, h, w, .), inside it."""
        levels = []
        for box, x, stride in zip(boxes, maps, self.strides, strict=True):
            limit = jnp.asarray([x.shape[2] - 1, x.shape[1] - 1] * 2, box.dtype).reshape(1, 1, 4)
            levels.append(jnp.clip(box / stride, 0.0, limit))
        return levels

    def match(self, maps: Maps, ground_truth: GroundTruth) -> tuple[jax.Array, jax.Array]:
        """Matched box of each point, (b, n) (see `assign`), for the coarse predictions and for the border ones.

        A border prediction is matched with the box that the coarse box overlaps most, whichever box its point is
        matched with. Points in the padding are negatives.
        """
        shapes = shapes_of(maps["class"])
        coarse = jnp.concatenate(self.coarse_boxes(maps["box"]), axis=1)

        def match_image(boxes: jax.Array, mask: jax.Array, coarse: jax.Array) -> tuple[jax.Array, jax.Array]:
            border = assign.max_iou(
                coarse, boxes, mask, positive=self.border_iou, negative=self.border_iou, low_quality=False
            )
            return self.match_image(shapes, boxes, mask), border

        return jax.vmap(match_image)(ground_truth.boxes, trained_boxes(ground_truth), coarse)

    def targets(self, maps: Maps, ground_truth: GroundTruth) -> Targets:
        """What each point has to predict, the centreness (b, n), 0 where not positive, and the border targets.

        The spare coarse box and the spare target of a border negative are a box of one pixel.
        """
        match, border_match = self.match(maps, ground_truth)
        unit = jnp.asarray([0.0, 0.0, 1.0, 1.0], maps["box"][0].dtype).reshape(1, 1, 4)
        return *self.matched_points(maps, match, ground_truth), gather(border_match, ground_truth, unit)

    def normalizers(self, targets: Targets) -> dict[str, jax.Array]:
        """The positives, the sum of their centreness, and the positives of the border predictions."""
        coarse, centerness, border = targets
        totals = {
            "positives": jnp.sum(coarse.positive),
            "centerness": jnp.sum(centerness),
            "border_positives": jnp.sum(border.positive),
        }
        return {name: total.astype(jnp.float32) for name, total in totals.items()}

    def loss_terms(self, maps: Maps, targets: Targets, normalizers: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """loss_class, loss_border_class (focal), loss_box (GIoU weighted by centreness), loss_centerness (binary
        cross-entropy), loss_border_box (L1)."""
        coarse, centerness, border = targets
        count, weight, border_count = (
            jnp.maximum(normalizers[name], 1.0) for name in ("positives", "centerness", "border_positives")
        )
        box_loss, center_loss = self._coarse_losses(maps, coarse, centerness)
        return {
            "loss_class": self.class_loss(maps["class"], coarse.labels) / count,
            "loss_box": box_loss / weight,
            "loss_centerness": center_loss / count,
            "loss_border_class": self.class_loss(maps["border_class"], border.labels) / border_count,
            "loss_border_box": self._border_box_loss(maps, border) / border_count,
        }

    def _coarse_losses(self, maps: Maps, matched: Matched, centerness: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Sums of the box loss, weighted by centreness, and of the centreness loss."""
        distances, center_logits = flatten(maps["box"], 4), flatten(maps["centerness"], 1)[..., 0]
        distances = jnp.where(matched.positive[..., None], distances, 1.0)
        target = geometry.encode_distances(self.points_of(maps), matched.boxes)
        box_loss = losses.giou(_around_point(distances), _around_point(target)) * centerness
        center_loss = losses.binary_cross_entropy(center_logits, centerness)
        return jnp.sum(box_loss), jnp.sum(jnp.where(matched.positive, center_loss, 0.0))

    def _border_box_loss(self, maps: Maps, matched: Matched) -> jax.Array:
        """Sum of the L1 of the corrections."""
        corrections = flatten(maps["border_box"], 4)
        # coarse boxes without extent are never positive, but would divide by zero
        unit = jnp.asarray([0.0, 0.0, 1.0, 1.0], corrections.dtype).reshape(1, 1, 4)
        coarse = jnp.concatenate(self.coarse_boxes(maps["box"]), axis=1)
        coarse = jnp.where(matched.positive[..., None], coarse, unit)
        size = jnp.tile(coarse[..., 2:] - coarse[..., :2], 2)
        target = (matched.boxes - coarse) / (size * self.border_std)
        return jnp.sum(jnp.where(matched.positive[..., None], losses.l1(corrections, target), 0.0))

    def candidates(self, maps: Maps) -> list[LevelScores]:
        """Scores are (class x centreness)^(1/4) x border class^(1/2); the threshold is on the coarse score, sqrt(class
        x centreness)."""
        predictions = [
            flatten_levels(maps[name], channels)
            for name, channels in (
                ("class", self.num_classes), ("centerness", 1), ("border_class", self.num_classes), ("border_box", 4)
            )
        ]  # fmt: skip
        levels = []
        for coarse, logits, center_logits, border_logits, corrections in zip(
            self.coarse_boxes(maps["box"]), *predictions, strict=True
        ):
            coarse_scores = jnp.sqrt(jax.nn.sigmoid(logits) * jax.nn.sigmoid(center_logits))
            product = coarse_scores * jax.nn.sigmoid(border_logits)
            size = jnp.tile(coarse[..., 2:] - coarse[..., :2], 2)
            boxes = coarse + corrections * self.border_std * size
            levels.append(LevelScores(boxes, jnp.sqrt(product), self.rank_above_threshold(coarse_scores, product)))
        return levels


def _around_point(distances: jax.Array) -> jax.Array:
    """Distances (..., 4) to the box that has them from the point (0, 0)."""
    return jnp.concatenate([-distances[..., :2], distances[..., 2:]], axis=-1)
