"""Faster R-CNN (Ren et al. 2015) on a feature pyramid (Lin et al. 2017): proposals, RoIAlign, class and box of each.

Coordinates: pixels of the padded input; boxes are deltas from anchors (first stage) and from proposals (second stage).
Everything has a fixed size: proposals are padded to a count and masked, samples too. DyHead runs on the pyramid before
the region proposals, as in the released code. As the paper draws it (section 3.4), scale and spatial attention run
there (`dyhead.task = "none"`) and task attention takes the place of the fully connected layers (`head.task`).
Sources: mmdetection's `RPNHead` and `Shared2FCBBoxHead`; the official DynamicHead code is of the detectron2 lineage,
and where the two differ a field says so.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.boxes import anchors as grids
from dyhead_jax.boxes import assign, geometry
from dyhead_jax.boxes.nms import nms
from dyhead_jax.boxes.roi_align import roi_align, roi_levels
from dyhead_jax.boxes.subsample import Sample, sample
from dyhead_jax.detectors import losses
from dyhead_jax.detectors.detector import Detector, Maps, flatten, image_sizes_or_canvas, shapes_of
from dyhead_jax.detectors.towers import Tower, predictor, small_normal, widen
from dyhead_jax.dyhead.head import make
from dyhead_jax.types import Detections, GroundTruth


class Proposals(NamedTuple):
    """Best first. boxes: (b, p, 4), zero where empty; scores: (b, p); mask: (b, p)."""

    boxes: jax.Array
    scores: jax.Array
    mask: jax.Array


class RoIHead(nn.Module):
    """Pooled features to class logits and deltas for each class.

    layers: fully connected layers of fc_features channels, Xavier-uniform; or, with `task`, attentions of that class or
    import path in their place, on the pooled map. Predictors N(0, 0.01) and N(0, 0.001). Features are flattened channel
    first, as checkpoints of PyTorch have them.
    """

    num_classes: int
    layers: int = 2
    fc_features: int = 1024
    task: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x: (n, s, s, c). Returns (n, q + 1) logits, the background last, and (n, q, 4) deltas, both float32."""
        if self.task != "none":
            for i in range(self.layers):
                x = make(self.task, f"task_{i}", features=x.shape[-1], dtype=self.dtype)(x)
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        if self.task == "none":
            for i in range(self.layers):
                dense = nn.Dense(
                    self.fc_features, kernel_init=nn.initializers.xavier_uniform(), dtype=self.dtype, name=f"fc_{i}"
                )
                x = nn.relu(dense(x))
        classes = nn.Dense(self.num_classes + 1, kernel_init=small_normal, dtype=self.dtype, name="class_predictor")
        deltas = nn.Dense(
            4 * self.num_classes, kernel_init=nn.initializers.normal(0.001), dtype=self.dtype, name="box_predictor"
        )
        return widen(classes(x)), widen(deltas(x)).reshape(-1, self.num_classes, 4)


class FasterRCNN(Detector):
    """Two stages: anchors to class-blind proposals, then proposals to classes and boxes.

    First stage: anchor_scale, anchor_ratios, center_offset; rpn_convs 3x3 convolutions before the predictors; an anchor
    is positive from rpn_positive IoU on, or as a box's best one from rpn_min_positive on, negative below rpn_negative;
    rpn_samples of them train, at most rpn_positive_fraction positive. A level's proposals_before best go to NMS
    (rpn_nms_threshold, level by level), the `proposals` best go on; both as (training, inference).
    Second stage: roi_levels finest levels are pooled, a box of side finest_scale on the first; roi_samples proposals
    and ground-truth boxes train, at most roi_positive_fraction of them with IoU of at least roi_positive.
    nms_candidates: (proposal, class) pairs kept before the last NMS; mmdetection keeps all.
    Lineage, official first: delta_clamp "upper" or "both"; train_in_padding, empty_counts_one as in `ATSS`.
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
    task: str = "none"
    box_std: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    delta_clamp: str = "upper"
    train_in_padding: bool = True
    empty_counts_one: bool = False
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    nms_candidates: int = 5000
    max_detections: int = 100

    def setup(self):
        if not 1 <= self.roi_levels <= self.neck.levels:
            raise ValueError(f"head roi_levels is {self.roi_levels}; the pyramid has {self.neck.levels} levels")
        each = len(self.anchor_ratios)
        self.rpn_tower = Tower(self.rpn_convs, self.rpn_features, norm_groups=0, dtype=self.dtype)
        self.rpn_class_predictor = predictor(each, 1, self.dtype, None)
        self.rpn_box_predictor = predictor(4 * each, 1, self.dtype, None)
        self.roi_head = RoIHead(self.num_classes, self.layers, self.fc_features, self.task, self.dtype)

    def predict(self, pyramid: list[jax.Array]) -> Maps:
        """First stage: "objectness" logits (b, h, w, a) and "proposal" deltas (b, h, w, a * 4) of each level."""
        maps: Maps = {"objectness": [], "proposal": []}
        for x in pyramid:
            x = self.rpn_tower(x)
            maps["objectness"].append(widen(self.rpn_class_predictor(x)))
            maps["proposal"].append(widen(self.rpn_box_predictor(x)))
        return maps

    def anchors(self, shapes: list[tuple[int, int]]) -> list[jax.Array]:
        """(n_l, 4) of each level."""
        levels = grids.anchors(
            shapes, self.strides, (self.anchor_scale,), self.anchor_ratios, center_offset=self.center_offset
        )
        return [jnp.asarray(level) for level in levels]

    def propose(self, maps: Maps, sizes: jax.Array, train: bool) -> Proposals:
        """Proposals of the first stage, clipped to the images' `sizes` (b, 2), without gradient."""
        before, keep = (pair[0 if train else 1] for pair in (self.proposals_before, self.proposals))
        boxes, scores, levels = [], [], []
        for level, prior in enumerate(self.anchors(shapes_of(maps["objectness"]))):
            logits, deltas = jax.lax.stop_gradient((maps["objectness"][level], maps["proposal"][level]))
            deltas = deltas.reshape(deltas.shape[0], -1, 4)
            # a score of 0 would mean that there is no box
            score = jnp.maximum(jax.nn.sigmoid(logits.reshape(logits.shape[0], -1)), jnp.finfo(logits.dtype).tiny)
            score, index = jax.lax.top_k(score, min(before, score.shape[1]))
            deltas = jnp.take_along_axis(deltas, index[..., None], axis=1)
            box = geometry.decode_deltas(prior.astype(deltas.dtype)[index], deltas, self.rpn_box_std, self.delta_clamp)
            boxes.append(geometry.clip(box, sizes[:, None, :]))
            scores.append(score)
            levels.append(jnp.full(score.shape, level, jnp.int32))
        boxes, scores, levels = (jnp.concatenate(parts, axis=1) for parts in (boxes, scores, levels))
        has_area = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
        scores = jnp.where(has_area, scores, 0.0)
        suppress = lambda b, s, n: nms(b, s, n, self.rpn_nms_threshold, keep)  # noqa: E731
        index, mask = jax.vmap(suppress)(boxes, scores, levels)
        boxes = jnp.where(mask[..., None], jnp.take_along_axis(boxes, index[..., None], axis=1), 0.0)
        return Proposals(boxes, jnp.where(mask, jnp.take_along_axis(scores, index, axis=1), 0.0), mask)

    def second_stage(self, pyramid: list[jax.Array], rois: jax.Array) -> tuple[jax.Array, jax.Array]:
        """rois: (b, r, 4). Returns logits (b, r, q + 1), the background last, and deltas (b, r, q, 4)."""
        pooled = roi_align(
            pyramid[: self.roi_levels],
            rois,
            roi_levels(rois, self.roi_levels, self.finest_scale),
            self.strides[: self.roi_levels],
            size=self.roi_size,
            sampling_ratio=self.roi_sampling_ratio,
        )
        logits, deltas = self.roi_head(pooled.reshape(-1, *pooled.shape[2:]))
        return logits.reshape(*rois.shape[:2], -1), deltas.reshape(*rois.shape[:2], self.num_classes, 4)

    def match(self, shapes: list[tuple[int, int]], ground_truth: GroundTruth) -> jax.Array:
        """First stage: the box of each anchor (b, n), or NEGATIVE or IGNORED (see `assign`)."""
        sizes = None if self.train_in_padding else ground_truth.sizes
        valid = self.in_own_padding(sizes, shapes, each=len(self.anchor_ratios))
        anchors = jnp.concatenate(self.anchors(shapes)).astype(ground_truth.boxes.dtype)
        real = ground_truth.mask & ~ground_truth.crowd  # both references train without crowds

        def each(boxes: jax.Array, mask: jax.Array, valid: jax.Array) -> jax.Array:
            return assign.max_iou(
                anchors,
                boxes,
                mask,
                valid,
                positive=self.rpn_positive,
                negative=self.rpn_negative,
                min_positive=self.rpn_min_positive,
            )

        return jax.vmap(each)(ground_truth.boxes, real, jnp.broadcast_to(valid, (real.shape[0], valid.shape[1])))

    def match_proposals(self, proposals: Proposals, ground_truth: GroundTruth) -> tuple[jax.Array, jax.Array]:
        """Second stage: its candidates (b, m + p, 4), the ground truth before the proposals, and the box of each."""
        real = ground_truth.mask & ~ground_truth.crowd

        def each(candidates: jax.Array, mask: jax.Array, boxes: jax.Array, real: jax.Array) -> jax.Array:
            threshold = self.roi_positive
            found = assign.max_iou(
                candidates, boxes, real, mask, positive=threshold, negative=threshold, low_quality=False
            )
            own = jnp.where(real, jnp.arange(real.shape[0]), assign.Anchor.IGNORED).astype(jnp.int32)
            return jnp.concatenate([own, found])

        match = jax.vmap(each)(proposals.boxes, proposals.mask, ground_truth.boxes, real)
        boxes = ground_truth.boxes.astype(proposals.boxes.dtype)
        return jnp.concatenate([boxes, proposals.boxes], axis=1), match

    def losses(self, images: jax.Array, ground_truth: GroundTruth, train: bool = True) -> dict[str, jax.Array]:
        """loss_rpn_class (binary cross-entropy), loss_rpn_box (L1), loss_class (cross-entropy), loss_box (L1)."""
        maps = self.features(images, ground_truth.sizes, train)
        return self.losses_from_maps(maps, ground_truth, image_sizes_or_canvas(images, ground_truth.sizes))

    def losses_from_maps(self, maps: Maps, ground_truth: GroundTruth, sizes: jax.Array) -> dict[str, jax.Array]:
        """`losses` from the raw predictions and the pyramid maps["dyhead"]."""
        proposals = self.propose(maps, sizes, train=True)
        candidates, match = self.match_proposals(proposals, ground_truth)
        chosen = self._sample(match, self.roi_samples, self.roi_positive_fraction)
        rois = jnp.take_along_axis(candidates, chosen.index[..., None], axis=1)
        rois = jax.lax.stop_gradient(jnp.where(chosen.mask[..., None], rois, 0.0))
        match = jnp.maximum(jnp.take_along_axis(match, chosen.index, axis=1), 0)
        logits, deltas = self.second_stage(maps["dyhead"], rois)

        labels = jnp.where(chosen.positive, jnp.take_along_axis(ground_truth.labels, match, axis=1), self.num_classes)
        class_loss = losses.cross_entropy(logits, labels)
        count = jnp.maximum(self.mean_over_devices(jnp.sum(chosen.mask).astype(jnp.float32)), 1.0)
        own = jnp.minimum(labels, self.num_classes - 1)[..., None, None]
        deltas = jnp.take_along_axis(deltas, own, axis=2)[:, :, 0]
        box_loss = self._box_loss(rois, deltas, match, chosen.positive, ground_truth, self.box_std)
        return self._rpn_losses(maps, ground_truth) | {
            "loss_class": jnp.sum(jnp.where(chosen.mask, class_loss, 0.0)) / count,
            "loss_box": box_loss / count,
        }

    def _rpn_losses(self, maps: Maps, ground_truth: GroundTruth) -> dict[str, jax.Array]:
        shapes = shapes_of(maps["objectness"])
        match = self.match(shapes, ground_truth)
        chosen = self._sample(match, self.rpn_samples, self.rpn_positive_fraction)
        logits = jnp.take_along_axis(flatten(maps["objectness"], 1)[..., 0], chosen.index, axis=1)
        deltas = jnp.take_along_axis(flatten(maps["proposal"], 4), chosen.index[..., None], axis=1)
        anchors = jnp.concatenate(self.anchors(shapes)).astype(deltas.dtype)[chosen.index]
        match = jnp.maximum(jnp.take_along_axis(match, chosen.index, axis=1), 0)

        positives = jnp.sum(chosen.positive, axis=1)
        negatives = jnp.sum(chosen.mask & ~chosen.positive, axis=1)
        if self.empty_counts_one:
            positives, negatives = jnp.maximum(positives, 1), jnp.maximum(negatives, 1)
        count = jnp.sum(positives + negatives).astype(jnp.float32)
        count = jnp.maximum(self.mean_over_devices(count), 1.0)
        class_loss = losses.binary_cross_entropy(logits, chosen.positive.astype(logits.dtype))
        box_loss = self._box_loss(anchors, deltas, match, chosen.positive, ground_truth, self.rpn_box_std)
        return {
            "loss_rpn_class": jnp.sum(jnp.where(chosen.mask, class_loss, 0.0)) / count,
            "loss_rpn_box": box_loss / count,
        }

    def _sample(self, match: jax.Array, count: int, fraction: float) -> Sample:
        """Of each image's matches (b, n)."""
        key = self.make_rng("sampling") if self.has_rng("sampling") else None
        if key is None:  # every image alike, so that its losses do not depend on its place in the batch
            keys = jnp.repeat(jax.random.key(0)[None], match.shape[0])
        else:
            keys = jax.random.split(key, match.shape[0])
        draw = lambda k, m: sample(k, m >= 0, m == assign.Anchor.NEGATIVE, count, fraction)  # noqa: E731
        return jax.vmap(draw)(keys, match)

    def _box_loss(self, priors, deltas, match, positive, ground_truth: GroundTruth, std) -> jax.Array:
        """Sum of L1 over the positives' four deltas (all but the last axis of priors and deltas: (b, s))."""
        boxes = jnp.take_along_axis(ground_truth.boxes, match[..., None], axis=1).astype(deltas.dtype)
        unit = jnp.asarray([0.0, 0.0, 1.0, 1.0], deltas.dtype).reshape(1, 1, 4)
        # others get a unit box as prior and target, so that no NaN can enter a gradient
        boxes = jnp.where(positive[..., None], boxes, unit)
        priors = jnp.where(positive[..., None], priors, unit)
        target = geometry.encode_deltas(priors, boxes, std)
        return jnp.sum(jnp.where(positive[..., None], jnp.abs(deltas - target), 0.0))

    def detect(self, images: jax.Array, image_sizes: jax.Array) -> Detections:
        sizes = image_sizes_or_canvas(images, image_sizes)
        return self.detect_from_maps(self.features(images, sizes), sizes)

    def detect_from_maps(self, maps: Maps, sizes: jax.Array) -> Detections:
        """`detect` from the raw predictions and the pyramid maps["dyhead"]; sizes: (b, 2)."""
        proposals = self.propose(maps, sizes, train=False)
        logits, deltas = self.second_stage(maps["dyhead"], proposals.boxes)
        scores = jax.nn.softmax(logits)[..., :-1]
        scores = jnp.where((scores > self.score_threshold) & proposals.mask[..., None], scores, 0.0)
        boxes = geometry.decode_deltas(proposals.boxes[:, :, None, :], deltas, self.box_std, self.delta_clamp)
        boxes = geometry.clip(boxes, sizes[:, None, None, :])

        def each(boxes: jax.Array, scores: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            score, pair = jax.lax.top_k(scores.reshape(-1), min(self.nms_candidates, scores.size))
            box, label = boxes.reshape(-1, 4)[pair], (pair % self.num_classes).astype(jnp.int32)
            index, real = nms(box, score, label, self.nms_threshold, self.max_detections)
            box = jnp.where(real[:, None], box[index], 0.0)
            return box, jnp.where(real, score[index], 0.0), jnp.where(real, label[index], -1)

        boxes, scores, labels = jax.vmap(each)(boxes, scores)
        return Detections(boxes=boxes, scores=scores, labels=labels)
