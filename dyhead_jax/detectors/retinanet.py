"""RetinaNet (Lin et al. 2017): nine anchors a cell; class and box; assignment by IoU.

Coordinates: pixels of the padded input; boxes are deltas from anchors with sides of `anchor_base` strides and up.
Source: mmdetection `RetinaHead`. The towers stay behind DyHead, as in the released code, unless `towers` is 0.
"""

import jax
import jax.numpy as jnp

from dyhead_jax.boxes import anchors, assign, geometry
from dyhead_jax.boxes.postprocess import LevelScores
from dyhead_jax.detectors import losses
from dyhead_jax.detectors.dense import DenseDetector
from dyhead_jax.detectors.detector import Maps, flatten, flatten_levels, shapes_of
from dyhead_jax.detectors.targets import Matched, gather, match_images
from dyhead_jax.detectors.towers import predictor, prior_bias, widen
from dyhead_jax.types import GroundTruth


class RetinaNet(DenseDetector):
    """a = octaves * len(ratios) anchors a cell, ratios outside; towers and predictors shared over levels.

    Anchors with an IoU of at least positive_iou, and the best ones of each box, are positive; below negative_iou they
    are negative; the rest, and those beyond an image's own padding, do not train. min_positive_iou: the least IoU of a
    box's best anchors. With 0, as in the reference, a box that touches no anchor takes all anchors, as all are best.
    Initialisation: convolutions N(0, 0.01), class bias -log(99), the rest 0.
    """

    norm_groups: int = 0
    kernel: int = 3
    anchor_base: float = 4.0
    octaves: int = 3
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    center_offset: float = 0.0
    positive_iou: float = 0.5
    negative_iou: float = 0.4
    min_positive_iou: float = 0.0
    box_std: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    box_loss_weight: float = 1.0

    def setup(self):
        self.class_tower, self.box_tower = self.make_tower(), self.make_tower()
        channels = self.anchors_per_cell * self.num_classes
        self.class_predictor = predictor(channels, self.kernel, self.dtype, None, prior_bias())
        self.box_predictor = predictor(self.anchors_per_cell * 4, self.kernel, self.dtype, None)

    @property
    def anchors_per_cell(self) -> int:
        return self.octaves * len(self.ratios)

    def predict_from_towers(self, class_features: list[jax.Array], box_features: list[jax.Array]) -> Maps:
        """ "class" logits (b, h, w, a * q) and "box" deltas (b, h, w, a * 4) of each level."""
        return {
            "class": [widen(self.class_predictor(x)) for x in class_features],
            "box": [widen(self.box_predictor(x)) for x in box_features],
        }

    def anchors(self, shapes: list[tuple[int, int]]) -> list[jax.Array]:
        """(h * w * a, 4) of each level."""
        scales = anchors.octaves(self.anchor_base, self.octaves)
        levels = anchors.anchors(shapes, self.strides, scales, self.ratios, self.center_offset)
        return [jnp.asarray(level) for level in levels]

    def match(self, shapes: list[tuple[int, int]], ground_truth: GroundTruth) -> tuple[jax.Array, jax.Array]:
        """Matched box of each anchor (b, n) (see `assign`), and which anchors take part (b or 1, n)."""
        valid = self.in_own_padding(ground_truth.sizes, shapes, self.anchors_per_cell)
        priors = jnp.concatenate(self.anchors(shapes))

        def match_image(boxes: jax.Array, mask: jax.Array, valid: jax.Array) -> jax.Array:
            return assign.max_iou(
                priors,
                boxes,
                mask,
                valid,
                positive=self.positive_iou,
                negative=self.negative_iou,
                min_positive=self.min_positive_iou,
            )

        return match_images(match_image, ground_truth, valid), valid

    def targets(self, maps: Maps, ground_truth: GroundTruth) -> Matched:
        """Of each anchor; the spare box of a negative is the anchor itself."""
        match, _ = self.match(shapes_of(maps["class"]), ground_truth)
        return gather(match, ground_truth, self._anchors_of(maps))

    def normalizers(self, targets: Matched) -> dict[str, jax.Array]:
        """The positives."""
        return {"positives": targets.count()}

    def loss_terms(self, maps: Maps, targets: Matched, normalizers: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """loss_class (focal) and loss_box (L1 of the deltas), over the number of positives."""
        count = normalizers["positives"]
        trains = targets.match != assign.MatchStatus.IGNORED
        loss_class = self.class_loss(maps["class"], targets.labels, trains) / count

        deltas = flatten(maps["box"], 4)
        box_loss = losses.l1(deltas, geometry.encode_deltas(self._anchors_of(maps), targets.boxes, self.box_std))
        total = jnp.sum(jnp.where(targets.positive[..., None], box_loss, 0.0))
        return {"loss_class": loss_class, "loss_box": self.box_loss_weight * total / count}

    def _anchors_of(self, maps: Maps) -> jax.Array:
        """(1, n, 4) in the dtype of the boxes."""
        return jnp.concatenate(self.anchors(shapes_of(maps["class"]))).astype(maps["box"][0].dtype)[None]

    def candidates(self, maps: Maps) -> list[LevelScores]:
        """Scores are those of the class."""
        levels = []
        predictions = flatten_levels(maps["class"], self.num_classes), flatten_levels(maps["box"], 4)
        for priors, logits, deltas in zip(self.anchors(shapes_of(maps["class"])), *predictions, strict=True):
            boxes = geometry.decode_deltas(priors[None].astype(deltas.dtype), deltas, self.box_std)
            scores = jax.nn.sigmoid(logits)
            levels.append(LevelScores(boxes, scores, self.rank_above_threshold(scores, scores)))
        return levels
