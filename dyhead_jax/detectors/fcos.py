"""FCOS (Tian et al. 2019): one point a cell; class, distances to the four sides, centreness.

Coordinates: see `points`.
Source: mmdetection `FCOSHead`, plain (the defaults) and with centre sampling, normalised boxes and centreness on the
box tower (`center_radius` 1.5, `distance` "relu", `centerness_on` "box").
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.boxes import geometry
from dyhead_jax.boxes.postprocess import LevelScores
from dyhead_jax.choices import Choice
from dyhead_jax.detectors import losses
from dyhead_jax.detectors.detector import Maps, flatten, flatten_levels, shapes_of
from dyhead_jax.detectors.points import PointDetector
from dyhead_jax.detectors.targets import Matched, trained_boxes
from dyhead_jax.detectors.towers import widen
from dyhead_jax.types import GroundTruth

Targets = tuple[Matched, jax.Array]


class Distance(Choice):
    """How a prediction becomes a distance."""

    EXP = "exp"  # its exponential, in pixels
    RELU = "relu"  # its positive part, in strides


class CenternessOn(Choice):
    """The tower that predicts centreness."""

    CLASS = "class"
    BOX = "box"


class BoxLoss(Choice):
    """Of a predicted box and its target."""

    IOU = "iou"  # -log IoU
    GIOU = "giou"  # 1 - GIoU


class FCOS(PointDetector):
    """distance: a `Distance`; centerness_on: a `CenternessOn`; box_loss: a `BoxLoss`; the rest see `PointDetector`."""

    distance: Distance = Distance.EXP
    centerness_on: CenternessOn = CenternessOn.CLASS
    box_loss: BoxLoss = BoxLoss.IOU
    box_loss_weight: float = 1.0

    def setup(self):
        self.check_choices()
        super().setup()

    def predict_from_towers(self, class_features: list[jax.Array], box_features: list[jax.Array]) -> Maps:
        """ "class" logits (b, h, w, q), "box" distances in pixels (b, h, w, 4) and "centerness" logits (b, h, w, 1) of
        each level."""
        boxes = []
        for level, x in enumerate(box_features):
            box = widen(self.box_predictor(x)) * self.scales[level]
            boxes.append(jnp.exp(box) if self.distance == Distance.EXP else nn.relu(box) * self.strides[level])
        center_features = class_features if self.centerness_on == CenternessOn.CLASS else box_features
        return {
            "class": [widen(self.class_predictor(x)) for x in class_features],
            "box": boxes,
            "centerness": [widen(self.centerness_predictor(x)) for x in center_features],
        }

    def match(self, shapes: list[tuple[int, int]], ground_truth: GroundTruth) -> jax.Array:
        """Matched box of each point (b, n) (see `assign`). Points in the padding are negatives, as in the reference."""

        def match_image(boxes: jax.Array, mask: jax.Array) -> jax.Array:
            return self.match_image(shapes, boxes, mask)

        return jax.vmap(match_image)(ground_truth.boxes, trained_boxes(ground_truth))

    def targets(self, maps: Maps, ground_truth: GroundTruth) -> Targets:
        """What each point has to predict, and the centreness (b, n), 0 where not positive."""
        return self.matched_points(maps, self.match(shapes_of(maps["class"]), ground_truth), ground_truth)

    def normalizers(self, targets: Targets) -> dict[str, jax.Array]:
        """The positives and the sum of their centreness."""
        matched, centerness = targets
        positives = jnp.sum(matched.positive).astype(matched.boxes.dtype)
        return {"positives": positives, "centerness": jnp.sum(centerness)}

    def loss_terms(self, maps: Maps, targets: Targets, normalizers: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """loss_class (focal), loss_box (weighted by centreness), loss_centerness (binary cross-entropy)."""
        matched, centerness = targets
        distances, center_logits = flatten(maps["box"], 4), flatten(maps["centerness"], 1)[..., 0]
        predicted = jnp.where(matched.positive[..., None], distances, 1.0)
        predicted = geometry.decode_distances(self.points_of(maps), predicted)
        count = jnp.maximum(normalizers["positives"], 1.0)
        loss_class = self.class_loss(maps["class"], matched.labels) / count

        box_loss = losses.iou if self.box_loss == BoxLoss.IOU else losses.giou
        total = jnp.sum(box_loss(predicted, matched.boxes) * centerness)
        # 1e-6 keeps a batch without positives finite
        loss_box = self.box_loss_weight * total / jnp.maximum(normalizers["centerness"], 1e-6)

        center_loss = losses.binary_cross_entropy(center_logits, centerness)
        loss_centerness = jnp.sum(jnp.where(matched.positive, center_loss, 0.0)) / count
        return {"loss_class": loss_class, "loss_box": loss_box, "loss_centerness": loss_centerness}

    def candidates(self, maps: Maps) -> list[LevelScores]:
        """Scores are class times centreness; candidates are ranked by class alone."""
        predictions = [
            flatten_levels(maps[name], channels)
            for name, channels in (("class", self.num_classes), ("box", 4), ("centerness", 1))
        ]
        levels = []
        for points, logits, distances, center_logits in zip(
            self.points(shapes_of(maps["class"])), *predictions, strict=True
        ):
            boxes = geometry.decode_distances(points[None].astype(distances.dtype), distances)
            class_scores = jax.nn.sigmoid(logits)
            scores = class_scores * jax.nn.sigmoid(center_logits)
            levels.append(LevelScores(boxes, scores, self.rank_above_threshold(class_scores, class_scores)))
        return levels
