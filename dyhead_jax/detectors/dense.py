"""What detectors that predict at every cell share: two towers, the class loss, and candidates to detections."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from dyhead_jax.boxes import postprocess
from dyhead_jax.detectors import losses
from dyhead_jax.detectors.detector import Detector, Maps, flatten
from dyhead_jax.detectors.towers import Tower
from dyhead_jax.dyhead.branches import Level, for_classification, for_regression
from dyhead_jax.types import Detections


class DenseDetector(Detector):
    """Base of the one-stage detectors. A subclass makes `class_tower` and `box_tower` in its `setup`.

    detect_from_maps: candidates -> the best of each level -> NMS.

    towers: convolutions before the predictors (0 puts DyHead in their place); norm_groups: of their GroupNorm, 0 for no
    norm; tower_bias: of the convolutions, beside the norm. score_threshold: pairs of anchor and class up to it are no
    candidates; nms_candidates: kept a level before NMS; clip_boxes: a `postprocess.ClipBoxes`.
    """

    class_parameters: ClassVar = {"class_predictor": "classes"}  # see training/parameters.py
    towers: int = 4
    norm_groups: int = 32
    tower_bias: bool = False
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    nms_candidates: int = 1000
    max_detections: int = 100
    clip_boxes: postprocess.ClipBoxes = postprocess.ClipBoxes.BEFORE

    def predict(self, pyramid: list[Level]) -> Maps:
        """See `predict_from_towers`. Where a level is a `Branches`, each tower reads its own map of it."""
        class_features = [self.class_tower(for_classification(level)) for level in pyramid]
        box_features = [self.box_tower(for_regression(level)) for level in pyramid]
        return self.predict_from_towers(class_features, box_features)

    def predict_from_towers(self, class_features: list[jax.Array], box_features: list[jax.Array]) -> Maps:
        """`predict` from the towers' results, (b, h_l, w_l, c) of each level."""
        raise TypeError(f"{type(self).__name__} does not define predict_from_towers")

    def candidates(self, maps: Maps) -> list[postprocess.LevelScores]:
        """The boxes of each level, with their scores."""
        raise TypeError(f"{type(self).__name__} does not define candidates")

    def detect_from_maps(self, maps: Maps, sizes: jax.Array) -> Detections:
        """`detect` from the raw predictions; sizes: (b, 2)."""
        candidates = postprocess.select_levels(self.candidates(maps), self.nms_candidates)
        return postprocess.detections(candidates, sizes, self.nms_threshold, self.max_detections, self.clip_boxes)

    def rank_above_threshold(self, scores: jax.Array, rank: jax.Array) -> jax.Array:
        """`rank`, or 0 where `scores` of the same shape are not above score_threshold."""
        return jnp.where(scores > self.score_threshold, rank, 0.0)

    def class_loss(self, maps: list[jax.Array], labels: jax.Array, trains: jax.Array | None = None) -> jax.Array:
        """Sum of the focal loss. maps: logits (b, h_l, w_l, a * q); labels: (b, n), negative for background; trains:
        (b or 1, n) bool, what counts, None: everything."""
        logits = flatten(maps, self.num_classes)
        loss = losses.focal(logits, losses.one_hot(labels, self.num_classes))
        return jnp.sum(loss if trains is None else jnp.where(trains[..., None], loss, 0.0))

    def make_tower(self) -> Tower:
        """A new tower, to be called in `setup`."""
        return Tower(
            self.towers, self.neck.features, norm_groups=self.norm_groups, bias=self.tower_bias, dtype=self.dtype
        )
