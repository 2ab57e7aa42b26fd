"""The pictures with the most errors, predicted beside true boxes.

Coordinates: pictures are (h, w, 3) uint8 RGB; boxes are (x, y, width, height) in pixels of the original image.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from dyhead_jax import command
from dyhead_jax.data import pictures
from dyhead_jax.data.source import DataError
from dyhead_jax.evaluation.report.columns import Columns
from dyhead_jax.evaluation.report.confusion import Confusion

SIDE = 560  # pixels, the longer side of a picture on the page

ReadPicture = Callable[[int, str], np.ndarray]  # image id and file name -> (h, w, 3) uint8


@dataclass(frozen=True, slots=True)
class Picture:
    """One image. errors: what went wrong, in words; labels: of the boxes drawn; predicted, true: drawn pictures, None
    if there is none; problem: why not, if one was asked for."""

    image_id: int
    file_name: str
    right: int
    missed: int
    wrong_class: int
    false: int
    errors: str
    labels: frozenset[int]
    predicted: np.ndarray | None = None
    true: np.ndarray | None = None
    problem: str = ""


def worst(table: Columns, confusion: Confusion, count: int) -> np.ndarray:
    """Rows of the images with the most errors (missed, false, wrong class), worst first; of equal ones those with fewer
    hits come first. Images without errors are left out."""
    errors = confusion.missed + confusion.false + confusion.wrong_class
    order = np.lexsort((np.arange(len(errors)), confusion.right, -errors))
    return order[errors[order] > 0][:count]


def picture(table: Columns, confusion: Confusion, row: int, read: ReadPicture | None) -> Picture:
    """The picture of an image row. read: None leaves the pictures out."""
    found = np.flatnonzero((table.image == row) & confusion.shown)
    truth = np.flatnonzero(table.truth_image == row)
    hit = confusion.truth[found]
    excused = confusion.on_crowd[found]
    own = np.append(table.truth_class, -1)[hit]
    right = (hit >= 0) & (own == table.label[found])
    wrong_class = (hit >= 0) & ~right
    false = (hit < 0) & ~excused
    names = table.class_names
    missed = confusion.missed_truth[truth]
    words = [
        _counted("missed", (names[i] for i in table.truth_class[truth[missed]])),
        _counted(
            "wrong class",
            (
                f"{names[t]} taken for {names[p]}"
                for t, p in zip(own[wrong_class], table.label[found[wrong_class]], strict=True)
            ),
        ),
        _counted("false", (names[i] for i in table.label[found[false]])),
    ]
    result = Picture(
        image_id=int(table.image_ids[row]),
        file_name=table.file_names[row],
        right=int(right.sum()),
        missed=int(missed.sum()),
        wrong_class=int(wrong_class.sum()),
        false=int(false.sum()),
        errors="; ".join(text for text in words if text),
        labels=frozenset(map(int, [*table.label[found], *table.truth_class[truth]])),
    )
    if read is None:
        return result
    try:
        image, scale = pictures.fit(read(result.image_id, result.file_name), SIDE)
    except (DataError, OSError) as error:
        return replace(result, problem=command.one_line(error))
    predicted, true = _corners(table.box[found]) * scale, _corners(table.truth_box[truth]) * scale
    overlooked = missed | np.isin(truth, hit[wrong_class])
    hatched = _hatch(image, predicted[~right & ~excused])
    # A crowd region has the class of its objects and a name that tells it from them.
    label = table.truth_class[truth] + np.where(table.crowd[truth], len(names), 0)
    true_names = [*names, *(f"{name} (crowd)" for name in names)]
    return replace(
        result,
        predicted=pictures.draw(hatched, predicted, table.label[found], table.score[found], names),
        true=pictures.draw(_hatch(image, true[overlooked]), true, label, None, true_names),
    )


def _counted(what: str, names: Iterable[str]) -> str:
    """`2 missed (cat, dog)`, or nothing."""
    counts = Counter(names)
    if not counts:
        return ""
    listed = ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.most_common())
    return f"{counts.total()} {what} ({listed})"


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _hatch(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """A copy with dark and light stripes inside the boxes (n, 4), x1 y1 x2 y2: any colour may stand for a class."""
    inside = np.zeros(image.shape[:2], bool)
    for x1, y1, x2, y2 in np.clip(np.rint(boxes), 0, 1e6).astype(int):
        inside[y1:y2, x1:x2] = True
    y, x = np.indices(inside.shape)
    stripe = (x + y) % 12
    hatched = image.copy()
    for low, shade in ((0, 0), (2, 255)):
        drawn = inside & (stripe >= low) & (stripe < low + 2)
        hatched[drawn] = np.rint(0.5 * image[drawn] + 0.5 * shade).astype(np.uint8)
    return hatched
