"""ATSS (Zhang et al. 2020): one anchor a cell; class, box and centreness; adaptive assignment.

Coordinates: pixels of the padded input; boxes are deltas from anchors of side `anchor_scale` strides.
Sources: the official head (the defaults) and mmdetection's `ATSSHead`; where the two differ a field says so.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dyhead_jax.boxes import anchors, assign, geometry
from dyhead_jax.boxes.postprocess import ClipBoxes, LevelScores
from dyhead_jax.choices import Choice
from dyhead_jax.detectors import losses
from dyhead_jax.detectors.dense import DenseDetector
from dyhead_jax.detectors.detector import Maps, flatten, flatten_levels, shapes_of
from dyhead_jax.detectors.targets import Matched, gather, match_images
from dyhead_jax.detectors.towers import predictor, prior_bias, widen
from dyhead_jax.types import GroundTruth

Targets = tuple[Matched, jax.Array, jax.Array]


class RankBy(Choice):
    """What orders the candidates of a level."""

    PRODUCT = "product"  # class times centreness, official
    CLASS = "class"  # mmdetection


class ATSS(DenseDetector):
    """One anchor a cell; predictors shared over levels, with a learned scale for each level's boxes.

    towers: conv-GN-ReLU layers before the predictors (0 behind DyHead). kernel: of the predictors.
    Lineage, official first: giou_eps a `GIoUEps`; delta_clamp a `DeltaClamp`; rank_by a `RankBy`; clip_boxes a
    `ClipBoxes`; train_in_padding: whether anchors beyond an image's own padding are candidates and negatives;
    empty_counts_one: an image without positives adds 1 to the normaliser; centerness_floor: the smallest sum of
    centreness that the box loss is divided by, none or 1; divisor_eps: added to the number of positives, and to 1 in
    the box loss, none or float32's 2^-23 (mmdetection's `weight_reduce_loss`; seen in float64 only).
    Initialisation: predictors N(0, 0.01), class bias -log(99), the rest 0; scales 1.
    """

    towers: int = 0
    kernel: int = 1
    anchor_scale: float = 8.0
    center_offset: float = 0.5
    topk: int = 9
    box_std: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    box_loss_weight: float = 2.0
    giou_eps: geometry.GIoUEps = geometry.GIoUEps.ADDED
    delta_clamp: geometry.DeltaClamp = geometry.DeltaClamp.UPPER
    rank_by: RankBy = RankBy.PRODUCT
    clip_boxes: ClipBoxes = ClipBoxes.AFTER
    train_in_padding: bool = True
    empty_counts_one: bool = False
    centerness_floor: float = 0.0
    divisor_eps: float = 0.0
    nms_threshold: float = 0.6

    def setup(self):
        self.check_choices()
        self.class_tower, self.box_tower = self.make_tower(), self.make_tower()
        self.class_predictor = predictor(self.num_classes, self.kernel, self.dtype, None, prior_bias())
        self.box_predictor = predictor(4, self.kernel, self.dtype, None)
        self.centerness_predictor = predictor(1, self.kernel, self.dtype, None)
        self.scales = self.param("scales", nn.initializers.ones, (self.neck.levels,))

    def predict_from_towers(self, class_features: list[jax.Array], box_features: list[jax.Array]) -> Maps:
        """ "class" logits (b, h, w, q), "box" deltas (b, h, w, 4), "centerness" logits (b, h, w, 1) of each level."""
        return {
            "class": [widen(self.class_predictor(x)) for x in class_features],
            "box": [widen(self.box_predictor(x)) * self.scales[level] for level, x in enumerate(box_features)],
            "centerness": [widen(self.centerness_predictor(x)) for x in box_features],
        }

    def anchors(self, shapes: list[tuple[int, int]]) -> jax.Array:
        """(n, 4) of all levels."""
        return jnp.concatenate(
            anchors.anchors(shapes, self.strides, (self.anchor_scale,), center_offset=self.center_offset)
        )

    def match(self, shapes: list[tuple[int, int]], ground_truth: GroundTruth) -> tuple[jax.Array, jax.Array]:
        """Matched box of each anchor (b, n) (see `assign`), and which anchors take part (b or 1, n)."""
        valid = self.in_own_padding(None if self.train_in_padding else ground_truth.sizes, shapes)
        priors, counts = self.anchors(shapes), [h * w for h, w in shapes]

        def match_image(boxes: jax.Array, mask: jax.Array, valid: jax.Array) -> jax.Array:
            return assign.atss(priors, counts, boxes, mask, valid, self.topk)[0]

        return match_images(match_image, ground_truth, valid), valid

    def targets(self, maps: Maps, ground_truth: GroundTruth) -> Targets:
        """What each anchor has to predict, which anchors take part (b or 1, n), and the centreness (b, n), 0 where not
        positive. The spare box of a negative is the anchor itself."""
        match, valid = self.match(shapes_of(maps["class"]), ground_truth)
        priors = self._anchors_of(maps)
        matched = gather(match, ground_truth, priors)
        centerness = geometry.centerness(geometry.center(priors), matched.boxes)
        return matched, valid, jnp.where(matched.positive, centerness, 0.0)

    def normalizers(self, targets: Targets) -> dict[str, jax.Array]:
        """The positives and the sum of their centreness."""
        matched, _, centerness = targets
        counts = jnp.sum(matched.positive, axis=1).astype(jnp.float32)
        if self.empty_counts_one:
            counts = jnp.maximum(counts, 1.0)
        return {"positives": jnp.sum(counts), "centerness": jnp.sum(centerness)}

    def loss_terms(self, maps: Maps, targets: Targets, normalizers: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """loss_class (focal), loss_box (GIoU weighted by centreness), loss_centerness (binary cross-entropy)."""
        matched, valid, centerness = targets
        deltas, center_logits = flatten(maps["box"], 4), flatten(maps["centerness"], 1)[..., 0]
        priors = self._anchors_of(maps)
        count = jnp.maximum(normalizers["positives"], 1.0).astype(deltas.dtype)
        count = count + self.divisor_eps / self.device_count  # a share: the loss is that of the batch on one device
        loss_class = self.class_loss(maps["class"], matched.labels, valid) / count

        predicted = geometry.decode_deltas(priors, deltas, self.box_std, self.delta_clamp)
        predicted = jnp.where(matched.positive[..., None], predicted, priors)
        box_loss = losses.giou(predicted, matched.boxes, self.giou_eps) * centerness
        total = jnp.sum(box_loss) / (1.0 + self.divisor_eps)
        # 1e-6 keeps a batch without positives finite
        weight = jnp.maximum(normalizers["centerness"], max(self.centerness_floor, 1e-6))

        center_loss = losses.binary_cross_entropy(center_logits, centerness)
        return {
            "loss_class": loss_class,
            "loss_box": self.box_loss_weight * total / weight,
            "loss_centerness": jnp.sum(jnp.where(matched.positive, center_loss, 0.0)) / count,
        }

    def _anchors_of(self, maps: Maps) -> jax.Array:
        """(1, n, 4) in the dtype of the boxes."""
        return self.anchors(shapes_of(maps["class"])).astype(maps["box"][0].dtype)[None]

    def candidates(self, maps: Maps) -> list[LevelScores]:
        """Scores are class times centreness, of classes above the threshold."""
        shapes = shapes_of(maps["class"])
        level_priors = jnp.split(self.anchors(shapes), np.cumsum([h * w for h, w in shapes])[:-1])
        predictions = [
            flatten_levels(maps[name], channels)
            for name, channels in (("class", self.num_classes), ("box", 4), ("centerness", 1))
        ]
        levels = []
        for priors, logits, deltas, center_logits in zip(level_priors, *predictions, strict=True):
            boxes = geometry.decode_deltas(priors[None].astype(deltas.dtype), deltas, self.box_std, self.delta_clamp)
            class_scores = jax.nn.sigmoid(logits)
            scores = class_scores * jax.nn.sigmoid(center_logits)
            rank = scores if self.rank_by == RankBy.PRODUCT else class_scores
            levels.append(LevelScores(boxes, scores, self.rank_above_threshold(class_scores, rank)))
        return levels
