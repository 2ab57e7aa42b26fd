"""COCO average precision of boxes with pycocotools: reading and checking files, the 12 numbers, printing them.

Boxes of results are (x, y, width, height) in pixels of the original image, see
https://cocodataset.org/#format-results.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dyhead_jax.data import box_format, coco_json
from dyhead_jax.data.json_file import is_number, read_json, short
from dyhead_jax.data.source import DataError

Result = dict[str, Any]

KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_MEANINGS = (
    "average precision at IoU 0.50 to 0.95",
    "at IoU 0.50",
    "at IoU 0.75",
    "of small objects, below 32x32 pixels",
    "of medium objects",
    "of large objects, above 96x96 pixels",
    "average recall with 1 detection per image",
    "with 10",
    "with 100",
    "of small objects",
    "of medium objects",
    "of large objects",
)


class EvaluationError(ValueError):
    """Results cannot be scored; the message names the record and the key."""


def read_ground_truth(path: str | Path) -> dict[str, Any]:
    """Reads a COCO instances file for `coco_metrics`. Raises DataError, which names the file, record and key.

    Annotation ids that are 0 or repeated are replaced, because pycocotools miscounts such annotations.
    """
    return coco_json.truth(Path(path))


def read_results(path: str | Path) -> list[Result]:
    """Reads a COCO results file: a JSON list of {image_id, category_id, bbox, score}. Raises EvaluationError if it is
    not a JSON list; `coco_metrics` checks the records, `check_format` what their boxes are."""
    path = Path(path)
    try:
        results = read_json(path)
    except DataError as error:
        raise EvaluationError(str(error)) from error
    if not isinstance(results, list):
        raise EvaluationError(
            f"{path} holds a {type(results).__name__}; a COCO results file is a list of detections"
            " {image_id, category_id, bbox, score}"
        )
    return results


def check_format(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], where: str) -> None:
    """Raises EvaluationError where the boxes of results are not x, y, width, height in pixels, but those of the ground
    truth are: see `box_format.mistake`. Both as `coco_metrics` takes them."""
    sizes = {image["id"]: (image.get("height", np.nan), image.get("width", np.nan)) for image in ground_truth["images"]}

    def mistake(records: Sequence[Mapping[str, Any]]) -> str | None:
        return box_format.mistake(
            np.array([record["bbox"] for record in records]),
            np.array([sizes[record["image_id"]] for record in records]),
        )

    wrong = mistake(results)
    if wrong and not mistake(ground_truth["annotations"]):
        raise EvaluationError(f"{where}: {wrong}")


def coco_metrics(
    ground_truth: Mapping[str, Any] | str | Path, results: Sequence[Mapping[str, Any]], *, where: str = "results"
) -> dict[str, Any]:
    """The 12 COCO numbers under KEYS, and under "per_class" the AP by category id.

    ground_truth: a COCO object as returned by `source.Split.coco`, or the path of a COCO file. results: as returned by
    `to_results`. where: the name of the results in error messages.
    As in pycocotools a number is -1 if there is no ground truth for it; an empty list of results scores 0.
    Raises EvaluationError, which names the record and the key, if results do not fit the ground truth: an unknown image
    or category, a missing key, a box that is not four finite numbers, a score that is not a finite number.
    """
    if isinstance(ground_truth, str | Path):
        ground_truth = read_ground_truth(ground_truth)
    detections = _checked(ground_truth, results, where)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = _coco(ground_truth, ground_truth["annotations"])
        evaluation = COCOeval(truth, _coco(ground_truth, detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics: dict[str, Any] = {key: float(value) for key, value in zip(KEYS, evaluation.stats, strict=True)}
    precision = evaluation.eval["precision"][
        :, :, :, 0, -1
    ]  # (thresholds, recalls, classes): all areas, 100 detections
    metrics["per_class"] = {
        int(category): float(precision[:, :, k].mean()) if precision[0, 0, k] > -1 else -1.0
        for k, category in enumerate(evaluation.params.catIds)
    }
    return metrics


def _coco(ground_truth: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> COCO:
    # COCO.loadRes fails on an empty list and modifies the records that it is given.
    coco = COCO()
    dataset: Any = {
        "images": list(ground_truth["images"]),
        "categories": list(ground_truth["categories"]),
        "annotations": [dict(annotation) for annotation in annotations],
    }
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _checked(ground_truth: Mapping[str, Any], results: Sequence[Any], where: str) -> list[Result]:
    """The results as COCO annotations, with areas and with ids counted from 1."""
    images = {image["id"] for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    annotations = []
    for i, result in enumerate(results):
        if not isinstance(result, Mapping):
            raise EvaluationError(f"{where}: record {i} is a {type(result).__name__}; it must be an object")
        for key in ("image_id", "category_id", "bbox", "score"):
            if key not in result:
                raise EvaluationError(f"{where}: record {i} has no key {key!r}")
        image_id, category_id, bbox, score = (result[k] for k in ("image_id", "category_id", "bbox", "score"))
        if not isinstance(image_id, int | float) or image_id not in images:
            raise EvaluationError(f"{where}: record {i} is of image_id {short(image_id)}, which the ground truth lacks")
        if not isinstance(category_id, int | float) or category_id not in categories:
            raise EvaluationError(
                f"{where}: record {i} has category_id {short(category_id)}, which the ground truth lacks"
            )
        if not is_number(score):
            raise EvaluationError(f"{where}: record {i} has score {short(score)}; it must be a finite number")
        if not isinstance(bbox, list | tuple) or len(bbox) != 4 or not all(is_number(v) for v in bbox):
            raise EvaluationError(
                f"{where}: record {i} has bbox {short(bbox)}; it must be four finite numbers x, y, w, h"
            )
        if bbox[2] < 0 or bbox[3] < 0:
            raise EvaluationError(f"{where}: record {i} has bbox {short(bbox)} of negative width or height")
        annotations.append(
            {
                "id": i + 1,
                "image_id": int(image_id),
                "category_id": int(category_id),
                "bbox": [float(v) for v in bbox],
                "area": float(bbox[2]) * float(bbox[3]),
                "iscrowd": 0,
                "score": float(score),
            }
        )
    return annotations


def scores_at(rows: Sequence[Mapping[str, Any]], step: int) -> dict[str, float] | None:
    """The numbers of KEYS at a step; None unless one line of metrics.jsonl has all of them.

    rows: as from `metrics.read_metrics`.
    """
    names = {f"eval/{key}": key for key in KEYS}
    for row in rows:
        scores = {names[name]: value for name, value in row.items() if name in names and value is not None}
        if row["step"] == step and len(scores) == len(names):
            return scores
    return None


def ap_line(metrics: Mapping[str, Any]) -> str:
    """The last line of a run: `AP <x> AP50 <x> AP75 <x> APs <x> APm <x> APl <x>`."""
    return " ".join(f"{key} {metrics[key]:.4f}" for key in KEYS[:6])


def table(metrics: Mapping[str, Any], categories: Mapping[int, str] | None = None) -> str:
    """One line for each of the 12 numbers, and for the AP of each class if `categories` (names by id) is given."""
    lines = [f"{key:<6} {metrics[key]:7.4f}  {meaning}" for key, meaning in zip(KEYS, _MEANINGS, strict=True)]
    if categories:
        width = max(len(name) for name in categories.values())
        lines.append("AP by class")
        lines += [f"  {categories[key]:<{width}} {value:7.4f}" for key, value in metrics["per_class"].items()]
    return "\n".join(lines)
