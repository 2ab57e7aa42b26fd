"""ATSS (Zhang et al. 2020): one anchor a cell; class, box and centreness; adaptive assignment.

Coordinates: pixels of the padded input; boxes are deltas from anchors of side `anchor_scale` strides.
Sources: the official head (the defaults) and mmdetection's `ATSSHead`; where the two differ a field says so.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.boxes import anchors as grids
from dyhead_jax.boxes import assign, geometry, postprocess
from dyhead_jax.detectors import losses
from dyhead_jax.detectors.detector import Detector, Maps, flatten, image_sizes_or_canvas, shapes_of
from dyhead_jax.detectors.towers import Tower, predictor, prior_bias, widen
from dyhead_jax.types import Detections, GroundTruth


class ATSS(Detector):
    """One anchor a cell; predictors shared over levels, with a learned scale for each level's boxes.

    towers: conv-GN-ReLU layers before the predictors (0 behind DyHead). kernel: of the predictors.
    Lineage, official first: giou_eps "added" or "floor" (`boxes.giou`); delta_clamp "upper" or "both"
    (`boxes.decode_deltas`); rank_by "product" of class and centreness or "class" alone, for candidates kept a level;
    clip_boxes "after" or "before" NMS; train_in_padding: whether anchors beyond an image's own padding are candidates
    and negatives; empty_counts_one: an image without positives adds 1 to the normaliser; centerness_floor: least sum of
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
    giou_eps: str = "added"
    delta_clamp: str = "upper"
    rank_by: str = "product"
    clip_boxes: str = "after"
    train_in_padding: bool = True
    empty_counts_one: bool = False
    centerness_floor: float = 0.0
    divisor_eps: float = 0.0
    score_threshold: float = 0.05
    nms_threshold: float = 0.6
    nms_candidates: int = 1000
    max_detections: int = 100

    def setup(self):
        features = self.neck.features
        self.class_tower = Tower(self.towers, features, dtype=self.dtype)
        self.box_tower = Tower(self.towers, features, dtype=self.dtype)
        self.class_predictor = predictor(self.num_classes, self.kernel, self.dtype, None, prior_bias())
        self.box_predictor = predictor(4, self.kernel, self.dtype, None)
        self.centerness_predictor = predictor(1, self.kernel, self.dtype, None)
        self.scales = self.param("scales", nn.initializers.ones, (self.neck.levels,))

    def predict(self, pyramid: list[jax.Array]) -> Maps:
        """ "class" logits (b, h, w, q), "box" deltas (b, h, w, 4), "centerness" logits (b, h, w, 1) of each level."""
        maps: Maps = {"class": [], "box": [], "centerness": []}
        for level, x in enumerate(pyramid):
            class_x, box_x = self.class_tower(x), self.box_tower(x)
            maps["class"].append(widen(self.class_predictor(class_x)))
            maps["box"].append(widen(self.box_predictor(box_x)) * self.scales[level])
            maps["centerness"].append(widen(self.centerness_predictor(box_x)))
        return maps

    def anchors(self, shapes: list[tuple[int, int]]) -> jax.Array:
        """(n, 4) of all levels."""
        return jnp.concatenate(
            grids.anchors(shapes, self.strides, (self.anchor_scale,), center_offset=self.center_offset)
        )

    def match(self, shapes: list[tuple[int, int]], ground_truth: GroundTruth) -> tuple[jax.Array, jax.Array]:
        """Matched box of each anchor (b, n) (see `assign`), and which anchors take part (b or 1, n)."""
        valid = self.in_own_padding(None if self.train_in_padding else ground_truth.sizes, shapes)
        anchors, counts = self.anchors(shapes), [h * w for h, w in shapes]
        real = ground_truth.mask & ~ground_truth.crowd  # crowds train neither way, as in both references
        each = lambda boxes, mask, valid: assign.atss(anchors, counts, boxes, mask, valid, self.topk)[0]  # noqa: E731
        valid_each = jnp.broadcast_to(valid, (real.shape[0], valid.shape[1]))
        return jax.vmap(each)(ground_truth.boxes, real, valid_each), valid

    def losses(self, images: jax.Array, ground_truth: GroundTruth, train: bool = True) -> dict[str, jax.Array]:
        """loss_class (focal), loss_box (GIoU weighted by centreness), loss_centerness (binary cross-entropy)."""
        maps = self.features(images, ground_truth.sizes, train)
        return self.losses_from_maps(maps, ground_truth)

    def losses_from_maps(self, maps: Maps, ground_truth: GroundTruth) -> dict[str, jax.Array]:
        """`losses` from the raw predictions."""
        shapes = shapes_of(maps["class"])
        logits, deltas = flatten(maps["class"], self.num_classes), flatten(maps["box"], 4)
        center_logits = flatten(maps["centerness"], 1)[..., 0]
        anchors = self.anchors(shapes).astype(deltas.dtype)
        match, valid = self.match(shapes, ground_truth)
        positive = match >= 0
        index = jnp.maximum(match, 0)
        labels = jnp.where(positive, jnp.take_along_axis(ground_truth.labels, index, axis=1), -1)
        # negatives borrow their own anchor as target, so that no NaN can enter a gradient
        boxes = jnp.take_along_axis(ground_truth.boxes, index[..., None], axis=1)
        boxes = jnp.where(positive[..., None], boxes, anchors[None]).astype(deltas.dtype)

        counts = jnp.sum(positive, axis=1).astype(jnp.float32)
        if self.empty_counts_one:
            counts = jnp.maximum(counts, 1.0)
        count = jnp.maximum(self.mean_over_devices(jnp.sum(counts)), 1.0).astype(deltas.dtype)
        count = count + self.divisor_eps / self.device_count  # a share: the loss is that of the batch on one device
        class_loss = losses.focal(logits, losses.one_hot(labels, self.num_classes))
        loss_class = jnp.sum(jnp.where(valid[..., None], class_loss, 0.0)) / count

        target = geometry.centerness(geometry.center(anchors)[None], boxes)
        target = jnp.where(positive, target, 0.0)
        predicted = geometry.decode_deltas(anchors[None], deltas, self.box_std, self.delta_clamp)
        predicted = jnp.where(positive[..., None], predicted, anchors[None])
        box_loss = losses.giou(predicted, boxes, self.giou_eps) * target
        weight = self.mean_over_devices(jnp.sum(target))
        total = jnp.sum(box_loss) / (1.0 + self.divisor_eps)
        # 1e-6 keeps a batch without positives finite
        loss_box = self.box_loss_weight * total / jnp.maximum(weight, max(self.centerness_floor, 1e-6))

        center_loss = losses.binary_cross_entropy(center_logits, target)
        loss_centerness = jnp.sum(jnp.where(positive, center_loss, 0.0)) / count
        return {"loss_class": loss_class, "loss_box": loss_box, "loss_centerness": loss_centerness}

    def detect(self, images: jax.Array, image_sizes: jax.Array) -> Detections:
        sizes = image_sizes_or_canvas(images, image_sizes)
        return self.detect_from_maps(self.features(images, sizes), sizes)

    def detect_from_maps(self, maps: Maps, sizes: jax.Array) -> Detections:
        """`detect` from the raw predictions; sizes: (b, 2)."""
        shapes = shapes_of(maps["class"])
        levels, start = [], 0
        anchors = self.anchors(shapes)
        for level, (h, w) in enumerate(shapes):
            prior = anchors[start : start + h * w]
            start += h * w
            batch = maps["class"][level].shape[0]
            scores = jax.nn.sigmoid(maps["class"][level].reshape(batch, h * w, -1))
            centerness = jax.nn.sigmoid(maps["centerness"][level].reshape(batch, h * w, 1))
            deltas = maps["box"][level].reshape(batch, h * w, 4)
            boxes = geometry.decode_deltas(prior[None].astype(deltas.dtype), deltas, self.box_std, self.delta_clamp)
            rank = scores * centerness if self.rank_by == "product" else scores
            rank = jnp.where(scores > self.score_threshold, rank, 0.0)
            select = lambda b, s, r: postprocess.select(b, s, r, self.nms_candidates)  # noqa: E731
            levels.append(jax.vmap(select)(boxes, scores * centerness, rank))
        candidates = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *levels)
        return postprocess.detections(candidates, sizes, self.nms_threshold, self.max_detections, self.clip_boxes)
