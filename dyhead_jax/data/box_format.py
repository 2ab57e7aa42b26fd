"""Whether boxes are x, y, width, height in pixels, or something else that was taken for it.

Two mistakes are common: fractions of the picture, all of which then lie within its first pixel, and corners x1, y1, x2,
y2, which then reach far beyond it. Both leave a training or an evaluation that runs and means nothing.
"""

import numpy as np

_LEAST_SIDE = 8  # of a picture; in a smaller one a box within the first pixels is nothing odd


def mistake(boxes: np.ndarray, sizes: np.ndarray) -> str | None:
    """What boxes (n, 4) seem to be, if not x, y, width, height in pixels; None when nothing is wrong.

    sizes: (n, 2) height, width of the picture of each, NaN where it is not known.
    """
    boxes, sizes = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(sizes, np.float64).reshape(-1, 2)
    drawn = (boxes[:, 2:] > 0).all(axis=1)
    boxes, sizes = boxes[drawn], sizes[drawn]
    if not len(boxes):
        return None
    large = ~(sizes.min(axis=1) < _LEAST_SIDE)
    tiny = (np.abs(boxes) <= 1.5).all(axis=1) & large
    if tiny.mean() > 0.5:
        return (
            f"{int(tiny.sum())} of {len(boxes)} boxes lie within the first pixel of their picture, such as"
            f" {_text(boxes[tiny][0])}: fractions of the picture, it seems; they must be pixels"
        )
    known = np.isfinite(sizes).all(axis=1)
    boxes, limits = boxes[known], sizes[known][:, ::-1]
    if not len(boxes):
        return None
    corners = (boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, 2:] <= limits + 1).all() and (boxes[:, :2] >= -1).all()
    beyond = (boxes[:, :2] + boxes[:, 2:] > limits + 1).any(axis=1)
    if corners and beyond.mean() > 0.5:
        return (
            f"{int(beyond.sum())} of {len(boxes)} boxes reach beyond their picture, such as {_text(boxes[beyond][0])}:"
            " corners x1, y1, x2, y2, it seems; they must be x, y, width, height"
        )
    return None


def _text(box: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
