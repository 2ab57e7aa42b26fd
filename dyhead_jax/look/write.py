"""Looks at one picture with a trained model and writes the page and its pictures."""

from pathlib import Path

import numpy as np

from dyhead_jax import command
from dyhead_jax.evaluation.trained_model import InferenceModel
from dyhead_jax.files import write_atomic
from dyhead_jax.inference.model import Model
from dyhead_jax.look.page import render
from dyhead_jax.look.record import Recorder, RecordError
from dyhead_jax.look.report import sections
from dyhead_jax.look.taps import cell_at, checked_level, level_of

PAGE = "index.html"


def write(
    loaded: InferenceModel,
    image: np.ndarray,
    source: Path,
    out: Path,
    point: tuple[float, float] | None = None,
    level: int | None = None,
) -> str:
    """Writes the page of `image` (h, w, 3) uint8 RGB into `out`, and returns a line that says what was done.

    source: the file that the image came from, which is not overwritten. point: (x, y) in pixels of the image; None: the
    centre of the best detection, or of the image without one. level: 0 is the finest; None: by the size of the
    detection. Raises RecordError for a point or level that is not there, and for a model without DyHead blocks.
    """
    found = Model(loaded)(image, 0.0)
    record = Recorder(loaded)(image)
    box = found.boxes[0].tolist() if len(found) and point is None else None
    height, width = image.shape[:2]
    if point is not None:
        where = "the point given"
    elif box is not None:
        point = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        where = f"centre of the best detection, {found.names[0]} scored {found.scores[0]:.2f}"
    else:
        point, where = (width / 2, height / 2), "centre of the picture, in which nothing was detected"
    level = level_of(record, box) if level is None else checked_level(record, level)
    cell_at(record, level, point)  # raises for a point beside the picture, before anything is drawn
    parts, notes = sections(record, point, level, box)

    pictures = {picture.name: picture.png for part in parts for picture in part.pictures}
    for name in (PAGE, *pictures):
        if command.real(out / name) == command.real(source):
            raise RecordError(f"{out / name}: is the input and would be overwritten; give another folder")
    facts = [
        f"{width} x {height} pixels; the network sees {record.size[1]} x {record.size[0]}."
        f" Model of {len(record.blocks)} blocks, step {loaded.step}.",
        f"Point ({point[0]:.0f}, {point[1]:.0f}): {where}. Level {level}, stride {record.strides[level]}.",
    ]
    out.mkdir(parents=True, exist_ok=True)
    for name, png in pictures.items():
        write_atomic(out / name, png)
    write_atomic(out / PAGE, render(f"What the attentions do with {source.name}", facts, parts, notes).encode())
    return f"{out / PAGE} and {len(pictures)} pictures; {where}" + "".join(f"\nnot shown: {note}" for note in notes)
