"""What all detectors share: network input, backbone, neck, DyHead, and the order of training and detection."""

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dyhead_jax.boxes.postprocess import mark_broken
from dyhead_jax.choices import Choice
from dyhead_jax.dyhead.branches import Level
from dyhead_jax.dyhead.building import hand_down
from dyhead_jax.dyhead.valid_area import valid_cells
from dyhead_jax.types import Detections, GroundTruth

Maps = dict[str, list[Any]]  # pyramids and raw predictions by name, each a list of (b, h_l, w_l, c), fine to coarse
PYRAMIDS = ("backbone", "neck", "dyhead")  # those that are no predictions


class Detector(nn.Module):
    """Base of the detectors, which holds the order of their work; a subclass fills in the steps:

    losses    features -> targets -> normalizers, averaged over devices -> loss_terms
    detect    features -> detect_from_maps

    `train`, whether it is a step of training, reaches the backbone, and where they declare it DyHead, `predict` and
    `loss_terms`.

    backbone, neck, dyhead: Linen modules, see `dyhead_jax.detectors`. pixel_mean, pixel_std: of the RGB channels; bgr:
    the backbone takes blue first. pad_divisor: images count as padded to a multiple of it (mmdetection's pad_shape).
    axis_name: the mapped axis of `jax.pmap`, or None where one program sees the whole batch.
    """

    backbone: Any
    neck: Any
    dyhead: Any
    num_classes: int
    pixel_mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    pixel_std: tuple[float, ...] = (1.0, 1.0, 1.0)
    bgr: bool = False
    pad_divisor: int = 32
    dtype: Any = jnp.float32
    axis_name: str | None = None

    def losses(
        self,
        images: jax.Array,
        ground_truth: GroundTruth,
        train: bool = True,
        normalizers: dict[str, jax.Array] | None = None,
    ) -> dict[str, jax.Array]:
        """Scalar terms whose sum is the objective.

        images: (b, h, w, 3), uint8 pixels or float network input. normalizers: by name, for images that are a part of a
        batch (see `count`); None: those of these images. Terms are normalised over the whole batch: under `axis_name`
        their mean over devices is the batch's value.
        """
        maps = self.features(images, ground_truth.sizes, train)
        sizes = image_sizes_or_canvas(images, ground_truth.sizes)
        return self.losses_from_maps(maps, ground_truth, sizes, normalizers, train)

    def losses_from_maps(
        self,
        maps: Maps,
        ground_truth: GroundTruth,
        sizes: jax.Array | None = None,
        normalizers: dict[str, jax.Array] | None = None,
        train: bool = True,
    ) -> dict[str, jax.Array]:
        """`losses` from the maps that `features` returns. sizes: (b, 2), where not None, replaces ground_truth.sizes.

        Raises KeyError where `loss_terms` reads a normalizer that `normalizers` does not return.
        """
        targets = self.targets(maps, with_sizes(ground_truth, sizes))
        if normalizers is None:
            normalizers = self.mean_over_devices(self.normalizers(targets))
        return hand_down(self.loss_terms, train=train)(maps, targets, Normalizers(normalizers))

    def count(self, images: jax.Array, ground_truth: GroundTruth, train: bool = True) -> dict[str, jax.Array]:
        """The normalizers of these images, averaged over devices. Arguments as in `losses`.

        A batch in parts of equal size: the mean of their normalizers, given to `losses` of each part, makes the mean of
        the parts' losses that of the whole batch.
        """
        maps = self.features(images, ground_truth.sizes, train)
        sizes = image_sizes_or_canvas(images, ground_truth.sizes)
        return self.mean_over_devices(self.normalizers(self.targets(maps, with_sizes(ground_truth, sizes))))

    def detect(self, images: jax.Array, image_sizes: jax.Array | None) -> Detections:
        """images: (b, h, w, 3) as in `losses`; image_sizes: (b, 2) (height, width) inside the canvas, None: all of it.

        Boxes in pixels of the padded input, clipped to the image; scores 0 and labels -1 where empty; NaN for all
        scores of an image for which the network predicts one.
        """
        sizes = image_sizes_or_canvas(images, image_sizes)
        maps = self.features(images, sizes)
        raw = [level for name in maps if name not in PYRAMIDS for level in maps[name]]
        return mark_broken(self.detect_from_maps(maps, sizes), raw)

    def predict(self, pyramid: list[Level]) -> Maps:
        """The raw predictions, float32 or wider, of each level, by name. pyramid: what DyHead returns."""
        raise TypeError(f"{type(self).__name__} does not define predict")

    def targets(self, maps: Maps, ground_truth: GroundTruth) -> Any:
        """What the predictions should have been: whatever `normalizers` and `loss_terms` of this detector need."""
        raise TypeError(f"{type(self).__name__} does not define targets")

    def normalizers(self, targets: Any) -> dict[str, jax.Array]:
        """Scalars by name: this device's share of what the batch's losses are divided by, such as its positives."""
        raise TypeError(f"{type(self).__name__} does not define normalizers")

    def loss_terms(self, maps: Maps, targets: Any, normalizers: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The terms of `losses`. normalizers: those of `normalizers`, averaged over devices and parts of the batch."""
        raise TypeError(f"{type(self).__name__} does not define loss_terms")

    def detect_from_maps(self, maps: Maps, sizes: jax.Array) -> Detections:
        """`detect` from the maps that `features` returns; sizes: (b, 2)."""
        raise TypeError(f"{type(self).__name__} does not define detect_from_maps")

    def features(self, images: jax.Array, sizes: jax.Array | None = None, train: bool = False) -> Maps:
        """Every intermediate pyramid by name, NHWC, fine to coarse: "backbone" (C2 to C5), "neck", "dyhead", and the
        raw predictions. images as in `losses`; sizes: (b, 2) or None."""
        maps: Maps = {"backbone": self.backbone(self.network_input(images, sizes), train)}
        maps["neck"] = self.neck(maps["backbone"])
        valid = None if sizes is None else valid_cells(sizes, shapes_of(maps["neck"]), self.strides)
        maps["dyhead"] = hand_down(self.dyhead, valid=valid, train=train)(maps["neck"])
        return maps | hand_down(self.predict, train=train)(maps["dyhead"])

    def network_input(self, images: jax.Array, sizes: jax.Array | None) -> jax.Array:
        """uint8 RGB pixels to normalised input, zero outside the image as in both references; floats stay as they are,
        but for the dtype."""
        if images.dtype != jnp.uint8:
            return images.astype(self.dtype)
        mean = jnp.asarray(self.pixel_mean, jnp.float32).reshape(1, 1, 1, 3)
        std = jnp.asarray(self.pixel_std, jnp.float32).reshape(1, 1, 1, 3)
        x = (images.astype(jnp.float32) - mean) / std
        if self.bgr:
            x = x[..., ::-1]
        if sizes is not None:
            rows = jnp.arange(x.shape[1])[None, :] < sizes[:, :1]
            columns = jnp.arange(x.shape[2])[None, :] < sizes[:, 1:]
            x = jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], x, 0.0)
        return x.astype(self.dtype)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between the cells of each level."""
        return tuple(4 << (self.neck.start + level) for level in range(self.neck.levels))

    def is_frozen(self, path: tuple[str, ...]) -> bool:
        """Whether the parameter at `path` (below "params") never trains: what `is_frozen` of its part says, if the
        backbone, neck or DyHead has that method."""
        if path[0] not in ("backbone", "neck", "dyhead"):
            return False
        part = getattr(self, path[0])
        return hasattr(part, "is_frozen") and part.is_frozen(path[1:])

    def mean_over_devices(self, normalizers: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The mean of each over the mapped axis, or the normalizers themselves."""
        return normalizers if self.axis_name is None else jax.lax.pmean(normalizers, self.axis_name)

    @property
    def device_count(self) -> int:
        """On the mapped axis; 1 without one, whatever the arrays are sharded over."""
        return 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)

    def in_own_padding(
        self, sizes: jax.Array | None, shapes: list[tuple[int, int]], anchors_per_cell: int = 1
    ) -> jax.Array:
        """(b, n) bool: the anchors whose cells begin inside the image padded to pad_divisor; (1, n), all True, where
        sizes is None. Source: mmdetection `valid_flags`."""
        if sizes is None:
            return jnp.ones((1, sum(h * w for h, w in shapes) * anchors_per_cell), bool)
        padded = -(-sizes // self.pad_divisor) * self.pad_divisor
        levels = []
        for (h, w), stride in zip(shapes, self.strides, strict=True):
            y, x = np.mgrid[:h, :w].reshape(2, -1) * stride
            inside = (y[None] < padded[:, :1]) & (x[None] < padded[:, 1:])
            levels.append(jnp.repeat(inside, anchors_per_cell, axis=1))
        return jnp.concatenate(levels, axis=1)

    def check_choices(self) -> None:
        """Raises ValueError, which names the field, where one whose type is a `Choice` is none of its words."""
        for name, kind in typing.get_type_hints(type(self)).items():
            if isinstance(kind, type) and issubclass(kind, Choice):
                kind.parse(f"{type(self).__name__} {name}", getattr(self, name))


class Normalizers(dict[str, jax.Array]):
    """Normalizers by name, with an error that says where a missing one has to come from."""

    def __missing__(self, name: str) -> jax.Array:
        raise KeyError(f"loss_terms reads normalizer {name!r}; normalizers returns {', '.join(self) or 'none'}")


def with_sizes(ground_truth: GroundTruth, sizes: jax.Array | None) -> GroundTruth:
    """`ground_truth` with `sizes` (b, 2), where not None, in place of its own."""
    return ground_truth if sizes is None else dataclasses.replace(ground_truth, sizes=sizes)


def flatten_levels(maps: list[jax.Array], channels: int) -> list[jax.Array]:
    """Maps (b, h_l, w_l, a * channels) to (b, h_l * w_l * a, channels) each, in the order of `anchors`."""
    return [x.reshape(x.shape[0], -1, channels) for x in maps]


def flatten(maps: list[jax.Array], channels: int) -> jax.Array:
    """Maps (b, h_l, w_l, a * channels) to (b, n, channels) over all levels, in the order of `anchors`."""
    return jnp.concatenate(flatten_levels(maps, channels), axis=1)


def shapes_of(maps: list[jax.Array]) -> list[tuple[int, int]]:
    """(h_l, w_l) of each level."""
    return [(x.shape[1], x.shape[2]) for x in maps]


def image_sizes_or_canvas(images: jax.Array, sizes: jax.Array | None) -> jax.Array:
    """(b, 2) int32: `sizes`, or the canvas where it is None."""
    if sizes is not None:
        return sizes
    return jnp.broadcast_to(jnp.asarray(images.shape[1:3], jnp.int32)[None], (images.shape[0], 2))
