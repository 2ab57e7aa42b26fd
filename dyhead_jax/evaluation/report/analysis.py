"""Everything that a report tells about detections, and the same as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dyhead_jax.evaluation.average_precision import KEYS
from dyhead_jax.evaluation.report import confusion as confusions
from dyhead_jax.evaluation.report.columns import PER_CLASS, Columns, columns
from dyhead_jax.evaluation.report.curves import RECALLS, ScoreCurves, precision_by_class, score_curves
from dyhead_jax.evaluation.report.error_kinds import PER_IMAGE, ErrorKinds, error_kinds
from dyhead_jax.evaluation.report.overlaps import Matches, match, overlaps
from dyhead_jax.evaluation.report.setting import Setting, hardware, versions

SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}  # pixels, as in COCO


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class. images: with a true box of it; boxes: true ones without crowd; AP, AP50: -1 without boxes;
    precision, recall: at the suggested score, within the class, at IoU 0.5; None without detections, without boxes."""

    id: int
    name: str
    images: int
    boxes: int
    AP: float
    AP50: float
    precision: float | None
    recall: float | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """metrics: from `coco_metrics`. precision: {IoU: (c, 101)}, see `curves.precision_by_class`. score: suggested for
    `predict --score`, with the highest F1; the lowest of all thresholds where nothing is ever hit. boxes_by_size: for
    each of SIZES. notes: detections that were not counted, one line a kind."""

    table: Columns
    metrics: Mapping[str, Any]
    precision: dict[float, np.ndarray]
    curves: ScoreCurves
    score: float
    classes: list[ClassRow]
    boxes_by_size: dict[str, int]
    confusion: confusions.Confusion
    errors: ErrorKinds
    notes: list[str]


def analyse(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]
) -> Analysis:
    """ground_truth, results, metrics: what `average_precision.coco_metrics` takes and returns."""
    table = columns(ground_truth, results)
    pairs = overlaps(table)
    matches = match(table, pairs, 0.5)
    precision = {0.5: precision_by_class(table, matches), 0.75: precision_by_class(table, match(table, pairs, 0.75))}
    curves = score_curves(table, matches)
    score = float(curves.score[curves.best or 0])
    area = table.truth_area[~table.ignored]
    confusion = confusions.confusion(table, pairs, score)
    notes = []
    if table.beyond:
        notes.append(f"{table.beyond} detections beyond the {PER_CLASS} best of their image and class, as in COCO")
    if count := int((table.rank >= PER_IMAGE).sum()):
        notes.append(f"{count} detections beyond the {PER_IMAGE} best of their image, in the kinds of errors alone")
    if count := int(confusion.on_crowd.sum()):
        notes.append(f"{count} detections on crowd regions, scored {score:.2f} or more, neither right nor false")
    return Analysis(
        table=table,
        metrics=metrics,
        precision=precision,
        curves=curves,
        score=score,
        classes=_classes(table, metrics, precision[0.5], matches, score),
        boxes_by_size={name: int(((area >= low) & (area <= high)).sum()) for name, (low, high) in SIZES.items()},
        confusion=confusion,
        errors=error_kinds(table, pairs),
        notes=notes,
    )


def _classes(
    table: Columns, metrics: Mapping[str, Any], precision50: np.ndarray, matches: Matches, score: float
) -> list[ClassRow]:
    boxes = table.truths_by_class()
    count = len(boxes)
    in_class = np.unique(np.stack([table.truth_class, table.truth_image])[:, ~table.ignored], axis=1)[0]
    images = np.bincount(in_class, minlength=count)
    shown = (table.score >= score) & ~matches.ignored
    found = np.bincount(table.label[shown], minlength=count)
    hits = np.bincount(table.label[shown & (matches.truth >= 0)], minlength=count)
    return [
        ClassRow(
            id=int(table.category_ids[i]),
            name=table.class_names[i],
            images=int(images[i]),
            boxes=int(boxes[i]),
            AP=metrics["per_class"][int(table.category_ids[i])],
            AP50=float(precision50[i].mean()) if boxes[i] else -1.0,
            precision=float(hits[i] / found[i]) if found[i] else None,
            recall=float(hits[i] / boxes[i]) if boxes[i] else None,
        )
        for i in range(count)
    ]


def mean_precision(precision: np.ndarray) -> np.ndarray | None:
    """(101,) the mean over the classes with true boxes; None if there is none."""
    known = precision[~np.isnan(precision).any(1)]
    return known.mean(0) if len(known) else None


def as_json(analysis: Analysis, setting: Setting, pictures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of report.json; the names of the numbers are those of `coco_metrics`. null stands for a number that
    does not exist, and for the background in a cell of the confusion."""
    table, curves, confusion = analysis.table, analysis.curves, analysis.confusion
    ids = [int(i) for i in table.category_ids]
    axes = [*ids, None]
    counts = confusion.counts[:-1]
    return {
        "title": setting.title,
        "date": setting.date,
        "data": dict(setting.data),
        "left_out": [*setting.notes, *analysis.notes],
        "model": dict(setting.model),
        "hardware": hardware(setting.devices),
        "versions": versions(),
        "speed": setting.speed,
        "images": len(table.image_ids),
        "boxes": int((~table.ignored).sum()),
        "crowd_boxes": int(table.crowd.sum()),
        "detections": len(table.score),
        "metrics": {key: analysis.metrics[key] for key in KEYS},
        "boxes_by_size": analysis.boxes_by_size,
        "classes": [asdict(row) for row in analysis.classes],
        "precision_recall": {
            "recall": RECALLS.tolist(),
            **{
                f"precision_at_iou_{iou:g}": {
                    "mean": _list(mean_precision(precision)),
                    **{str(i): _list(own) for i, own in zip(ids, precision, strict=True) if not np.isnan(own).any()},
                }
                for iou, precision in analysis.precision.items()
            },
        },
        "by_score": {
            "score": curves.score.tolist(),
            "precision": _list(curves.precision),
            "recall": _list(curves.recall),
            "f1": curves.f1.tolist(),
            "suggested": None if curves.best is None else analysis.score,
        },
        "confusion": {
            "score": confusion.score,
            "iou": confusions.IOU,
            "cells": [
                {"true": axes[row], "detected": axes[column], "count": int(counts[row, column])}
                for row, column in np.argwhere(counts)
            ],
            "on_crowd": int(confusion.counts[-1].sum()),
        },
        "errors": {
            "AP50": analysis.errors.ap50,
            "kinds": {
                name: {
                    "dAP": gain,
                    **({"count": analysis.errors.counts[name]} if name in analysis.errors.counts else {}),
                }
                for name, gain in analysis.errors.gains.items()
            },
        },
        "pictures": list(pictures),
    }


def _list(values: np.ndarray | None) -> list[float | None] | None:
    return None if values is None else [None if np.isnan(v) else float(v) for v in values]
