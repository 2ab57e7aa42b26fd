"""A model as ONNX, one file a canvas, any batch size: detections after NMS, or with `raw` what the network predicts.

`jax2onnx` converts the network up to the boxes and scores of every anchor; the loop of NMS is not among what it takes,
so that part is written in ONNX's own operators (`onnx_nms`). The network is traced in the forms for GPUs, which are
plain convolutions and gathers, the ones that other programs know too.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dyhead_jax.detectors.dense import DenseDetector
from dyhead_jax.evaluation.trained_model import InferenceModel
from dyhead_jax.export import about, onnx_nms
from dyhead_jax.export.about import OUTPUTS, ExportError
from dyhead_jax.export.onnx_repair import repair
from dyhead_jax.inference.batches import Detect
from dyhead_jax.ops import backend
from dyhead_jax.types import Detections

SUFFIX = ".onnx"
OPSET = 21


def write(folder: Path, loaded: InferenceModel, *, raw: bool = False) -> None:
    """One file for each canvas of the config, and export.json. raw: outputs boxes (b, n, 4) and scores (b, n, classes)
    of all n anchors, not clipped, in place of detections.

    Raises ExportError without the extra `onnx`, and for a detector that is not a one-stage one.
    """
    onnx = check_installed()
    if not isinstance(loaded.model, DenseDetector):
        raise ExportError(
            f"a {type(loaded.model).__name__} cannot be written as ONNX, only one-stage detectors; stablehlo takes any"
        )
    for canvas in loaded.config.data.canvases:
        onnx.save(convert(loaded, canvas, raw=raw), folder / about.name_of(canvas, SUFFIX))
    about.write(folder, loaded, "onnx", SUFFIX, outputs=["boxes", "scores"] if raw else list(OUTPUTS), raw=raw)


def convert(loaded: InferenceModel, canvas: tuple[int, int], *, raw: bool = False) -> Any:
    """The onnx.ModelProto for pictures on a canvas (height, width)."""
    import onnx.compose  # type: ignore[import-not-found]
    import onnx.parser  # type: ignore[import-not-found]
    from jax2onnx import to_onnx  # type: ignore[import-not-found]

    shapes = _Shape(("b", *canvas, 3), np.dtype(np.uint8)), _Shape(("b", 2), np.dtype(np.int32))
    predict = _predictions(loaded, joined=raw)
    levels = jax.eval_shape(predict, np.zeros((1, *canvas, 3), np.uint8), np.zeros((1, 2), np.int32))
    parts = [f"l{level}_{part}" for level in range(len(levels) // 3) for part in ("boxes", "scores", "rank")]
    names = ["boxes", "scores"] if raw else parts
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it says of hundreds of shapes that it leaves them open
    try:
        network = to_onnx(
            predict, shapes, model_name="detector", opset=OPSET, input_names=["images", "sizes"], output_names=names
        )
    except Exception as error:  # of many types, for what it does not know
        raise ExportError(f"jax2onnx cannot convert this model: {' '.join(str(error).split())[:300]}") from error
    if not raw:
        text = onnx_nms.graph_text(
            [(scores.shape[1], scores.shape[2]) for scores in levels[1::3]],
            per_level=loaded.model.nms_candidates,
            threshold=loaded.model.nms_threshold,
            keep=loaded.model.max_detections,
            clip_boxes=loaded.model.clip_boxes,
        )
        suppression = onnx.helper.make_model(
            onnx.parser.parse_graph(text), opset_imports=network.opset_import, ir_version=network.ir_version
        )
        _append(network, onnx.compose.add_prefix(suppression, "nms/", rename_inputs=False, rename_outputs=False))
    network = repair(network)
    onnx.checker.check_model(network, full_check=True)
    return network


def open_folder(folder: Path, canvases: tuple[tuple[int, int], ...]) -> Detect:
    """Runs the files of a folder with onnxruntime, on the CPU."""
    try:
        import onnxruntime  # type: ignore[import-not-found]
    except ImportError as error:
        raise ExportError(
            "--check of ONNX needs a package that is not installed: pip install 'dyhead-jax[onnx]'"
        ) from error
    sessions = {
        canvas: onnxruntime.InferenceSession(
            str(folder / about.name_of(canvas, SUFFIX)), providers=["CPUExecutionProvider"]
        )
        for canvas in canvases
    }

    def detect(images: np.ndarray, sizes: np.ndarray) -> Detections:
        session = sessions[images.shape[1], images.shape[2]]
        return Detections(*session.run(list(OUTPUTS), {"images": images, "sizes": sizes}))

    return detect


def check_installed() -> Any:
    """The package `onnx`. Raises ExportError where it or jax2onnx is missing."""
    try:
        import jax2onnx  # type: ignore[import-not-found] # noqa: F401
        import onnx  # type: ignore[import-not-found]
    except ImportError as error:
        raise ExportError(
            f"ONNX needs a package that is not installed ({error.name}): pip install 'dyhead-jax[onnx]'"
        ) from error
    return onnx


class _Shape:
    """What `to_onnx` takes for a shape with a symbolic size."""

    def __init__(self, shape: tuple[Any, ...], dtype: np.dtype):
        self.shape, self.dtype = shape, dtype


def _predictions(loaded: InferenceModel, *, joined: bool) -> Any:
    """The function (images, sizes) -> boxes, scores and rank of each level, or boxes and scores of all."""

    def candidates(model: DenseDetector, images: jax.Array, sizes: jax.Array) -> list[jax.Array]:
        levels = model.candidates(model.features(images, sizes))
        if joined:
            return [jax.numpy.concatenate([level[part] for level in levels], axis=1) for part in (0, 1)]
        return [array for level in levels for array in level]

    def predict(images: jax.Array, sizes: jax.Array) -> list[jax.Array]:
        with backend.tracing_for("gpu"):
            return loaded.model.apply(loaded.variables, images, sizes, method=candidates)

    return predict


def _append(network: Any, tail: Any) -> None:
    """Continues the graph of `network` by that of `tail`, whose inputs are outputs and inputs of it by name."""
    network.graph.node.extend(tail.graph.node)
    network.graph.initializer.extend(tail.graph.initializer)
    del network.graph.output[:]
    network.graph.output.extend(tail.graph.output)
