"""The metrics of a run: metrics.jsonl, and plots of the curves."""

import gc
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dyhead_jax.data.images import read_file
from dyhead_jax.files import atomic, naming, write_atomic
from dyhead_jax.training.trackers import Tracker


class ReportError(ValueError):
    """A metrics file cannot be continued; the message names it."""


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl as dicts, in file order; [] if there is no such file.

    A half-written last line, left by a killed run, is dropped. Raises ReportError for any other line that is not a JSON
    object of numbers and null with an integer `step`, and DataError for a pipe.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = read_file(path).split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            whole = isinstance(row, dict) and type(row.get("step")) is int
            whole = whole and all(value is None or type(value) in (int, float) for value in row.values())
        except (ValueError, RecursionError):
            whole = False
        if whole:
            rows.append(row)
        elif number < len(lines):  # a newline follows, so the line was not cut off by a kill
            raise ReportError(f"{path}, line {number}: not a JSON object of numbers with an integer 'step'")
    return rows


class Metrics:
    """Appends to metrics.jsonl, one JSON object per line, and writes the same to `trackers`.

    Opening drops the lines of steps after `resume_step`, which the resumed run writes again. This is atomic: a kill at
    any moment leaves the old file or the new one. To lose no line, write those of step s before saving checkpoint s.

    path: the file, created if missing, which a resumed run says on stdout.
    resume_step: the step from which the run continues, 0 for a new run.
    trackers: closed with this object.
    `rows` holds all lines, those kept and those written, as dicts.
    Raises ReportError if the file is broken before its last line.
    """

    def __init__(self, path: str | Path, *, resume_step: int = 0, trackers: Sequence[Tracker] = ()):
        self.path = Path(path)
        if resume_step and not self.path.exists():
            print(f"note: {self.path} is gone, with the metrics of the steps up to {resume_step}")
        self.rows = [row for row in read_metrics(self.path) if row["step"] <= resume_step]
        self._trackers = trackers
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())
        self._file = self.path.open("a")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes a line {"step": step, **values}. Values are numbers or scalar arrays; those not finite become null."""
        row: dict[str, Any] = {"step": int(step)}
        for key, value in values.items():
            number = float(value)
            row[key] = number if math.isfinite(number) else None
        self.rows.append(row)
        with naming(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        shown = {key: value for key, value in row.items() if key != "step"}
        for tracker in self._trackers:
            tracker.write(row["step"], shown)

    def has(self, step: int, key: str) -> bool:
        """Whether a line of this step has the key. A resumed run asks before it evaluates again."""
        return any(row["step"] == step and key in row for row in self.rows)

    def close(self) -> None:
        with naming(self.path):
            self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def device_memory(devices: Sequence[Any]) -> dict[str, float]:
    """{"device_bytes": the most that this process has had in use at once on one of the devices, as the allocators of
    GPUs and TPUs count it}; {} where a device does not say, as CPUs."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in devices]
    return {"device_bytes": float(max(peaks))} if all(peaks) else {}


def curves(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Plots loss terms, learning rate and AP over steps into a PNG file. rows: as from `read_metrics`.

    A panel without data says so; null values leave gaps.
    """
    keys = dict.fromkeys(key for row in rows for key in row)
    panels = [
        ("loss", [k for k in keys if k.startswith("train/loss")]),
        ("learning rate", [k for k in keys if k == "train/lr"]),
        ("average precision", [k for k in ("eval/AP", "eval/AP50", "eval/AP75") if k in keys]),
    ]
    # Figure, not pyplot: no global state, no display, whatever the user's backend
    figure = Figure(figsize=(15, 4), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            steps = [step for step, _ in points]
            values = [math.nan if value is None else value for _, value in points]
            marker = "o" if name.startswith("eval/") or len(points) == 1 else None
            width = 2 if name == "train/loss" else 1
            axes.plot(steps, values, label=name.split("/", 1)[1], linewidth=width, marker=marker, markersize=3)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if names:
            axes.set_ylim(bottom=0)
            axes.legend(fontsize="small")
        else:
            axes.text(0.5, 0.5, "nothing yet", ha="center", va="center", transform=axes.transAxes)
    path = Path(path)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    del figure, axes
    gc.collect()  # figures refer to themselves; beside JAX's many objects Python would keep dozens, 1 MB each
