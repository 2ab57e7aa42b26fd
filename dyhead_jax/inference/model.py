"""A trained model that is called with pictures.

    model = dyhead_jax.load("runs/mine")
    found = model("photo.jpg")

Coordinates: boxes are (x1, y1, x2, y2) in pixels of the picture, continuous.
"""

import os
import threading
from collections.abc import Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.evaluation.trained_model import InferenceModel, load_for_inference
from dyhead_jax.inference import pictures as reading
from dyhead_jax.inference.batches import Boxes, detect_pictures
from dyhead_jax.inference.objects import FoundObjects
from dyhead_jax.inference.tiles import make_tiles, merge
from dyhead_jax.training.steps import make_detect
from dyhead_jax.types import Detections

Picture = Any  # a path, a Pillow image, or an array: see `inference.pictures`


class Model:
    """Called with a picture, or with a list of them, it returns the objects in each.

    class_names, category_ids: by label; the ids are those of the training annotations. config: of the training; step:
    how long it was trained. Several threads may call a model at once.
    """

    def __init__(self, loaded: InferenceModel, batch_size: int = 1):
        self.class_names = loaded.class_names
        self.category_ids = loaded.category_ids
        self.config = loaded.config
        self.step = loaded.step
        self.batch_size = _checked_batch(batch_size)
        self._detect = make_detect(loaded.model)
        self._variables = jax.device_put(loaded.variables)
        self._programs: dict[tuple[int, ...], Any] = {}
        self._compiling = threading.Lock()

    def __repr__(self) -> str:
        return f"<Model of {len(self.class_names)} classes ({', '.join(self.class_names[:5])}), step {self.step}>"

    @overload
    def __call__(
        self,
        pictures: list[Picture] | tuple[Picture, ...],
        score: float = 0.3,
        *,
        batch_size: int | None = None,
        tiles: int | None = None,
        overlap: float = 0.2,
    ) -> list[FoundObjects]: ...

    @overload
    def __call__(
        self,
        pictures: Picture,
        score: float = 0.3,
        *,
        batch_size: int | None = None,
        tiles: int | None = None,
        overlap: float = 0.2,
    ) -> FoundObjects: ...

    def __call__(
        self,
        pictures: Any,
        score: float = 0.3,
        *,
        batch_size: int | None = None,
        tiles: int | None = None,
        overlap: float = 0.2,
    ) -> Any:
        """The objects scored `score` or more in a picture, best first; for a list or tuple of pictures a list.

        A picture is a path, a Pillow image, or an array (h, w, 3) uint8 RGB, of any size; files and Pillow images are
        first turned upright by their EXIF orientation. Those of a list that share a canvas of config.data.canvases go
        through the network together, batch_size at a time (None: that of the model); the program is compiled at the
        first picture of each canvas. Boxes equal those of evaluation with the same batch size.
        tiles: pictures larger than this many pixels are also searched in square tiles of this side, which overlap by
        the part `overlap` (see `inference.tiles`).
        Raises DataError, OSError or TypeError for a picture that cannot be read, ValueError for other numbers.
        """
        several = isinstance(pictures, list | tuple)
        images = [
            reading.read(picture, f"picture {number}" if several else "the picture")
            for number, picture in enumerate(pictures if several else [pictures])
        ]
        found = self.detect(images, score, batch_size=batch_size, tiles=tiles, overlap=overlap)
        results = [
            FoundObjects(*boxes, image=image, class_names=self.class_names, category_ids=self.category_ids)
            for boxes, image in zip(found, images, strict=True)
        ]
        return results if several else results[0]

    def detect(
        self,
        images: Sequence[np.ndarray],
        score: float,
        *,
        batch_size: int | None = None,
        tiles: int | None = None,
        overlap: float = 0.2,
    ) -> list[Boxes]:
        """As a call, from pixels (h, w, 3) uint8 RGB to arrays."""
        if not 0 <= score <= 1:
            raise ValueError(f"score {score}: it must be from 0 to 1")
        size = self.batch_size if batch_size is None else _checked_batch(batch_size)
        if tiles is None:
            return self._scored(images, score, size)
        cut = [make_tiles(image.shape[0], image.shape[1], tiles, overlap) for image in images]
        parts = iter(
            self._scored(
                [image[t.y1 : t.y2, t.x1 : t.x2] for image, own in zip(images, cut, strict=True) for t in own],
                score,
                size,
            )
        )
        threshold = self.config.evaluation.merge_threshold
        return [merge([next(parts) for _ in own], own, threshold) if len(own) > 1 else next(parts) for own in cut]

    def _scored(self, images: Sequence[np.ndarray], score: float, batch_size: int) -> list[Boxes]:
        every = detect_pictures(self.run, images, self.config.data, len(self.class_names), batch_size)
        return [Boxes(*(array[boxes.scores >= np.float32(score)] for array in boxes)) for boxes in every]

    def run(self, images: np.ndarray, sizes: np.ndarray) -> Detections:
        """Detections of images (b, h, w, 3) uint8 on their canvas, of sizes (b, 2) int32: see `batches.Detect`."""
        return self._program(images.shape)(self._variables, images, sizes)

    def _program(self, shape: tuple[int, ...]) -> Any:
        """The compiled program for images of a shape. Threads wait for each other only while one compiles."""
        program = self._programs.get(shape)
        if program is None:
            with self._compiling:
                if shape not in self._programs:
                    images = jax.ShapeDtypeStruct(shape, jnp.uint8)
                    sizes = jax.ShapeDtypeStruct((shape[0], 2), jnp.int32)
                    self._programs[shape] = jax.jit(self._detect).lower(self._variables, images, sizes).compile()
                program = self._programs[shape]
        return program


def load(
    source: str | os.PathLike[str], step: int | None = None, *, batch_size: int = 1, trust: Sequence[str] = ()
) -> Model:
    """A trained model: see `dyhead_jax.load`."""
    return Model(load_for_inference(os.fspath(source), step, trust=trust), batch_size)


def _checked_batch(batch_size: int) -> int:
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: it must be 1 or more")
    return batch_size
