"""Pictures of what the network sees: each row of the batches beside the image as it is annotated, both with boxes.

Coordinates: boxes are (x1, y1, x2, y2) in pixels of the picture they are drawn on, continuous.
"""

import itertools
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dyhead_jax.config import Config
from dyhead_jax.data import fonts, pictures, pipeline
from dyhead_jax.data.pipeline import Loaded
from dyhead_jax.data.source import NO_IMAGE, Split

SHEET = "contact_sheet.png"
_TILE = 240  # pixels of the longer side of a picture in the contact sheet
_COLUMNS = 4


@dataclass(slots=True)
class Shown:
    """files: what was written, the contact sheet last; boxes, left_out: how many are drawn as the network sees them and
    how many the transforms or `max_boxes` removed from the same rows."""

    files: list[Path]
    boxes: int
    left_out: int


def show(split: Split, config: Config, out: Path, *, name: str, count: int, step: int, progress: bool = False) -> Shown:
    """Writes a picture for each of the first `count` rows of the batches from `step` on, and a contact sheet of them.

    name: "train", with all that is random in training, or "val"; step: counted from 0. Fewer pictures are written when
    the validation part ends. Files are <name>_<step>_<row>.png. Raises DataError when there is nothing to load.
    """
    data = replace(config.data, workers=0)
    if name == "train":
        batches: Iterator[Loaded] = pipeline.train_batches(split, data, config.seed, start_step=step)
    else:
        batches = itertools.islice(pipeline.eval_batches(split, data), step, None)
    names = fonts.readable(split.class_names)
    names += [f"{name} (crowd)" for name in names]
    row_of = {int(image_id): row for row, image_id in enumerate(split.image_ids)}
    out.mkdir(parents=True, exist_ok=True)
    files, tiles, boxes, left_out = [], [], 0, 0
    with closing(_Rows(batches)) as rows, tqdm(total=count, unit="picture", disable=not progress) as bar:
        for number, row, loaded in itertools.islice(rows, count):
            example = split[row_of[int(loaded.image_ids[row])]]
            seen = _seen(loaded, row, names)
            stored, scale = pictures.fit(example.image, max(seen.shape[:2]))
            labels = example.labels + np.where(example.crowd, len(split.class_names), 0)
            stored = pictures.draw(stored, example.boxes * scale, labels, None, names)
            path = out / f"{name}_{step + number:06d}_{row:03d}.png"
            pictures.save(pictures.grid([[stored, seen]], ("as annotated", "as the network sees it")), path)
            files.append(path)
            tiles.append(pictures.fit(seen, _TILE)[0])
            boxes += int(np.sum(loaded.batch.ground_truth.mask[row]))
            left_out += int(loaded.left_out[row])
            bar.update()
    if tiles:
        sheet = [tiles[start : start + _COLUMNS] for start in range(0, len(tiles), _COLUMNS)]
        pictures.save(pictures.grid(sheet), out / SHEET)
        files.append(out / SHEET)
    return Shown(files, boxes, left_out)


class _Rows:
    """(number of the batch, row, batch) of every row that is an image."""

    def __init__(self, batches: Iterator[Loaded]):
        self._batches = batches

    def __iter__(self) -> Iterator[tuple[int, int, Loaded]]:
        for number, loaded in enumerate(self._batches):
            for row in np.flatnonzero(loaded.image_ids != NO_IMAGE).tolist():
                yield number, row, loaded

    def close(self) -> None:
        """Ends the threads that load ahead."""
        if isinstance(self._batches, pipeline.TrainIterator):
            self._batches.close()


def _seen(loaded: Loaded, row: int, names: list[str]) -> np.ndarray:
    truth = loaded.batch.ground_truth
    mask = np.asarray(truth.mask)[row]
    labels = np.asarray(truth.labels)[row] + np.where(truth.crowd[row], len(names) // 2, 0)
    return pictures.draw(
        np.asarray(loaded.batch.images)[row], np.asarray(truth.boxes)[row][mask], labels[mask], None, names
    )
