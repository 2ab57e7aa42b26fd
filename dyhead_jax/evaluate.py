"""COCO average precision: of detections in a file, or of a trained model on a split.

The numbers are pycocotools' own (COCOeval, boxes, default parameters). Boxes of results are (x, y, width, height) in
pixels of the original image, as in https://cocodataset.org/#format-results.

    python -m dyhead_jax.evaluate --help
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from dyhead_jax import command, multiscale
from dyhead_jax.average_precision import (
    KEYS,
    EvaluationError,
    Result,
    ap_line,
    coco_metrics,
    read_ground_truth,
    read_results,
    table,
)
from dyhead_jax.config import DataConfig, EvaluationConfig
from dyhead_jax.data.source import Split, make_source
from dyhead_jax.report import write_atomic
from dyhead_jax.types import Detections

__all__ = [
    "KEYS",
    "EvaluationError",
    "ap_line",
    "coco_metrics",
    "evaluate_split",
    "read_ground_truth",
    "read_results",
    "table",
    "to_results",
]

Detect = Callable[[Any, Any], Detections]


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


def evaluate_split(
    detect: Detect,
    split: Split,
    data: DataConfig,
    *,
    evaluation: EvaluationConfig | None = None,
    process_index: int = 0,
    process_count: int = 1,
    progress: bool | None = None,
) -> tuple[dict[str, Any], list[Result]]:
    """Runs a detector over every image of a split, once at each scale of `evaluation`, and scores it.

    detect: images (b, h, w, 3) uint8 and sizes (b, 2) int32 height, width, both of this host, to Detections of the same
    rows; jitted, or mapped over devices. It is compiled once for each canvas of a scale.
    evaluation: the scales and how they are merged (see `multiscale`); None is one plain pass.
    process_index, process_count: this host among those that share the split; every host gets all results.
    progress: a bar on standard error; None shows one on a terminal, on the first host only.
    Returns (metrics of `coco_metrics`, results in the order of the split's images).
    """
    ids = np.array([int(image_id) for image_id in split.image_ids], np.int64)
    how = evaluation or EvaluationConfig()
    every = multiscale.passes(data, how)
    show = (sys.stderr.isatty() if progress is None else progress) and process_index == 0
    total = len(split) * len(every)
    with tqdm(total=total, unit="image", desc="evaluate", leave=False, disable=not show) as bar:
        found = [_detect_split(detect, split, one, process_index, process_count, bar.update) for one in every]
    scales, sizes = found[0]["scales"], found[0]["sizes"]
    boxes, scores, labels = (found[0][key] for key in ("boxes", "scores", "labels"))
    if len(every) > 1:
        limit = sizes[:, None, [1, 0, 1, 0]].astype(np.float32)
        original = [np.clip(one["boxes"] / one["scales"][:, None, [1, 0, 1, 0]], 0, limit) for one in found]
        scores, labels = (np.concatenate([one[key] for one in found], axis=1) for key in ("scores", "labels"))
        boxes, scores, labels = multiscale.merge(np.concatenate(original, axis=1), scores, labels, how)
        scales = np.ones_like(scales)
    detections: Any = Detections(boxes=boxes, scores=scores, labels=labels)  # type: ignore[arg-type]
    results = to_results(detections, ids, scales, split.category_ids, sizes)
    return coco_metrics(split.coco(), results, where="detections of the model"), results


def _detect_split(
    detect: Detect,
    split: Split,
    one: multiscale.Pass,
    process_index: int,
    process_count: int,
    update: Callable[[int], Any],
) -> dict[str, np.ndarray]:
    """One pass over the split, all hosts together: arrays with a row for each image, in the split's order.

    boxes (n, d, 4) in pixels of the resized image, never mirrored, scores and labels (n, d); scales (n, 2); sizes
    (n, 2), height and width of the original image.
    """
    from dyhead_jax.data import pipeline  # grain takes a second to import; scoring a file does without

    row_of = {int(image_id): row for row, image_id in enumerate(split.image_ids)}
    parts: list[dict[str, np.ndarray]] = []

    def finish(loaded: Any, detections: Detections) -> None:
        sizes = np.asarray(loaded.batch.ground_truth.sizes, np.float64)
        boxes, scores = (np.asarray(x).astype(np.float32) for x in (detections.boxes, detections.scores))
        labels = np.asarray(detections.labels).astype(np.int32)
        if one.flip:
            boxes = multiscale.mirror(boxes, sizes[:, 1])
        if one.sizes is not None:
            drop = multiscale.outside(boxes, one.sizes)
            scores, labels = np.where(drop, np.float32(0), scores), np.where(drop, np.int32(-1), labels)
        parts.append(
            {
                # Rows instead of ids: ids have up to 64 bits, which JAX would cut when hosts exchange them.
                "rows": np.array([row_of.get(int(i), -1) for i in loaded.image_ids], np.int32),
                "scales": np.asarray(loaded.scales, np.float32),
                "sizes": np.rint(sizes / np.asarray(loaded.scales, np.float64)).astype(np.int32),
                "boxes": boxes,
                "scores": scores,
                "labels": labels,
            }
        )

    pending = None
    batches = pipeline.eval_batches(
        split, one.data, flip=one.flip, process_index=process_index, process_count=process_count
    )
    for loaded in batches:
        # The device works on this batch while the next is loaded and the previous one is fetched.
        launched = loaded, detect(loaded.batch.images, loaded.batch.ground_truth.sizes)
        if pending is not None:
            finish(*pending)
        pending = launched
        update(process_count * int((np.asarray(loaded.image_ids) != -1).sum()))
    if pending is not None:
        finish(*pending)
    joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    if process_count > 1:
        from jax.experimental import multihost_utils

        joined = jax.tree.map(np.asarray, multihost_utils.process_allgather(joined, tiled=True))
    order = np.argsort(joined["rows"], kind="stable")
    order = order[joined["rows"][order] >= 0]
    joined = {key: value[order] for key, value in joined.items()}
    if not np.array_equal(joined["rows"], np.arange(len(split))):
        raise EvaluationError(f"{len(order)} images were evaluated, but the split has {len(split)}")
    return joined


def _main() -> None:
    parser = command.parser(
        "python -m dyhead_jax.evaluate",
        "COCO average precision of a trained model, or of detections in a file.\n\n"
        "Prints the 12 COCO numbers; the last line is\n  AP <x> AP50 <x> AP75 <x> APs <x> APm <x> APl <x>\n"
        "where -1 means that there is no ground truth of that size.\n\n"
        "--config.evaluation.NAME=VALUE changes how the model of a workdir is tested: scales, mirror images, merging.",
        "  python -m dyhead_jax.evaluate --workdir /tmp/run\n"
        "  python -m dyhead_jax.evaluate --workdir /tmp/run --step 600 --out /tmp/detections.json\n"
        "  python -m dyhead_jax.evaluate --workdir /tmp/run --config.evaluation.flip=true\n"
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
    options, rest = parser.parse_known_args()
    options.overrides = [argument for argument in rest if argument.startswith("--config.evaluation.")]
    if rest != options.overrides:
        unknown = next(argument for argument in rest if argument not in options.overrides)
        raise command.UsageError(f"{unknown!r} is not an option (--help lists them)")
    files = options.annotations is not None or options.detections is not None
    if (options.workdir is None) == (not files):
        raise command.UsageError("give either --workdir, or --annotations and --detections (--help says more)")
    if files:
        if options.annotations is None or options.detections is None:
            raise command.UsageError("--annotations and --detections belong together")
        if options.step is not None or options.out is not None or options.data is not None or options.overrides:
            raise command.UsageError("--step, --out, --data and --config.evaluation belong to --workdir")
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
    from dyhead_jax import flags
    from dyhead_jax.checkpoint import load_for_inference
    from dyhead_jax.parallel import local_variables, map_detect
    from dyhead_jax.steps import make_detect

    loaded = load_for_inference(options.workdir, options.step)
    config = flags.override(loaded.config, options.overrides) if options.overrides else loaded.config
    data = config.data
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
    metrics, results = evaluate_split(detect, split, data, evaluation=config.evaluation)
    return split.coco(), metrics, results


def _ids(category_ids: Sequence[int]) -> str:
    text = ", ".join(str(i) for i in category_ids[:5])
    return text + (", ..." if len(category_ids) > 5 else "")


if __name__ == "__main__":
    command.run(_main)
