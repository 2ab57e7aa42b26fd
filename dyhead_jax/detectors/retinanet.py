"""RetinaNet (Lin et al. 2017): nine anchors a cell; class and box; assignment by IoU.

Coordinates: pixels of the padded input; boxes are deltas from anchors with sides of `anchor_base` strides and up.
Source: mmdetection `RetinaHead`. The towers stay behind DyHead, as in the released code, unless `towers` is 0.
"""

import jax
import jax.numpy as jnp

from dyhead_jax.boxes import anchors as grids
from dyhead_jax.boxes import assign, geometry, postprocess
from dyhead_jax.detectors import losses
from dyhead_jax.detectors.detector import Detector, Maps, flatten, image_sizes_or_canvas, shapes_of
from dyhead_jax.detectors.towers import Tower, predictor, prior_bias, widen
from dyhead_jax.types import Detections, GroundTruth


class RetinaNet(Detector):
    """a = octaves * len(ratios) anchors a cell, ratios outside; towers and predictors shared over levels.

    Anchors with an IoU of at least positive_iou, and the best ones of each box, are positive; below negative_iou they
    are negative; the rest, and those beyond an image's own padding, do not train. min_positive_iou: 0 as in the
    reference, where a box that no anchor touches takes every anchor that it touches not.
    Initialisation: convolutions N(0, 0.01), class bias -log(99), the rest 0.
    """

    towers: int = 4
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
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    nms_candidates: int = 1000
    max_detections: int = 100

    def setup(self):
        features, each = self.neck.features, self.octaves * len(self.ratios)
        self.class_tower = Tower(self.towers, features, norm_groups=0, dtype=self.dtype)
        self.box_tower = Tower(self.towers, features, norm_groups=0, dtype=self.dtype)
        self.class_predictor = predictor(each * self.num_classes, self.kernel, self.dtype, None, prior_bias())
        self.box_predictor = predictor(each * 4, self.kernel, self.dtype, None)

    def predict(self, pyramid: list[jax.Array]) -> Maps:
        """ "class" logits (b, h, w, a * q) and "box" deltas (b, h, w, a * 4) of each level."""
        return {
            "class": [widen(self.class_predictor(self.class_tower(x))) for x in pyramid],
            "box": [widen(self.box_predictor(self.box_tower(x))) for x in pyramid],
        }

    def anchors(self, shapes: list[tuple[int, int]]) -> list[jax.Array]:
        """(h * w * a, 4) of each level."""
        scales = grids.octaves(self.anchor_base, self.octaves)
        levels = grids.anchors(shapes, self.strides, scales, self.ratios, self.center_offset)
        return [jnp.asarray(level) for level in levels]

    def match(self, shapes: list[tuple[int, int]], ground_truth: GroundTruth) -> tuple[jax.Array, jax.Array]:
        """Matched box of each anchor (b, n) (see `assign`), and which anchors take part (b or 1, n)."""
        valid = self.in_own_padding(ground_truth.sizes, shapes, self.octaves * len(self.ratios))
        anchors = jnp.concatenate(self.anchors(shapes))
        real = ground_truth.mask & ~ground_truth.crowd  # crowds train neither way

        def each(boxes, mask, valid):
            return assign.max_iou(
                anchors,
                boxes,
                mask,
                valid,
                positive=self.positive_iou,
                negative=self.negative_iou,
                min_positive=self.min_positive_iou,
            )

        valid_each = jnp.broadcast_to(valid, (real.shape[0], valid.shape[1]))
        return jax.vmap(each)(ground_truth.boxes, real, valid_each), valid

    def losses(self, images: jax.Array, ground_truth: GroundTruth, train: bool = True) -> dict[str, jax.Array]:
        """loss_class (focal) and loss_box (L1 of the deltas), over the number of positives."""
        maps = self.features(images, ground_truth.sizes, train)
        return self.losses_from_maps(maps, ground_truth)

    def losses_from_maps(self, maps: Maps, ground_truth: GroundTruth) -> dict[str, jax.Array]:
        """`losses` from the raw predictions."""
        shapes = shapes_of(maps["class"])
        logits, deltas = flatten(maps["class"], self.num_classes), flatten(maps["box"], 4)
        anchors = jnp.concatenate(self.anchors(shapes)).astype(deltas.dtype)
        match, _ = self.match(shapes, ground_truth)
        positive = match >= 0
        index = jnp.maximum(match, 0)
        labels = jnp.where(positive, jnp.take_along_axis(ground_truth.labels, index, axis=1), -1)
        # the others borrow their own anchor as target, so that no NaN can enter
        boxes = jnp.take_along_axis(ground_truth.boxes, index[..., None], axis=1)
        boxes = jnp.where(positive[..., None], boxes, anchors[None]).astype(deltas.dtype)

        # an image without positives counts as one
        counts = jnp.maximum(jnp.sum(positive, axis=1), 1).astype(deltas.dtype)
        count = self.mean_over_devices(jnp.sum(counts))
        trains = match != assign.Anchor.IGNORED
        class_loss = losses.focal(logits, losses.one_hot(labels, self.num_classes))
        loss_class = jnp.sum(jnp.where(trains[..., None], class_loss, 0.0)) / count

        box_loss = losses.l1(deltas, geometry.encode_deltas(anchors[None], boxes, self.box_std))
        loss_box = self.box_loss_weight * jnp.sum(jnp.where(positive[..., None], box_loss, 0.0)) / count
        return {"loss_class": loss_class, "loss_box": loss_box}

    def detect(self, images: jax.Array, image_sizes: jax.Array) -> Detections:
        sizes = image_sizes_or_canvas(images, image_sizes)
        return self.detect_from_maps(self.features(images, sizes), sizes)

    def detect_from_maps(self, maps: Maps, sizes: jax.Array) -> Detections:
        """`detect` from the raw predictions; sizes: (b, 2)."""
        boxes, scores, ranks = [], [], []
        anchors = self.anchors(shapes_of(maps["class"]))
        for prior, logits, deltas in zip(anchors, maps["class"], maps["box"], strict=True):
            deltas = deltas.reshape(deltas.shape[0], -1, 4)
            boxes.append(geometry.decode_deltas(prior[None].astype(deltas.dtype), deltas, self.box_std, "both"))
            score = jax.nn.sigmoid(logits.reshape(logits.shape[0], -1, self.num_classes))
            scores.append(score)
            ranks.append(jnp.where(score > self.score_threshold, score, 0.0))
        candidates = postprocess.select_levels(boxes, scores, ranks, self.nms_candidates)
        return postprocess.detections(candidates, sizes, self.nms_threshold, self.max_detections, "before")
