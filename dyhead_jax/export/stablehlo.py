"""A model as StableHLO: one file a canvas that `jax.export` opens, for CPUs, CUDA GPUs and TPUs, any batch size.

The program holds a branch for each platform, traced for the forms that are fastest there (`ops.backend`); the weights
are constants in it, once. It needs no part of this package to run.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.evaluation.trained_model import InferenceModel
from dyhead_jax.export import about
from dyhead_jax.export.about import ExportError
from dyhead_jax.inference.batches import Detect
from dyhead_jax.ops import backend
from dyhead_jax.training.steps import make_detect
from dyhead_jax.types import Detections

SUFFIX = ".stablehlo"
PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}  # of jax.export: the backend that its branch is traced for


def write(folder: Path, loaded: InferenceModel) -> None:
    """One file for each canvas of the config, and export.json. Raises ExportError without the extra `stablehlo`."""
    check_installed()
    for canvas in loaded.config.data.canvases:
        (folder / about.name_of(canvas, SUFFIX)).write_bytes(serialize(loaded, canvas))
    about.write(folder, loaded, "stablehlo", SUFFIX, platforms=list(PLATFORMS))


def serialize(loaded: InferenceModel, canvas: tuple[int, int]) -> bytes:
    """The program for pictures on a canvas (height, width), as `jax.export.deserialize` takes it."""
    from jax import export

    (batch,) = export.symbolic_shape("b")
    shapes = jax.ShapeDtypeStruct((batch, *canvas, 3), jnp.uint8), jax.ShapeDtypeStruct((batch, 2), jnp.int32)
    exported = export.export(jax.jit(detect_anywhere(loaded)), platforms=tuple(PLATFORMS))(*shapes)
    return bytes(exported.serialize())


def detect_anywhere(loaded: InferenceModel) -> Any:
    """The function (images, sizes) -> (boxes, scores, labels) that runs on every platform, in the form of each."""
    branches = {platform: _traced_for(name, loaded) for platform, name in PLATFORMS.items()}

    def detect(images: jax.Array, sizes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return jax.lax.platform_dependent(images, sizes, **branches)

    return detect


def open_folder(folder: Path, canvases: tuple[tuple[int, int], ...]) -> Detect:
    """Runs the files of a folder, on the default device."""
    check_installed()
    from jax import export

    programs = {
        canvas: jax.jit(export.deserialize(bytearray((folder / about.name_of(canvas, SUFFIX)).read_bytes())).call)
        for canvas in canvases
    }

    def detect(images: np.ndarray, sizes: np.ndarray) -> Detections:
        return Detections(*programs[images.shape[1], images.shape[2]](images, sizes))

    return detect


def check_installed() -> None:
    """Raises ExportError where a package is missing."""
    try:
        import flatbuffers  # type: ignore[import-not-found] # noqa: F401
    except ImportError as error:
        raise ExportError(
            "StableHLO files need a package that is not installed: pip install 'dyhead-jax[stablehlo]'"
        ) from error


def _traced_for(name: str, loaded: InferenceModel) -> Any:
    detect = make_detect(loaded.model)

    def branch(images: jax.Array, sizes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        with backend.tracing_for(name):
            if name == "cpu":  # its forms are cut by sizes, which a symbolic batch would leave open: one image a trace
                found = jax.vmap(lambda image, size: jax.tree.map(lambda x: x[0], detect_one(image[None], size[None])))(
                    images, sizes
                )
            else:
                found = detect_one(images, sizes)
        return found.boxes, found.scores.astype(jnp.float32), found.labels

    def detect_one(images: jax.Array, sizes: jax.Array) -> Detections:
        return detect(loaded.variables, images, sizes)

    return branch
