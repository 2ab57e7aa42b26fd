"""A detector over every image of a split, scored."""

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
    arrays; image_ids: (b,), NO_IMAGE where a row is padding; scales: (b, 2), resized over original size as (y, x);
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
        update(process_count * int((np.asarray(loaded.image_ids) != NO_IMAGE).sum()))
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
