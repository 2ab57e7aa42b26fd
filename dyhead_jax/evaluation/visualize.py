"""A look at a detector's results on held-out images: predicted beside true boxes."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dyhead_jax.data import fonts, pictures
from dyhead_jax.data.source import Split


def held_out(
    split: Split,
    results: Iterable[Mapping[str, Any]],
    *,
    count: int = 9,
    score: float = 0.3,
    side: int = 320,
    pairs: int = 3,
) -> np.ndarray:
    """A grid of the first `count` images of a split, in pairs: predicted boxes on the left, true ones on the right.

    results: COCO results of the split (see `split.to_results`); those scored below `score` are left out. side: longer
    side of a picture, in pixels. pairs: per row. Crowd regions are drawn as true boxes named "<class> (crowd)".
    """
    count = min(count, len(split))
    shown = {int(split.image_ids[i]): [] for i in range(count)}
    for result in results:
        if result["score"] >= score and result["image_id"] in shown:
            shown[result["image_id"]].append(result)
    label_of = {category: label for label, category in enumerate(split.category_ids)}
    names = fonts.readable(split.class_names)
    truth_names = [*names, *(f"{name} (crowd)" for name in names)]
    tiles = []
    for i in range(count):
        example = split[i]
        small, scale = pictures.fit(example.image, side)
        detections = shown[example.image_id]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (result["bbox"] for result in detections)]
        predicted = pictures.draw(
            small,
            np.array(corners, np.float64).reshape(-1, 4) * scale,
            np.array([label_of[result["category_id"]] for result in detections], int),
            np.array([result["score"] for result in detections]),
            names,
        )
        crowd = np.where(example.crowd, len(split.class_names), 0)
        true = pictures.draw(small, example.boxes * scale, example.labels + crowd, None, truth_names)
        tiles += [predicted, true]
    rows = [tiles[i : i + 2 * pairs] for i in range(0, len(tiles), 2 * pairs)]
    return pictures.grid(rows, ["predicted", "true"] * min(pairs, count))
