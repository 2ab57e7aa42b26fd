"""RepPoints (Yang et al. 2019): nine points a cell, moved in two stages; class; a box by the moments of its points.

Coordinates: pixels of the padded input; the point of cell (i, j) is (j * stride, i * stride). Predicted points are
(dy, dx) from it, in strides, row-major as the taps of a 3x3 kernel: the first stage's points are where the deformable
convolutions of the second one read.
Source: mmdetection `RepPointsHead`, transform method "moment".
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dyhead_jax.boxes import anchors as grids
from dyhead_jax.boxes import assign, postprocess
from dyhead_jax.detectors import losses
from dyhead_jax.detectors.detector import Detector, Maps, flatten, image_sizes_or_canvas, shapes_of
from dyhead_jax.detectors.towers import Tower, predictor, prior_bias, widen
from dyhead_jax.ops.deform_conv import deform_conv_levels
from dyhead_jax.types import Detections, GroundTruth

POINTS = 9
# where the taps of a plain 3x3 convolution read, (9, 2) as (dy, dx)
TAPS = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), axis=-1).reshape(POINTS, 2).astype(np.float32)


class RepPoints(Detector):
    """Towers and predictors shared over levels.

    First stage: the points nearest to a box's centre on the level of its size answer for it (`assign.points`). Second:
    the first stage's boxes do, by IoU, as anchors do in RetinaNet; class is learned there. offset_gradient and
    moment_gradient scale gradients only. min_positive_iou: 0 as in the reference, where a box that no prediction
    touches takes all that touch no other.
    Initialisation: convolutions N(0, 0.01), deformable ones He-uniform, class bias -log(99), the rest 0, and so the
    first points; with grid_start their bias spreads them as a 3x3 grid of so many strides: boxes have a size, and the
    deformable convolutions see their surroundings, from the first step.
    """

    towers: int = 3
    norm_groups: int = 32
    point_scale: float = 4.0
    grid_start: float = 0.0
    positive_number: int = 1
    positive_iou: float = 0.5
    negative_iou: float = 0.4
    min_positive_iou: float = 0.0
    offset_gradient: float = 0.1
    moment_gradient: float = 0.01
    smooth_beta: float = 0.11
    first_loss_weight: float = 0.5
    second_loss_weight: float = 1.0
    implementation: str = "auto"
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    nms_candidates: int = 1000
    max_detections: int = 100

    def setup(self):
        # the towers' input is as wide as DyHead makes it
        features, blocks = self.neck.features, self.dyhead.num_blocks
        width = features if self.towers or not blocks else self.dyhead.features
        self.class_tower = Tower(self.towers, features, norm_groups=self.norm_groups, dtype=self.dtype)
        self.point_tower = Tower(self.towers, features, norm_groups=self.norm_groups, dtype=self.dtype)
        self.first_conv = predictor(features, 3, self.dtype, None)
        start = nn.initializers.constant(self.grid_start * TAPS.ravel())
        self.first_predictor = predictor(2 * POINTS, 1, self.dtype, None, start)
        shape = (3, 3, width, features)
        self.class_deform_kernel = self.param("class_deform_kernel", nn.initializers.he_uniform(), shape)
        self.second_deform_kernel = self.param("second_deform_kernel", nn.initializers.he_uniform(), shape)
        self.class_predictor = predictor(self.num_classes, 1, self.dtype, None, prior_bias())
        self.second_predictor = predictor(2 * POINTS, 1, self.dtype, None)
        self.moment_transfer = self.param("moment_transfer", nn.initializers.zeros, (2,))

    def predict(self, pyramid: list[jax.Array]) -> Maps:
        """Of each level: "class" logits (b, h, w, q); of the two stages "points_first" and "points" (b, h, w, 18), 9
        times (dy, dx) in strides, and "box_first" and "box" (b, h, w, 4), x1 y1 x2 y2 around the cell's point, in
        strides."""
        class_features = [self.class_tower(x) for x in pyramid]
        point_features = [self.point_tower(x) for x in pyramid]
        first = [widen(self.first_predictor(nn.relu(self.first_conv(x)))) for x in point_features]
        rate = self.offset_gradient
        taps = TAPS.reshape(1, 1, 1, POINTS, 2)
        offsets = []
        for points in first:
            points = rate * points + (1 - rate) * jax.lax.stop_gradient(points)
            offsets.append(points.reshape(*points.shape[:3], POINTS, 2) - taps)
        class_features = self._deform(class_features, offsets, self.class_deform_kernel)
        point_features = self._deform(point_features, offsets, self.second_deform_kernel)
        second = [
            widen(self.second_predictor(nn.relu(x))) + jax.lax.stop_gradient(points)
            for x, points in zip(point_features, first, strict=True)
        ]
        return {
            "class": [widen(self.class_predictor(nn.relu(x))) for x in class_features],
            "points_first": first,
            "points": second,
            "box_first": [self.to_boxes(points) for points in first],
            "box": [self.to_boxes(points) for points in second],
        }

    def _deform(self, maps: list[jax.Array], offsets: list[jax.Array], kernel: jax.Array) -> list[jax.Array]:
        maps, kernel = [x.astype(self.dtype) for x in maps], kernel.astype(self.dtype)
        return deform_conv_levels(maps, offsets, None, kernel, padding=1, implementation=self.implementation)

    def to_boxes(self, points: jax.Array) -> jax.Array:
        """(..., 18), 9 times (dy, dx), to (..., 4) x1 y1 x2 y2: mean +- unbiased deviation * exp(moment_transfer)."""
        points = points.reshape(*points.shape[:-1], POINTS, 2)[..., ::-1]
        mean = jnp.mean(points, axis=-2)
        variance = jnp.sum((points - mean[..., None, :]) ** 2, axis=-2) / (POINTS - 1)
        # the root's gradient at 0 is infinite: there the deviation is a constant 0, as in PyTorch
        deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
        rate = self.moment_gradient
        transfer = rate * self.moment_transfer + (1 - rate) * jax.lax.stop_gradient(self.moment_transfer)
        half = deviation * jnp.exp(transfer).astype(points.dtype).reshape((1,) * (mean.ndim - 1) + (2,))
        return jnp.concatenate([mean - half, mean + half], axis=-1)

    def points(self, shapes: list[tuple[int, int]]) -> list[jax.Array]:
        """(h * w, 2) as (x, y) of each level."""
        return [jnp.asarray(level) for level in grids.points(shapes, self.strides, center_offset=0.0)]

    def in_pixels(self, shapes: list[tuple[int, int]], boxes: jax.Array) -> jax.Array:
        """Boxes (b, n, 4) of all levels around their points, in strides, to pixels of the padded input."""
        centers = jnp.tile(jnp.concatenate(self.points(shapes)), (1, 2)).astype(boxes.dtype)
        return boxes * self._stride_of_each(shapes)[None, :, None].astype(boxes.dtype) + centers[None]

    def _stride_of_each(self, shapes: list[tuple[int, int]]) -> jax.Array:
        return jnp.asarray(np.repeat(self.strides, [h * w for h, w in shapes]), jnp.float32)

    def match(self, shapes: list[tuple[int, int]], ground_truth: GroundTruth) -> tuple[jax.Array, jax.Array]:
        """First stage: matched box of each point (b, n) (see `assign`), and which points take part (b or 1, n)."""
        valid, real, valid_each = self._taking_part(shapes, ground_truth)
        points, strides = jnp.concatenate(self.points(shapes)), self._stride_of_each(shapes)

        def each(boxes, mask, valid):
            return assign.points(points, strides, boxes, mask, valid, self.point_scale, self.positive_number)

        return jax.vmap(each)(ground_truth.boxes, real, valid_each), valid

    def match_boxes(
        self, shapes: list[tuple[int, int]], boxes: jax.Array, ground_truth: GroundTruth
    ) -> tuple[jax.Array, jax.Array]:
        """Second stage: as `match`, by the IoU of the first stage's boxes (b, n, 4) in pixels."""
        valid, real, valid_each = self._taking_part(shapes, ground_truth)

        def each(predicted, boxes, mask, valid):
            return assign.max_iou(
                predicted,
                boxes,
                mask,
                valid,
                positive=self.positive_iou,
                negative=self.negative_iou,
                min_positive=self.min_positive_iou,
            )

        return jax.vmap(each)(boxes, ground_truth.boxes, real, valid_each), valid

    def _taking_part(self, shapes, ground_truth: GroundTruth) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Points inside each image's own padding (b or 1, n), boxes that train (b, m), the points again (b, n)."""
        valid = self.in_own_padding(ground_truth.sizes, shapes)
        real = ground_truth.mask & ~ground_truth.crowd  # crowds train neither way
        return valid, real, jnp.broadcast_to(valid, (real.shape[0], valid.shape[1]))

    def losses(self, images: jax.Array, ground_truth: GroundTruth, train: bool = True) -> dict[str, jax.Array]:
        """loss_class (focal); loss_box_first and loss_box (smooth L1 of the two stages' boxes, in point_scale strides);
        each over the number of its stage's positives."""
        maps = self.features(images, ground_truth.sizes, train)
        return self.losses_from_maps(maps, ground_truth)

    def losses_from_maps(self, maps: Maps, ground_truth: GroundTruth) -> dict[str, jax.Array]:
        """`losses` from the raw predictions."""
        shapes = shapes_of(maps["class"])
        logits = flatten(maps["class"], self.num_classes)
        first = self.in_pixels(shapes, flatten(maps["box_first"], 4))
        second = self.in_pixels(shapes, flatten(maps["box"], 4))
        match_first, _ = self.match(shapes, ground_truth)
        match, _ = self.match_boxes(shapes, jax.lax.stop_gradient(first), ground_truth)
        loss_first, _ = self._box_loss(shapes, first, match_first, ground_truth)
        loss_second, count = self._box_loss(shapes, second, match, ground_truth)

        positive, trains = match >= 0, match != assign.Anchor.IGNORED
        labels = jnp.take_along_axis(ground_truth.labels, jnp.maximum(match, 0), axis=1)
        class_loss = losses.focal(logits, losses.one_hot(jnp.where(positive, labels, -1), self.num_classes))
        return {
            "loss_class": jnp.sum(jnp.where(trains[..., None], class_loss, 0.0)) / count,
            "loss_box_first": self.first_loss_weight * loss_first,
            "loss_box": self.second_loss_weight * loss_second,
        }

    def _box_loss(
        self, shapes: list[tuple[int, int]], predicted: jax.Array, match: jax.Array, ground_truth: GroundTruth
    ) -> tuple[jax.Array, jax.Array]:
        """Smooth L1 over the number of positives, and that number; an image without positives counts as one."""
        positive = match >= 0
        counts = jnp.maximum(jnp.sum(positive, axis=1), 1).astype(predicted.dtype)
        count = self.mean_over_devices(jnp.sum(counts))
        target = jnp.take_along_axis(ground_truth.boxes, jnp.maximum(match, 0)[..., None], axis=1)
        unit = (self.point_scale * self._stride_of_each(shapes))[None, :, None].astype(predicted.dtype)
        loss = losses.smooth_l1(predicted / unit, target.astype(predicted.dtype) / unit, self.smooth_beta)
        return jnp.sum(jnp.where(positive[..., None], loss, 0.0)) / count, count

    def detect(self, images: jax.Array, image_sizes: jax.Array) -> Detections:
        sizes = image_sizes_or_canvas(images, image_sizes)
        return self.detect_from_maps(self.features(images, sizes), sizes)

    def detect_from_maps(self, maps: Maps, sizes: jax.Array) -> Detections:
        """`detect` from the raw predictions; sizes: (b, 2)."""
        boxes, scores, ranks = [], [], []
        for level, points in enumerate(self.points(shapes_of(maps["class"]))):
            logits, box = maps["class"][level], maps["box"][level]
            box = box.reshape(box.shape[0], -1, 4)
            boxes.append(box * self.strides[level] + jnp.tile(points, (1, 2))[None].astype(box.dtype))
            score = jax.nn.sigmoid(logits.reshape(logits.shape[0], -1, self.num_classes))
            scores.append(score)
            ranks.append(jnp.where(score > self.score_threshold, score, 0.0))
        candidates = postprocess.select_levels(boxes, scores, ranks, self.nms_candidates)
        return postprocess.detections(candidates, sizes, self.nms_threshold, self.max_detections, "before")
