"""RepPoints (Yang et al. 2019): nine points a cell, moved in two stages; class; a box by the moments of its points.

Coordinates: pixels of the padded input; the point of cell (i, j) is (j * stride, i * stride). Predicted points are
(dy, dx) from it, in strides, row-major like the taps of a 3x3 kernel: the deformable convolutions of the second stage
sample at the points of the first.
Source: mmdetection `RepPointsHead`, transform method "moment".
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dyhead_jax.boxes import anchors, assign
from dyhead_jax.boxes.postprocess import LevelScores
from dyhead_jax.detectors import losses
from dyhead_jax.detectors.dense import DenseDetector
from dyhead_jax.detectors.detector import Maps, flatten, flatten_levels, shapes_of
from dyhead_jax.detectors.targets import Matched, gather, match_images
from dyhead_jax.detectors.towers import Tower, predictor, prior_bias, widen
from dyhead_jax.ops.deform_conv import deform_conv_levels
from dyhead_jax.types import GroundTruth

POINTS = 9
# where a plain 3x3 convolution samples, (9, 2) as (dy, dx)
TAPS = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), axis=-1).reshape(POINTS, 2).astype(np.float32)


class RepPoints(DenseDetector):
    """Towers and predictors shared over levels.

    First stage: the points nearest to a box's centre, on the level of its size, are positive for it (`assign.points`).
    Second stage: the boxes of the first are matched by IoU, like the anchors of RetinaNet; the class is learned there.
    offset_gradient and moment_gradient scale gradients only. min_positive_iou: as in `RetinaNet`, 0 in the reference.
    Initialisation: convolutions N(0, 0.01), deformable ones He-uniform, class bias -log(99), the rest 0, so that all
    points start at their cell's; with grid_start the bias spreads them over a 3x3 grid, that many strides apart: then
    boxes have a size, and the deformable convolutions see their surroundings, from the first step.
    """

    towers: int = 3
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

    def setup(self):
        # the towers' input is as wide as DyHead makes it
        features, blocks = self.neck.features, self.dyhead.num_blocks
        width = features if self.towers or not blocks else self.dyhead.features
        self.class_tower, self.point_tower = self.make_tower(), self.make_tower()
        self.first_conv = predictor(features, 3, self.dtype, None)
        start = nn.initializers.constant(self.grid_start * TAPS.ravel())
        self.first_predictor = predictor(2 * POINTS, 1, self.dtype, None, start)
        shape = (3, 3, width, features)
        self.class_deform_kernel = self.param("class_deform_kernel", nn.initializers.he_uniform(), shape)
        self.second_deform_kernel = self.param("second_deform_kernel", nn.initializers.he_uniform(), shape)
        self.class_predictor = predictor(self.num_classes, 1, self.dtype, None, prior_bias())
        self.second_predictor = predictor(2 * POINTS, 1, self.dtype, None)
        self.moment_transfer = self.param("moment_transfer", nn.initializers.zeros, (2,))

    @property
    def box_tower(self) -> Tower:
        """The tower's name in checkpoints is point_tower."""
        return self.point_tower

    def predict_from_towers(self, class_features: list[jax.Array], box_features: list[jax.Array]) -> Maps:
        """Of each level: "class" logits (b, h, w, q); of the two stages "points_first" and "points" (b, h, w, 18), 9
        times (dy, dx) in strides, and "box_first" and "box" (b, h, w, 4), x1 y1 x2 y2 around the cell's point, in
        strides."""
        first = [widen(self.first_predictor(nn.relu(self.first_conv(x)))) for x in box_features]
        rate = self.offset_gradient
        taps = TAPS.reshape(1, 1, 1, POINTS, 2)
        offsets = []
        for points in first:
            points = rate * points + (1 - rate) * jax.lax.stop_gradient(points)
            offsets.append(points.reshape(*points.shape[:3], POINTS, 2) - taps)
        class_features = self._deform(class_features, offsets, self.class_deform_kernel)
        box_features = self._deform(box_features, offsets, self.second_deform_kernel)
        second = [
            widen(self.second_predictor(nn.relu(x))) + jax.lax.stop_gradient(points)
            for x, points in zip(box_features, first, strict=True)
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
        return [jnp.asarray(level) for level in anchors.points(shapes, self.strides, center_offset=0.0)]

    def in_pixels(self, shapes: list[tuple[int, int]], boxes: jax.Array) -> jax.Array:
        """Boxes (b, n, 4) of all levels around their points, in strides, to pixels of the padded input."""
        centers = jnp.tile(jnp.concatenate(self.points(shapes)), (1, 2)).astype(boxes.dtype)
        return boxes * self._stride_of_each(shapes)[None, :, None].astype(boxes.dtype) + centers[None]

    def _stride_of_each(self, shapes: list[tuple[int, int]]) -> jax.Array:
        """(n,), of each point."""
        return jnp.asarray(anchors.repeat_levels(self.strides, shapes), jnp.float32)

    def match(self, shapes: list[tuple[int, int]], ground_truth: GroundTruth) -> tuple[jax.Array, jax.Array]:
        """First stage: matched box of each point (b, n) (see `assign`), and which points take part (b or 1, n)."""
        valid = self.in_own_padding(ground_truth.sizes, shapes)
        points, strides = jnp.concatenate(self.points(shapes)), self._stride_of_each(shapes)

        def match_image(boxes: jax.Array, mask: jax.Array, valid: jax.Array) -> jax.Array:
            return assign.points(points, strides, boxes, mask, valid, self.point_scale, self.positive_number)

        return match_images(match_image, ground_truth, valid), valid

    def match_boxes(
        self, shapes: list[tuple[int, int]], boxes: jax.Array, ground_truth: GroundTruth
    ) -> tuple[jax.Array, jax.Array]:
        """Second stage: as `match`, by the IoU of the first stage's boxes (b, n, 4) in pixels."""
        valid = self.in_own_padding(ground_truth.sizes, shapes)

        def match_image(boxes: jax.Array, mask: jax.Array, valid: jax.Array, predicted: jax.Array) -> jax.Array:
            return assign.max_iou(
                predicted,
                boxes,
                mask,
                valid,
                positive=self.positive_iou,
                negative=self.negative_iou,
                min_positive=self.min_positive_iou,
            )

        return match_images(match_image, ground_truth, valid, boxes), valid

    def targets(self, maps: Maps, ground_truth: GroundTruth) -> tuple[Matched, Matched]:
        """What each point has to predict in the first stage, and what in the second."""
        shapes = shapes_of(maps["class"])
        first = self.in_pixels(shapes, flatten(maps["box_first"], 4))
        match_first, _ = self.match(shapes, ground_truth)
        match, _ = self.match_boxes(shapes, jax.lax.stop_gradient(first), ground_truth)
        spare = jnp.tile(jnp.concatenate(self.points(shapes)), (1, 2)).astype(first.dtype)[None]
        return gather(match_first, ground_truth, spare), gather(match, ground_truth, spare)

    def normalizers(self, targets: tuple[Matched, Matched]) -> dict[str, jax.Array]:
        """The positives of the two stages."""
        first, second = targets
        return {"positives_first": first.count(), "positives": second.count()}

    def loss_terms(
        self, maps: Maps, targets: tuple[Matched, Matched], normalizers: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """loss_class (focal); loss_box_first and loss_box (smooth L1 of the two stages' boxes, in point_scale strides);
        each over the number of its stage's positives."""
        first, second = targets
        count_first, count = normalizers["positives_first"], normalizers["positives"]
        trains = second.match != assign.MatchStatus.IGNORED
        return {
            "loss_class": self.class_loss(maps["class"], second.labels, trains) / count,
            "loss_box_first": self.first_loss_weight * (self._box_loss(maps, "box_first", first) / count_first),
            "loss_box": self.second_loss_weight * (self._box_loss(maps, "box", second) / count),
        }

    def _box_loss(self, maps: Maps, name: str, matched: Matched) -> jax.Array:
        """Sum of the smooth L1 of one stage's boxes, maps[name]."""
        shapes = shapes_of(maps["class"])
        predicted = self.in_pixels(shapes, flatten(maps[name], 4))
        unit = (self.point_scale * self._stride_of_each(shapes))[None, :, None].astype(predicted.dtype)
        loss = losses.smooth_l1(predicted / unit, matched.boxes / unit, self.smooth_beta)
        return jnp.sum(jnp.where(matched.positive[..., None], loss, 0.0))

    def candidates(self, maps: Maps) -> list[LevelScores]:
        """The boxes of the second stage; scores are those of the class."""
        predictions = flatten_levels(maps["class"], self.num_classes), flatten_levels(maps["box"], 4)
        levels = []
        for points, stride, logits, boxes in zip(
            self.points(shapes_of(maps["class"])), self.strides, *predictions, strict=True
        ):
            boxes = boxes * stride + jnp.tile(points, (1, 2))[None].astype(boxes.dtype)
            scores = jax.nn.sigmoid(logits)
            levels.append(LevelScores(boxes, scores, self.rank_above_threshold(scores, scores)))
        return levels
