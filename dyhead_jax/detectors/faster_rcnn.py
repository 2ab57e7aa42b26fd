"""Faster R-CNN (Ren et al. 2015) on a feature pyramid (Lin et al. 2017): proposals, RoIAlign, class and box of each.

Coordinates: pixels of the padded input; boxes are deltas from anchors (first stage) and from proposals (second stage).
Everything has a fixed size: proposals and samples are padded to a count and masked. DyHead runs on the pyramid before
the region proposals, as in the released code. In the paper's drawing (section 3.4), scale and spatial attention run
there (`dyhead.task = "none"`) and task attention takes the place of the fully connected layers (`head.task`).
Sources: mmdetection's `RPNHead` and `Shared2FCBBoxHead`; the official DynamicHead code is of the detectron2 lineage,
and where the two differ a field says so.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dyhead_jax.boxes import anchors, assign, geometry
from dyhead_jax.boxes.nms import nms
from dyhead_jax.boxes.postprocess import mark_broken
from dyhead_jax.boxes.roi_align import roi_align, roi_levels
from dyhead_jax.boxes.subsample import Sample, sample
from dyhead_jax.detectors import losses
from dyhead_jax.detectors.detector import Detector, Maps, flatten, flatten_levels, shapes_of
from dyhead_jax.detectors.roi_head import RoIHead
from dyhead_jax.detectors.targets import Matched, gather, match_images, trained_boxes
from dyhead_jax.detectors.towers import Tower, predictor, widen
from dyhead_jax.dyhead.branches import Level, merged
from dyhead_jax.types import Detections, GroundTruth


class Proposals(NamedTuple):
    """Best first. boxes: (b, p, 4), zero where empty; scores: (b, p); mask: (b, p)."""

    boxes: jax.Array
    scores: jax.Array
    mask: jax.Array


class Sampled(NamedTuple):
    """Anchors or proposals that train, s of each image.

    index: (b, s), of the anchor or candidate; mask: (b, s), False where empty; priors: (b, s, 4), their boxes; matched:
    what they have to predict.
    """

    index: jax.Array
    mask: jax.Array
    priors: jax.Array
    matched: Matched


class FasterRCNN(Detector):
    """Two stages: anchors to class-blind proposals, then proposals to classes and boxes.

    First stage: anchor_scale, anchor_ratios, center_offset; rpn_convs 3x3 convolutions before the predictors. An anchor
    is positive if its IoU is at least rpn_positive, or at least rpn_min_positive and the best of a box; it is negative
    below rpn_negative. rpn_samples of them train, at most rpn_positive_fraction positive. The proposals_before best of
    each level go to NMS (rpn_nms_threshold, level by level), the `proposals` best go on; both (training, inference).
    Second stage: the roi_levels finest levels are pooled, a box of side finest_scale from the first. roi_samples
    proposals and ground-truth boxes train; a positive has an IoU of at least roi_positive, and at most
    roi_positive_fraction are positive.
    nms_candidates: (proposal, class) pairs kept before the last NMS; mmdetection keeps all.
    Lineage, official first: delta_clamp a `DeltaClamp`; train_in_padding, empty_counts_one as in `ATSS`.
    Samples are drawn with the random stream "sampling"; without it (evaluation of losses) with a fixed key.
    """

    anchor_scale: float = 8.0
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    center_offset: float = 0.0
    rpn_convs: int = 1
    rpn_features: int = 256
    rpn_box_std: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    rpn_positive: float = 0.7
    rpn_negative: float = 0.3
    rpn_min_positive: float = 0.3
    rpn_samples: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_nms_threshold: float = 0.7
    proposals_before: tuple[int, int] = (2000, 1000)
    proposals: tuple[int, int] = (1000, 1000)
    roi_levels: int = 4
    roi_size: int = 7
    roi_sampling_ratio: int = 0
    finest_scale: float = 56.0
    roi_positive: float = 0.5
    roi_samples: int = 512
    roi_positive_fraction: float = 0.25
    layers: int = 2
    fc_features: int = 1024
    task: Any = None
    box_std: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    delta_clamp: geometry.DeltaClamp = geometry.DeltaClamp.UPPER
    train_in_padding: bool = True
    empty_counts_one: bool = False
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    nms_candidates: int = 5000
    max_detections: int = 100

    def setup(self):
        self.check_choices()
        if not 1 <= self.roi_levels <= self.neck.levels:
            raise ValueError(f"head roi_levels is {self.roi_levels}; the pyramid has {self.neck.levels} levels")
        anchors_per_cell = len(self.anchor_ratios)
        self.rpn_tower = Tower(self.rpn_convs, self.rpn_features, norm_groups=0, dtype=self.dtype)
        self.rpn_class_predictor = predictor(anchors_per_cell, 1, self.dtype, None)
        self.rpn_box_predictor = predictor(4 * anchors_per_cell, 1, self.dtype, None)
        self.roi_head = RoIHead(self.num_classes, self.layers, self.fc_features, self.task, self.dtype, self.axis_name)

    def predict(self, pyramid: list[Level]) -> Maps:
        """First stage: "objectness" logits (b, h, w, a) and "proposal" deltas (b, h, w, a * 4) of each level."""
        features = [self.rpn_tower(merged(level)) for level in pyramid]
        return {
            "objectness": [widen(self.rpn_class_predictor(x)) for x in features],
            "proposal": [widen(self.rpn_box_predictor(x)) for x in features],
        }

    def anchors(self, shapes: list[tuple[int, int]]) -> list[jax.Array]:
        """(n_l, 4) of each level."""
        levels = anchors.anchors(
            shapes, self.strides, (self.anchor_scale,), self.anchor_ratios, center_offset=self.center_offset
        )
        return [jnp.asarray(level) for level in levels]

    def propose(self, maps: Maps, sizes: jax.Array, train: bool) -> Proposals:
        """Proposals of the first stage, clipped to the images' `sizes` (b, 2), without gradient."""
        before, keep = (pair[0 if train else 1] for pair in (self.proposals_before, self.proposals))
        boxes, scores, levels = [], [], []
        predictions = flatten_levels(maps["objectness"], 1), flatten_levels(maps["proposal"], 4)
        priors = self.anchors(shapes_of(maps["objectness"]))
        for level, (prior, logits, deltas) in enumerate(zip(priors, *jax.lax.stop_gradient(predictions), strict=True)):
            # a score of 0 would mean that there is no box
            score = jnp.maximum(jax.nn.sigmoid(logits[..., 0]), jnp.finfo(logits.dtype).tiny)
            score, index = jax.lax.top_k(score, min(before, score.shape[1]))
            deltas = jnp.take_along_axis(deltas, index[..., None], axis=1)
            box = geometry.decode_deltas(prior.astype(deltas.dtype)[index], deltas, self.rpn_box_std, self.delta_clamp)
            boxes.append(geometry.clip(box, sizes[:, None, :]))
            scores.append(score)
            levels.append(jnp.full(score.shape, level, jnp.int32))
        boxes, scores, levels = (jnp.concatenate(parts, axis=1) for parts in (boxes, scores, levels))
        has_area = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
        scores = jnp.where(has_area, scores, 0.0)
        suppress = jax.vmap(lambda boxes, scores, levels: nms(boxes, scores, levels, self.rpn_nms_threshold, keep))
        index, mask = suppress(boxes, scores, levels)
        boxes = jnp.where(mask[..., None], jnp.take_along_axis(boxes, index[..., None], axis=1), 0.0)
        return Proposals(boxes, jnp.where(mask, jnp.take_along_axis(scores, index, axis=1), 0.0), mask)

    def second_stage(self, pyramid: list[Level], rois: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """rois: (b, r, 4), pixels. Returns logits (b, r, q + 1), the background last, and deltas (b, r, q, 4)."""
        pooled = roi_align(
            [merged(level) for level in pyramid[: self.roi_levels]],
            rois,
            roi_levels(rois, self.roi_levels, self.finest_scale),
            self.strides[: self.roi_levels],
            size=self.roi_size,
            sampling_ratio=self.roi_sampling_ratio,
        )
        logits, deltas = self.roi_head(pooled.reshape(-1, *pooled.shape[2:]), train)
        return logits.reshape(*rois.shape[:2], -1), deltas.reshape(*rois.shape[:2], self.num_classes, 4)

    def match(self, shapes: list[tuple[int, int]], ground_truth: GroundTruth) -> jax.Array:
        """First stage: the box of each anchor (b, n), or NEGATIVE or IGNORED (see `assign`)."""
        sizes = None if self.train_in_padding else ground_truth.sizes
        valid = self.in_own_padding(sizes, shapes, len(self.anchor_ratios))
        priors = jnp.concatenate(self.anchors(shapes)).astype(ground_truth.boxes.dtype)

        def match_image(boxes: jax.Array, mask: jax.Array, valid: jax.Array) -> jax.Array:
            return assign.max_iou(
                priors,
                boxes,
                mask,
                valid,
                positive=self.rpn_positive,
                negative=self.rpn_negative,
                min_positive=self.rpn_min_positive,
            )

        return match_images(match_image, ground_truth, valid)

    def match_proposals(self, proposals: Proposals, ground_truth: GroundTruth) -> tuple[jax.Array, jax.Array]:
        """Second stage: its candidates (b, m + p, 4), the ground truth before the proposals, and the box of each."""
        real = trained_boxes(ground_truth)

        def match_image(candidates: jax.Array, mask: jax.Array, boxes: jax.Array, real: jax.Array) -> jax.Array:
            threshold = self.roi_positive
            match = assign.max_iou(
                candidates, boxes, real, mask, positive=threshold, negative=threshold, low_quality=False
            )
            own = jnp.where(real, jnp.arange(real.shape[0]), assign.MatchStatus.IGNORED).astype(jnp.int32)
            return jnp.concatenate([own, match])

        match = jax.vmap(match_image)(proposals.boxes, proposals.mask, ground_truth.boxes, real)
        boxes = ground_truth.boxes.astype(proposals.boxes.dtype)
        return jnp.concatenate([boxes, proposals.boxes], axis=1), match

    def targets(self, maps: Maps, ground_truth: GroundTruth) -> tuple[Sampled, Sampled]:
        """The anchors and the proposals that train. Raises ValueError where ground_truth.sizes is None."""
        if ground_truth.sizes is None:
            raise ValueError("FasterRCNN needs the sizes of the images: ground_truth.sizes is None")
        # the order of the draws belongs to the results: proposals, then anchors
        candidates, match = self.match_proposals(self.propose(maps, ground_truth.sizes, train=True), ground_truth)
        chosen = self._sample(match, self.roi_samples, self.roi_positive_fraction)
        rois = jnp.take_along_axis(candidates, chosen.index[..., None], axis=1)
        rois = jax.lax.stop_gradient(jnp.where(chosen.mask[..., None], rois, 0.0))
        proposals = _sampled(chosen, rois, match, ground_truth)

        shapes = shapes_of(maps["objectness"])
        match = self.match(shapes, ground_truth)
        chosen = self._sample(match, self.rpn_samples, self.rpn_positive_fraction)
        priors = jnp.concatenate(self.anchors(shapes)).astype(maps["proposal"][0].dtype)[chosen.index]
        return _sampled(chosen, priors, match, ground_truth), proposals

    def normalizers(self, targets: tuple[Sampled, Sampled]) -> dict[str, jax.Array]:
        """The sampled anchors and the sampled proposals."""
        anchors, proposals = targets
        positives = jnp.sum(anchors.matched.positive, axis=1)
        negatives = jnp.sum(anchors.mask & ~anchors.matched.positive, axis=1)
        if self.empty_counts_one:
            positives, negatives = jnp.maximum(positives, 1), jnp.maximum(negatives, 1)
        return {
            "anchors": jnp.sum(positives + negatives).astype(jnp.float32),
            "proposals": jnp.sum(proposals.mask).astype(jnp.float32),
        }

    def loss_terms(
        self, maps: Maps, targets: tuple[Sampled, Sampled], normalizers: dict[str, jax.Array], train: bool = False
    ) -> dict[str, jax.Array]:
        """loss_rpn_class (binary cross-entropy), loss_rpn_box (L1), loss_class (cross-entropy), loss_box (L1)."""
        anchors, proposals = targets
        anchor_count, proposal_count = (jnp.maximum(normalizers[name], 1.0) for name in ("anchors", "proposals"))
        objectness = jnp.take_along_axis(flatten(maps["objectness"], 1)[..., 0], anchors.index, axis=1)
        deltas = jnp.take_along_axis(flatten(maps["proposal"], 4), anchors.index[..., None], axis=1)
        rpn_class = losses.binary_cross_entropy(objectness, anchors.matched.positive.astype(objectness.dtype))
        rpn_box = _box_loss(anchors, deltas, self.rpn_box_std)

        logits, class_deltas = self.second_stage(maps["dyhead"], proposals.priors, train)
        labels = jnp.where(proposals.matched.positive, proposals.matched.labels, self.num_classes)
        own = jnp.minimum(labels, self.num_classes - 1)[..., None, None]
        roi_class = losses.cross_entropy(logits, labels)
        roi_box = _box_loss(proposals, jnp.take_along_axis(class_deltas, own, axis=2)[:, :, 0], self.box_std)
        return {
            "loss_rpn_class": jnp.sum(jnp.where(anchors.mask, rpn_class, 0.0)) / anchor_count,
            "loss_rpn_box": rpn_box / anchor_count,
            "loss_class": jnp.sum(jnp.where(proposals.mask, roi_class, 0.0)) / proposal_count,
            "loss_box": roi_box / proposal_count,
        }

    def _sample(self, match: jax.Array, count: int, fraction: float) -> Sample:
        """Of each image's matches (b, n)."""
        key = self.make_rng("sampling") if self.has_rng("sampling") else None
        if key is None:  # the same for all images, so that an image's losses do not depend on its place in the batch
            keys = jnp.repeat(jax.random.key(0)[None], match.shape[0])
        else:
            keys = jax.random.split(key, match.shape[0])

        def sample_image(key: jax.Array, match: jax.Array) -> Sample:
            return sample(key, match >= 0, match == assign.MatchStatus.NEGATIVE, count, fraction)

        return jax.vmap(sample_image)(keys, match)

    def detect_from_maps(self, maps: Maps, sizes: jax.Array) -> Detections:
        """`detect` from the raw predictions and the pyramid maps["dyhead"]; sizes: (b, 2)."""
        proposals = self.propose(maps, sizes, train=False)
        logits, deltas = self.second_stage(maps["dyhead"], proposals.boxes)
        scores = jax.nn.softmax(logits)[..., :-1]
        scores = jnp.where((scores > self.score_threshold) & proposals.mask[..., None], scores, 0.0)
        boxes = geometry.decode_deltas(proposals.boxes[:, :, None, :], deltas, self.box_std, self.delta_clamp)
        boxes = geometry.clip(boxes, sizes[:, None, None, :])

        def detect_image(boxes: jax.Array, scores: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            score, pair = jax.lax.top_k(scores.reshape(-1), min(self.nms_candidates, scores.size))
            box, label = boxes.reshape(-1, 4)[pair], (pair % self.num_classes).astype(jnp.int32)
            index, real = nms(box, score, label, self.nms_threshold, self.max_detections)
            box = jnp.where(real[:, None], box[index], 0.0)
            return box, jnp.where(real, score[index], 0.0), jnp.where(real, label[index], -1)

        boxes, scores, labels = jax.vmap(detect_image)(boxes, scores)
        return mark_broken(Detections(boxes=boxes, scores=scores, labels=labels), (logits, deltas))


def _sampled(chosen: Sample, priors: jax.Array, match: jax.Array, ground_truth: GroundTruth) -> Sampled:
    """priors: (b, s, 4) of the sample; match: (b, n) of all. The spare box of what is not positive is one pixel."""
    match = jnp.take_along_axis(match, chosen.index, axis=1)
    match = jnp.where(chosen.positive, match, assign.MatchStatus.NEGATIVE)
    unit = jnp.asarray([0.0, 0.0, 1.0, 1.0], priors.dtype).reshape(1, 1, 4)
    return Sampled(chosen.index, chosen.mask, priors, gather(match, ground_truth, unit))


def _box_loss(sampled: Sampled, deltas: jax.Array, std: tuple[float, ...]) -> jax.Array:
    """Sum of L1 over the positives' deltas (b, s, 4)."""
    positive = sampled.matched.positive[..., None]
    # what is not positive has a unit box for prior and target, so that no NaN can enter a gradient
    unit = jnp.asarray([0.0, 0.0, 1.0, 1.0], deltas.dtype).reshape(1, 1, 4)
    target = geometry.encode_deltas(jnp.where(positive, sampled.priors, unit), sampled.matched.boxes, std)
    return jnp.sum(jnp.where(positive, losses.l1(deltas, target), 0.0))
