"""export.json beside exported programs: how to make their inputs and read their outputs.

Inputs of each file: images (b, h, w, 3) uint8 RGB, a picture resized and put in the top-left corner of its canvas
(h, w), zero elsewhere; sizes (b, 2) int32 (height, width) of each picture there. Outputs: boxes (b, d, 4) float32
x1 y1 x2 y2 in pixels of the canvas, scores (b, d) float32, labels (b, d) int32, best first; 0 and -1 where empty.
"""

import json
from pathlib import Path
from typing import Any

from dyhead_jax.evaluation.trained_model import InferenceModel
from dyhead_jax.files import write_atomic

FILE = "export.json"
OUTPUTS = ("boxes", "scores", "labels")


class ExportError(ValueError):
    """A model that cannot be exported, or a folder that cannot be written; the message names what is at fault."""


def name_of(canvas: tuple[int, int], suffix: str) -> str:
    """The file of a canvas (height, width)."""
    return f"model_{canvas[0]}x{canvas[1]}{suffix}"


def write(folder: Path, loaded: InferenceModel, kind: str, suffix: str, **more: Any) -> None:
    """Writes export.json for files named by `name_of`. more: what the format has to add."""
    data = loaded.config.data
    content = {
        "format": kind,
        "class_names": list(loaded.class_names),
        "category_ids": list(loaded.category_ids),
        "step": loaded.step,
        "inputs": {"images": "(b, h, w, 3) uint8 RGB, top-left in the canvas", "sizes": "(b, 2) int32 height, width"},
        "resize": {
            "short_side": max(data.short_side),
            "long_side": data.long_side,
            "how": "scale = min(short_side / min(h, w), long_side / max(h, w), canvas / size); bilinear, or by area"
            " where a side shrinks to less than half; of the canvases the one on which the picture is largest",
        },
        "canvases": [
            {"height": canvas[0], "width": canvas[1], "file": name_of(canvas, suffix)} for canvas in data.canvases
        ],
        **more,
    }
    write_atomic(folder / FILE, json.dumps(content, indent=1).encode())
