"""COCO average precision: of detections in a file, or of a trained model on a split.

The numbers are pycocotools' own (COCOeval, boxes, default parameters). Boxes of results are (x, y, width, height) in
pixels of the original image, as in https://cocodataset.org/#format-results.

    python -m dyhead_jax.evaluate --help
"""

import contextlib
import dataclasses
import io
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from dyhead_jax import command
from dyhead_jax.config import DataConfig
from dyhead_jax.data import coco_json
from dyhead_jax.data.source import Split, make_source
from dyhead_jax.report import write_atomic
from dyhead_jax.types import Detections

Result = dict[str, Any]
Detect = Callable[[Any, Any], Detections]

KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_MEANINGS = (
    "average precision at IoU 0.50 to 0.95",
    "at IoU 0.50",
    "at IoU 0.75",
    "of small objects, below 32x32 pixels",
    "of medium objects",
    "of large objects, above 96x96 pixels",
    "average recall with 1 detection an image",
    "with 10",
    "with 100",
    "of small objects",
    "of medium objects",
    "of large objects",
)


class EvaluationError(ValueError):
    """Results that cannot be scored; the message names the record and the key."""


def to_results(
    detections: Detections,
    image_ids: np.ndarray,
    scales: np.ndarray,
    category_ids: Sequence[int],
    original_sizes: np.ndarray | None = None,
) -> list[Result]:
    """Detections of a batch as COCO results, in pixels of the original images.

    detections: boxes (b, d, 4) x1 y1 x2 y2 in pixels of the padded input, scores (b, d), labels (b, d), as NumPy or JAX
    arrays; image_ids: (b,), -1 where a row is padding; scales: (b, 2), resized over original size as (y, x);
    category_ids: the file's ids by label; original_sizes: (b, 2) height, width, to which boxes are clipped when given.
    Empty slots (score 0 or label -1) and padding rows are left out; the order within an image is kept.
    Raises EvaluationError for a NaN or infinite value in a slot that counts, or a label without a category.
    """
    boxes = np.asarray(detections.boxes).astype(np.float64)
    scores = np.asarray(detections.scores).astype(np.float64)
    labels = np.asarray(detections.labels)
    scales = np.asarray(scales, np.float64)
    factor = scales[:, None, [1, 0, 1, 0]]
    boxes = boxes / factor
    if original_sizes is not None:
        limit = np.asarray(original_sizes, np.float64)[:, None, [1, 0, 1, 0]]
        boxes = np.clip(boxes, 0.0, limit)
    results = []
    for row, image_id in enumerate(int(i) for i in image_ids):
        if image_id == -1:
            continue
        used = np.flatnonzero((labels[row] != -1) & (scores[row] != 0))
        finite = np.isfinite(scores[row, used]) & np.isfinite(boxes[row, used]).all(-1)
        if not finite.all():
            raise EvaluationError(f"image {image_id}: detection {used[~finite][0]} has a NaN or infinite value")
        for d in used:
            label = int(labels[row, d])
            if not 0 <= label < len(category_ids):
                raise EvaluationError(f"image {image_id}: label {label}, but there are {len(category_ids)} categories")
            x1, y1, x2, y2 = boxes[row, d].tolist()
            results.append(
                {
                    "image_id": image_id,
                    "category_id": int(category_ids[label]),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(scores[row, d]),
                }
            )
    return results


def read_ground_truth(path: str | Path) -> dict[str, Any]:
    """A COCO instances file as `coco_metrics` takes it. Raises DataError, which names the file, record and key.

    Annotation ids that are 0 or repeated are replaced, since pycocotools miscounts such annotations.
    """
    # Scoring needs no image sizes: a file without them is fine here, unlike in training.
    index = coco_json.load(Path(path), size_of=lambda _: (1, 1))
    return coco_json.ground_truth(index)


def read_results(path: str | Path) -> list[Result]:
    """A COCO results file: a JSON list of {image_id, category_id, bbox, score}. Raises EvaluationError when it is none;
    `coco_metrics` checks the records."""
    path = Path(path)
    try:
        results = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise EvaluationError(f"{path} is not JSON: {error}") from error
    if not isinstance(results, list):
        raise EvaluationError(
            f"{path} holds a {type(results).__name__}; a COCO results file is a list of detections"
            " {image_id, category_id, bbox, score}"
        )
    return results


def coco_metrics(
    ground_truth: Mapping[str, Any] | str | Path, results: Sequence[Mapping[str, Any]], *, where: str = "results"
) -> dict[str, Any]:
    """The 12 COCO numbers under KEYS and `per_class`, the AP of each category id.

    ground_truth: a COCO object as `source.Split.coco` gives it, or the path of a COCO file. results: as `to_results`
    gives them. where: what an error calls them.
    A number is -1 where there is no ground truth to measure it on, as in pycocotools; no results at all score 0.
    Raises EvaluationError, which names the record and the key, for results that do not fit the ground truth: an unknown
    image or category, a missing key, a box that is not four finite numbers, a score that is not a finite number.
    """
    if isinstance(ground_truth, str | Path):
        ground_truth = read_ground_truth(ground_truth)
    found = _checked(ground_truth, results, where)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress by print
        evaluation = COCOeval(_coco(ground_truth, ground_truth["annotations"]), _coco(ground_truth, found), "bbox")
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
    # Not COCO.loadRes: it fails on an empty list and writes into the records it is given.
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
    """The results as COCO annotations with ids from 1 and areas."""
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
            raise EvaluationError(f"{where}: record {i} is of image_id {image_id!r}, which the ground truth lacks")
        if not isinstance(category_id, int | float) or category_id not in categories:
            raise EvaluationError(f"{where}: record {i} has category_id {category_id!r}, which the ground truth lacks")
        if not _finite(score):
            raise EvaluationError(f"{where}: record {i} has score {score!r}; it must be a finite number")
        if not isinstance(bbox, list | tuple) or len(bbox) != 4 or not all(_finite(v) for v in bbox):
            raise EvaluationError(f"{where}: record {i} has bbox {bbox!r}; it must be four finite numbers x, y, w, h")
        if bbox[2] < 0 or bbox[3] < 0:
            raise EvaluationError(f"{where}: record {i} has bbox {bbox!r} of negative width or height")
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


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def ap_line(metrics: Mapping[str, Any]) -> str:
    """`AP <x> AP50 <x> AP75 <x> APs <x> APm <x> APl <x>`, the last line of a run."""
    return " ".join(f"{key} {metrics[key]:.4f}" for key in KEYS[:6])


def table(metrics: Mapping[str, Any], categories: Mapping[int, str] | None = None) -> str:
    """One line for each of the 12 numbers and, when names by category id are given, for the AP of each class."""
    lines = [f"{key:<6} {metrics[key]:7.4f}  {meaning}" for key, meaning in zip(KEYS, _MEANINGS, strict=True)]
    if categories:
        width = max(len(name) for name in categories.values())
        lines.append("AP by class")
        lines += [f"  {categories[key]:<{width}} {value:7.4f}" for key, value in metrics["per_class"].items()]
    return "\n".join(lines)


def evaluate_split(
    detect: Detect,
    split: Split,
    data: DataConfig,
    *,
    process_index: int = 0,
    process_count: int = 1,
    progress: bool | None = None,
) -> tuple[dict[str, Any], list[Result]]:
    """Runs a detector over every image of a split once and scores it.

    detect: images (b, h, w, 3) uint8 and sizes (b, 2) int32 height, width, both of this host, to Detections of the same
    rows; jitted, or mapped over devices. It is compiled once for each canvas.
    process_index, process_count: this host among those that share the split; every host gets all results.
    progress: a bar on standard error; None shows one on a terminal, on the first host only.
    Returns (metrics of `coco_metrics`, results in the order of the split's images).
    """
    from dyhead_jax.data import pipeline  # grain takes a second to import; scoring a file does without

    row_of = {int(image_id): row for row, image_id in enumerate(split.image_ids)}
    parts: list[dict[str, np.ndarray]] = []

    def finish(loaded: Any, detections: Detections) -> None:
        sizes = np.asarray(loaded.batch.ground_truth.sizes, np.float64)
        parts.append(
            {
                # Rows instead of ids: ids have up to 64 bits, which JAX would cut when hosts exchange them.
                "rows": np.array([row_of.get(int(i), -1) for i in loaded.image_ids], np.int32),
                "scales": np.asarray(loaded.scales, np.float32),
                "sizes": np.rint(sizes / np.asarray(loaded.scales, np.float64)).astype(np.int32),
                "boxes": np.asarray(detections.boxes).astype(np.float32),
                "scores": np.asarray(detections.scores).astype(np.float32),
                "labels": np.asarray(detections.labels).astype(np.int32),
            }
        )

    show = sys.stderr.isatty() if progress is None else progress
    pending = None
    with tqdm(
        total=len(split), unit="image", desc="evaluate", leave=False, disable=not show or process_index > 0
    ) as bar:
        batches = pipeline.eval_batches(split, data, process_index=process_index, process_count=process_count)
        for loaded in batches:
            # The device works on this batch while the next is loaded and the previous one is fetched.
            launched = loaded, detect(loaded.batch.images, loaded.batch.ground_truth.sizes)
            if pending is not None:
                finish(*pending)
            pending = launched
            bar.update(process_count * int((np.asarray(loaded.image_ids) != -1).sum()))
        if pending is not None:
            finish(*pending)
    joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    if process_count > 1:
        from jax.experimental import multihost_utils

        joined = jax.tree.map(np.asarray, multihost_utils.process_allgather(joined, tiled=True))
    order = np.argsort(joined["rows"], kind="stable")
    joined = {key: value[order] for key, value in joined.items()}
    ids = np.array([int(split.image_ids[row]) if row >= 0 else -1 for row in joined["rows"]], np.int64)
    seen = joined["rows"][joined["rows"] >= 0]
    if not np.array_equal(seen, np.arange(len(split))):
        raise EvaluationError(f"{len(seen)} images were evaluated, but the split has {len(split)}")
    detections = Detections(boxes=joined["boxes"], scores=joined["scores"], labels=joined["labels"])
    results = to_results(detections, ids, joined["scales"], split.category_ids, joined["sizes"])
    return coco_metrics(split.coco(), results, where="detections of the model"), results


def _main() -> None:
    parser = command.parser(
        "python -m dyhead_jax.evaluate",
        "COCO average precision of a trained model, or of detections in a file.\n\n"
        "Prints the 12 COCO numbers; the last line is\n  AP <x> AP50 <x> AP75 <x> APs <x> APm <x> APl <x>\n"
        "where -1 means that there is no ground truth of that size.",
        "  python -m dyhead_jax.evaluate --workdir /tmp/run\n"
        "  python -m dyhead_jax.evaluate --workdir /tmp/run --step 600 --out /tmp/detections.json\n"
        "  python -m dyhead_jax.evaluate --annotations instances_val.json --detections detections.json",
    )
    parser.add_argument("--workdir", type=Path, help="folder of a training run: config.json and checkpoints/")
    parser.add_argument("--step", type=int, help="checkpoint to take (default: the latest)")
    parser.add_argument("--split", default="val", choices=("val", "train"), help="part of the data set (default: val)")
    parser.add_argument("--data", help="folder of the data set, when it is not where the config says")
    parser.add_argument("--out", type=Path, help="also write the detections to this JSON file, as COCO results")
    parser.add_argument("--annotations", type=Path, help="COCO instances JSON: the ground truth")
    parser.add_argument(
        "--detections", type=Path, help="COCO results JSON: [{image_id, category_id, bbox, score}, ...]"
    )
    parser.add_argument("--classes", action="store_true", help="also print the AP of each class")
    options = parser.parse_args()
    files = options.annotations is not None or options.detections is not None
    if (options.workdir is None) == (not files):
        raise command.UsageError("give either --workdir, or --annotations and --detections (--help says more)")
    if files:
        if options.annotations is None or options.detections is None:
            raise command.UsageError("--annotations and --detections belong together")
        if options.step is not None or options.out is not None or options.data is not None:
            raise command.UsageError("--step, --out and --data belong to --workdir")
        ground_truth = read_ground_truth(options.annotations)
        metrics = coco_metrics(ground_truth, read_results(options.detections), where=str(options.detections))
    else:
        if options.out is not None and not options.out.parent.is_dir():
            raise EvaluationError(f"--out: the folder {options.out.parent} does not exist")
        ground_truth, metrics, results = _evaluate_workdir(options)
        if options.out is not None:
            write_atomic(options.out, json.dumps(results).encode())
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    print(table(metrics, names if options.classes else None))
    print(ap_line(metrics))


def _evaluate_workdir(options: Any) -> tuple[dict[str, Any], dict[str, Any], list[Result]]:
    # orbax and the model take seconds to import; scoring a file does without
    from dyhead_jax.checkpoint import load_for_inference
    from dyhead_jax.parallel import local_variables, map_detect
    from dyhead_jax.steps import make_detect

    loaded = load_for_inference(options.workdir, options.step)
    data = loaded.config.data
    if options.data is not None:
        data = dataclasses.replace(data, root=options.data)
    split = make_source(data, options.workdir).split(options.split)
    if tuple(split.category_ids) != tuple(loaded.category_ids):
        raise EvaluationError(
            f"the data set has {len(split.category_ids)} categories, ids {_ids(split.category_ids)}; the model of"
            f" {options.workdir} has {len(loaded.category_ids)}, ids {_ids(loaded.category_ids)}"
        )
    print(f"step {loaded.step}, {len(split)} images of {options.split}", flush=True)
    detect = partial(map_detect(make_detect(loaded.model)), local_variables(loaded.variables))
    metrics, results = evaluate_split(detect, split, data)
    return split.coco(), metrics, results


def _ids(category_ids: Sequence[int]) -> str:
    text = ", ".join(str(i) for i in category_ids[:5])
    return text + (", ..." if len(category_ids) > 5 else "")


if __name__ == "__main__":
    command.run(_main)
