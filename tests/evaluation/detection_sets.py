"""Ground truth and detections for the tests of the report: made on purpose, and drawn at random from a seed."""

from typing import Any

import numpy as np

NAMES = ("cat", "<script>alert(1)</script>", "犬 & co", "dog", "bird")


def truth(boxes: list[tuple], count: int = 3, images: int = 2) -> dict[str, Any]:
    """boxes: (image, category, x, y, width, height), optionally with iscrowd. Images are 1, 2, ...; categories 10, 20,
    ..."""
    annotations = [
        {
            "id": i,
            "image_id": box[0],
            "category_id": box[1],
            "bbox": [float(v) for v in box[2:6]],
            "area": float(box[4] * box[5]),
            "iscrowd": box[6] if len(box) > 6 else 0,
        }
        for i, box in enumerate(boxes, 1)
    ]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 100, "width": 100} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": 10 * (i + 1), "name": NAMES[i]} for i in range(count)],
    }


def found(*boxes: tuple) -> list[dict[str, Any]]:
    """boxes: (image, category, score, x, y, width, height)."""
    return [
        {"image_id": b[0], "category_id": b[1], "score": float(b[2]), "bbox": [float(v) for v in b[3:]]} for b in boxes
    ]


def hits(ground_truth: dict[str, Any]) -> list[dict[str, Any]]:
    """A detection on every true box that is no crowd, scores falling from .9."""
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "score": 0.9 - 0.01 * i, "bbox": list(a["bbox"])}
        for i, a in enumerate(ground_truth["annotations"])
        if not a["iscrowd"]
    ]


def random_set(seed: int, *, images: int = 12, most: int = 12, ties: bool = False, crowded: bool = False) -> tuple:
    """(ground truth, detections): true boxes, some crowds, detections near them, on them twice, of other classes and
    anywhere. crowded: some images have more than 100 detections of one class. ties: scores in tenths."""
    rng = np.random.default_rng(seed)
    boxes: list[tuple] = []
    detections: list[tuple] = []
    for image in range(1, images + 1):
        own = rng.integers(0, most)
        for _ in range(own):
            box = np.round(np.concatenate([rng.uniform(0, 60, 2), rng.uniform(5, 50, 2)]), 1)
            category = 10 * int(rng.integers(1, 5))
            boxes.append((image, category, *box.tolist(), int(rng.random() < 0.1)))
            for _ in range(rng.integers(0, 4)):
                near = np.abs(box + rng.normal(0, rng.choice([0.5, 4.0, 12.0]), 4))
                seen = category if rng.random() < 0.75 else 10 * int(rng.integers(1, 6))
                detections.append((image, seen, rng.random(), *near.tolist()))
        for _ in range(rng.integers(110, 150) if crowded and image % 4 == 0 else rng.integers(0, 5)):
            box = np.concatenate([rng.uniform(0, 60, 2), rng.uniform(5, 50, 2)])
            category = 20 if crowded else 10 * int(rng.integers(1, 6))
            detections.append((image, category, 0.7 * rng.random(), *box.tolist()))
    order = rng.permutation(len(detections))
    detections = [detections[i] for i in order]
    if ties:
        detections = [(d[0], d[1], round(d[2], 1), *d[3:]) for d in detections]
    return truth(boxes, count=5, images=images), found(*detections)
