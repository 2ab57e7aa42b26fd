"""What all detectors share: pixels to network input, backbone, neck, DyHead, and the averages over devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dyhead_jax.dyhead.valid_area import over, valid_cells
from dyhead_jax.types import Detections, GroundTruth

Maps = dict[str, list[jax.Array]]


class Detector(nn.Module):
    """Base of the detectors. A subclass says what is predicted (`predict`), its `losses` and how they become boxes.

    backbone, neck, dyhead: Linen modules. pixel_mean, pixel_std: in the order of RGB; bgr: the backbone wants blue
    first. pad_divisor: an image's own padding (mmdetection's pad_shape). axis_name: mapped axis of `jax.pmap`, or None
    where one program sees the whole batch.
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

    def losses(self, images: jax.Array, ground_truth: GroundTruth, train: bool = True) -> dict[str, jax.Array]:
        """images: (b, h, w, 3), uint8 pixels or float network input. Returns scalar terms whose sum is the objective.

        Terms are normalised over the whole batch: under `axis_name` their mean over devices is the batch's value.
        """
        raise TypeError(f"{type(self).__name__} does not define losses")

    def detect(self, images: jax.Array, image_sizes: jax.Array) -> Detections:
        """images: (b, h, w, 3) as in `losses`; image_sizes: (b, 2) (height, width) inside the canvas.

        Boxes in pixels of the padded input, clipped to the image; scores 0 and labels -1 where empty.
        """
        raise TypeError(f"{type(self).__name__} does not define detect")

    def predict(self, pyramid: list[jax.Array]) -> Maps:
        """The raw maps, float32, of each level, by name."""
        raise TypeError(f"{type(self).__name__} does not define predict")

    def features(self, images: jax.Array, sizes: jax.Array | None = None, train: bool = False) -> Maps:
        """Every intermediate pyramid by name, NHWC, fine to coarse: "backbone" (C2 to C5), "neck", "dyhead", and the
        raw predictions. images as in `losses`; sizes: (b, 2) or None."""
        maps: Maps = {"backbone": self.backbone(self.network_input(images, sizes), train)}
        maps["neck"] = self.neck(maps["backbone"])
        valid = None if sizes is None else valid_cells(sizes, shapes_of(maps["neck"]), self.strides)
        maps["dyhead"] = over(valid, self.dyhead)(maps["neck"])
        return maps | self.predict(maps["dyhead"])

    def network_input(self, images: jax.Array, sizes: jax.Array | None) -> jax.Array:
        """uint8 RGB pixels to normalised input, zero outside the image as both references pad; floats pass through."""
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
        """Whether the parameter at `path` (below "params") never trains."""
        return path[0] == "backbone" and self.backbone.is_frozen(path[1:])

    def mean_over_devices(self, x: jax.Array) -> jax.Array:
        """For normalisers: the mean over the mapped axis, or x itself."""
        return x if self.axis_name is None else jax.lax.pmean(x, self.axis_name)

    @property
    def device_count(self) -> int:
        """On the mapped axis; 1 without one, whatever the arrays are sharded over."""
        return 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)

    def in_own_padding(self, sizes: jax.Array | None, shapes: list[tuple[int, int]], each: int = 1) -> jax.Array:
        """(b, n) bool: cells that begin inside the image padded to pad_divisor, `each` times a cell; (1, n) all True
        where sizes is None. Source: mmdetection `valid_flags`."""
        if sizes is None:
            return jnp.ones((1, sum(h * w for h, w in shapes) * each), bool)
        padded = -(-sizes // self.pad_divisor) * self.pad_divisor
        levels = []
        for (h, w), stride in zip(shapes, self.strides, strict=True):
            y, x = np.mgrid[:h, :w].reshape(2, -1) * stride
            inside = (y[None] < padded[:, :1]) & (x[None] < padded[:, 1:])
            levels.append(jnp.repeat(inside, each, axis=1))
        return jnp.concatenate(levels, axis=1)


def flatten(maps: list[jax.Array], channels: int) -> jax.Array:
    """Maps (b, h_l, w_l, a * channels) to (b, n, channels) over all levels, in the order of `anchors`."""
    return jnp.concatenate([x.reshape(x.shape[0], -1, channels) for x in maps], axis=1)


def shapes_of(maps: list[jax.Array]) -> list[tuple[int, int]]:
    return [(x.shape[1], x.shape[2]) for x in maps]


def image_sizes_or_canvas(images: jax.Array, sizes: jax.Array | None) -> jax.Array:
    """(b, 2) int32: `sizes`, or the canvas where it is None."""
    if sizes is not None:
        return sizes
    return jnp.broadcast_to(jnp.asarray(images.shape[1:3], jnp.int32)[None], (images.shape[0], 2))
