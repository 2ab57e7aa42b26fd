"""What a training on a folder of photographs would make of it: `python -m dyhead_jax.data check`.

Coordinates: boxes are (x1, y1, x2, y2) in pixels of the picture as it is given to the network, continuous.
"""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dyhead_jax.data import fonts, frames, images, pictures
from dyhead_jax.data.annotations import Records, collected
from dyhead_jax.data.encoded import FolderImages
from dyhead_jax.data.index import Doubt, Index, make_index
from dyhead_jax.data.layouts.parts import Part
from dyhead_jax.data.source import DataError

DOUBTS = {"no area": "left out: no area", "outside": "left out: outside", "clipped": "clipped", "tiny": "tiny"}


@dataclass(slots=True)
class Checked:
    """errors: one line for each thing that stops a training; notes: as in `source.Split`, what is left out, repaired or
    taken in another way; index: what is kept, None when nothing can be; doubtful: for each image that is not taken as
    it stands its row of the index, and why; files: the images of the index."""

    errors: list[str]
    notes: list[str] = field(default_factory=list)
    index: Index | None = None
    doubtful: dict[int, str] = field(default_factory=dict)
    doubts: list[Doubt] = field(default_factory=list)
    files: FolderImages | None = None


def check(part: Part, box_frame: str = "", *, decode: bool = True, progress: bool = False) -> Checked:
    """Reads a part in full, and goes on after a fault. decode: every picture too; box_frame: as in `frames.find`."""
    result = Checked([])
    try:
        found = part.read(0, result.errors)
    except DataError as error:
        result.errors.append(str(error))
        return result
    every = FolderImages(found.folder, [image.file_name for image in found.images])
    headers = every.headers(found.records.path, result.errors)
    there = [row for row, header in enumerate(headers) if header is not None]
    kept = [found.images[row] for row in there]
    if not kept:
        result.errors.append(f"{found.records.path}: there is no image")
        return result
    own = [header for header in headers if header is not None]
    frame = frames.find(found.records, kept, own, box_frame, result.errors)
    with collected(result.errors):
        make_index(found.records, kept, frame, judged=not box_frame)
    result.index = make_index(found.records, kept, frame, result.doubts, judged=False)
    result.notes = result.index.notes
    result.files = FolderImages(found.folder, result.index.file_names)
    result.doubtful = _doubtful(found.records, result.index, result.doubts)
    if decode:
        result.errors += _broken(result.files, len(kept), progress)
    return result


def _doubtful(records: Records, index: Index, doubts: list[Doubt]) -> dict[int, str]:
    words: dict[int, list[str]] = {}
    for row in np.flatnonzero(index.upright).tolist():
        words.setdefault(row, []).append("turned upright")
    factors = index.factors / index.sizes[:, ::-1] if records.fractions else index.factors
    for row in np.flatnonzero((factors != 1).any(axis=1)).tolist():
        words.setdefault(row, []).append(f"boxes scaled by {factors[row].mean():.3g}")
    for (row, kind), count in Counter((doubt.row, doubt.kind) for doubt in doubts).items():
        words.setdefault(row, []).append(f"{count} {'box' if count == 1 else 'boxes'} {DOUBTS[kind]}")
    return {row: ", ".join(words[row]) for row in sorted(words)}


def _broken(files: FolderImages, count: int, progress: bool) -> list[str]:
    def fault(row: int) -> list[str]:
        errors: list[str] = []
        with collected(errors):
            images.decode(files.read(row), files.name(row))
        return errors

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = tqdm(pool.map(fault, range(count)), "pictures", total=count, unit="image", disable=not progress)
        return [error for errors in found for error in errors]


def draw(checked: Checked, out: Path, name: str, count: int) -> Iterator[Path]:
    """Writes the first `count` doubtful pictures with their boxes into a folder; those that cannot be read are none.

    Boxes that are not taken as they stand are drawn beside those that are, with the reason, as far as they lie inside.
    """
    index, files = checked.index, checked.files
    if index is None or files is None:
        return
    names = fonts.readable(index.class_names)
    names += [f"{own}: {text}" for text in DOUBTS.values() for own in names]
    out.mkdir(parents=True, exist_ok=True)
    for row in checked.doubtful:
        if count <= 0:
            return
        try:
            image = images.decode(files.read(row), files.name(row), upright=bool(index.upright[row]))
        except DataError:
            continue
        own = slice(index.starts[row], index.starts[row + 1])
        doubts = [doubt for doubt in checked.doubts if doubt.row == row]
        shifts = [(1 + list(DOUBTS).index(doubt.kind)) * len(index.class_names) for doubt in doubts]
        boxes = np.array([*index.boxes[own].tolist(), *(doubt.box for doubt in doubts)]).reshape(-1, 4)
        labels = [*index.labels[own].tolist(), *(d.label + shift for d, shift in zip(doubts, shifts, strict=True))]
        path = out / f"{name}_{row:06d}.png"
        pictures.save(pictures.draw(image, boxes, np.array(labels, int), None, names), path)
        count -= 1
        yield path
