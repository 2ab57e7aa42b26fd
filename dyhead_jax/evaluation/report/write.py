"""Writes a report into a folder: index.html, and report.json with its numbers."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dyhead_jax.evaluation.report import worst
from dyhead_jax.evaluation.report.analysis import Analysis, analyse, as_json
from dyhead_jax.evaluation.report.page import page
from dyhead_jax.evaluation.report.setting import Setting
from dyhead_jax.files import write_atomic

PICTURES = 12  # the most that a page shows


def write_report(
    folder: Path,
    setting: Setting,
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    read: worst.ReadPicture | None = None,
) -> Analysis:
    """Writes index.html and report.json into `folder`, which is made if it is missing.

    ground_truth, results, metrics: what `average_precision.coco_metrics` takes and returns. read: gives the picture of
    an image id and file name, (h, w, 3) uint8, or raises DataError or OSError, which the page then tells; None: a page
    without pictures.
    """
    analysis = analyse(ground_truth, results, metrics)
    table, confusion = analysis.table, analysis.confusion
    rows = worst.worst(table, confusion, PICTURES)
    bar = tqdm(rows, unit="picture", desc="report", leave=False, disable=not sys.stderr.isatty())
    pictures = [worst.picture(table, confusion, int(row), read) for row in bar]
    listed = [
        {
            key: getattr(picture, key)
            for key in ("image_id", "file_name", "right", "missed", "wrong_class", "false", "errors")
        }
        for picture in pictures
    ]
    folder.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps(as_json(analysis, setting, listed), indent=1, allow_nan=False)
    write_atomic(folder / "report.json", numbers.encode())
    write_atomic(folder / "index.html", page(analysis, setting, pictures).encode(errors="replace"))
    return analysis
