"""Runs a detector over every image of a split and scores it."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from dyhead_jax.config import DataConfig, EvaluationConfig
from dyhead_jax.data.source import NO_IMAGE, Split
from dyhead_jax.evaluation import multiscale
from dyhead_jax.evaluation.average_precision import EvaluationError, Result, coco_metrics
from dyhead_jax.types import Detections
from dyhead_jax.weights.finite import NotFiniteError

Detect = Callable[[Any, Any], Detections]


def to_results(
    detections: Detections,
    image_ids: np.ndarray,
    scales: np.ndarray,
    category_ids: Sequence[int],
    original_sizes: np.ndarray | None = None,
) -> list[Result]:
    """Converts the detections of a batch to COCO results, in pixels of the original images.

    detections: boxes (b, d, 4) x1 y1 x2 y2 in pixels of the padded input, scores (b, d), labels (b, d), as NumPy or JAX
    arrays; image_ids: (b,), NO_IMAGE for padding rows; scales: (b, 2), resized size over original size as (y, x);
    category_ids: the file's id of each label; original_sizes: (b, 2) height, width; if given, boxes are clipped to it.
    Empty slots (score 0 or label -1) and padding rows are left out; the order within an image is kept.
    Raises EvaluationError for a NaN or infinite value in a slot that is not empty, and for a label without a category.
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
        if image_id == NO_IMAGE:
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


def check_finite(broken: np.ndarray, ids: Sequence[Any] | np.ndarray, name: str) -> None:
    """Raises NotFiniteError where `broken` (n,) bool has an image; it names the first. name: how, with {} for one of
    `ids`."""
    if broken.any():
        first = name.format(ids[int(np.argmax(broken))])
        raise NotFiniteError(
            f"the network's result is not a number (NaN) for {broken.sum()} of {len(broken)} images,"
            f" the first of them {first}; its weights, or the precision that it computes in, do not fit them"
        )


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

    detect: (images (b, h, w, 3) uint8, sizes (b, 2) int32 height, width) of this host -> Detections of the same rows;
    jitted, or mapped over devices. It is compiled once per canvas and scale.
    evaluation: the scales and how to merge them (see `multiscale`); None is one plain pass.
    process_index, process_count: index and number of the hosts that share the split; every host gets all results.
    progress: whether to show a bar on standard error; None: if that is a terminal. Only the first host shows one.
    Returns (metrics from `coco_metrics`, results in the order of the split's images). Raises NotFiniteError, which says
    for how many images, where the network's result is not a number.
    """
    ids = np.array([int(image_id) for image_id in split.image_ids], np.int64)
    evaluation = evaluation or EvaluationConfig()
    passes = multiscale.passes(data, evaluation)
    show = (sys.stderr.isatty() if progress is None else progress) and process_index == 0
    total = len(split) * len(passes)
    with tqdm(total=total, unit="image", desc="evaluate", leave=False, disable=not show) as bar:
        outputs = [_detect_split(detect, split, item, process_index, process_count, bar.update) for item in passes]
    check_finite(np.any([out["broken"] for out in outputs], axis=0), ids, "image {}")
    scales, sizes = outputs[0]["scales"], outputs[0]["sizes"]
    boxes, scores, labels = (outputs[0][key] for key in ("boxes", "scores", "labels"))
    if len(passes) > 1:
        limit = sizes[:, None, [1, 0, 1, 0]].astype(np.float32)
        original = [np.clip(out["boxes"] / out["scales"][:, None, [1, 0, 1, 0]], 0, limit) for out in outputs]
        scores, labels = (np.concatenate([out[key] for out in outputs], axis=1) for key in ("scores", "labels"))
        boxes, scores, labels = multiscale.merge(np.concatenate(original, axis=1), scores, labels, evaluation)
        scales = np.ones_like(scales)
    detections: Any = Detections(boxes=boxes, scores=scores, labels=labels)  # type: ignore[arg-type]
    results = to_results(detections, ids, scales, split.category_ids, sizes)
    return coco_metrics(split.coco(), results, where="detections of the model"), results


def _detect_split(
    detect: Detect,
    split: Split,
    test_pass: multiscale.Pass,
    process_index: int,
    process_count: int,
    update: Callable[[int], Any],
) -> dict[str, np.ndarray]:
    """One pass over the split, gathered from all hosts: arrays with one row per image, in the order of the split.

    boxes (n, d, 4) in pixels of the resized image, mirroring undone; scores and labels (n, d); scales (n, 2); sizes
    (n, 2), height and width of the original image; broken (n,), where the network predicted a NaN.
    """
    from dyhead_jax.data import pipeline  # grain takes a second to import, and scoring a file does not need it

    row_of = {int(image_id): row for row, image_id in enumerate(split.image_ids)}
    parts: list[dict[str, np.ndarray]] = []

    def collect(loaded: Any, detections: Detections) -> None:
        sizes = np.asarray(loaded.batch.ground_truth.sizes, np.float64)
        boxes, scores = (np.asarray(x).astype(np.float32) for x in (detections.boxes, detections.scores))
        labels = np.asarray(detections.labels).astype(np.int32)
        broken = np.asarray(np.isnan(scores).any(axis=1))
        if test_pass.flip:
            boxes = multiscale.mirror(boxes, sizes[:, 1])
        if test_pass.sizes is not None:
            drop = multiscale.outside(boxes, test_pass.sizes)
            scores, labels = np.where(drop, np.float32(0), scores), np.where(drop, np.int32(-1), labels)
        parts.append(
            {
                # Rows, not ids: ids may need 64 bits, which JAX would truncate in the exchange between hosts.
                "rows": np.array([row_of.get(int(i), -1) for i in loaded.image_ids], np.int32),
                "scales": np.asarray(loaded.scales, np.float32),
                "sizes": np.rint(sizes / np.asarray(loaded.scales, np.float64)).astype(np.int32),
                "boxes": boxes,
                "scores": scores,
                "labels": labels,
                "broken": broken,
            }
        )

    pending = None
    batches = pipeline.eval_batches(
        split, test_pass.data, flip=test_pass.flip, process_index=process_index, process_count=process_count
    )
    for loaded in batches:
        # The device computes this batch while the previous one is fetched and the next one is loaded.
        launched = loaded, detect(loaded.batch.images, loaded.batch.ground_truth.sizes)
        if pending is not None:
            collect(*pending)
        pending = launched
        update(process_count * int((np.asarray(loaded.image_ids) != NO_IMAGE).sum()))
    if pending is not None:
        collect(*pending)
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
