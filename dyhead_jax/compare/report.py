"""Writes table.md, table.json, bars.png and curves.png of a comparison, after every run."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dyhead_jax.command import one_line
from dyhead_jax.compare import CompareError, differences, picture, results, table
from dyhead_jax.compare.candidates import Candidate
from dyhead_jax.compare.runs import Run
from dyhead_jax.config import Config
from dyhead_jax.files import write_atomic
from dyhead_jax.measure import cost
from dyhead_jax.measure.cost import Cost


class Report:
    """The report of these runs in a folder.

    arguments: of the command line, for the first line of the table; out: where else the table is written. Counts the
    multiply-adds of every candidate at once, which builds its model. Raises CompareError for one that cannot be built.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        runs: Sequence[Run],
        folder: Path,
        arguments: Sequence[str],
        out: Path | None = None,
    ):
        self.candidates, self.runs, self.folder, self.out = candidates, runs, folder, out
        self.command = f"python -m dyhead_jax.compare {shlex.join(arguments)}"
        self.costs = {one.name: _cost(one) for one in candidates}
        configs = {one.name: one.config for one in candidates}
        others = [one for one in candidates if one.name != one.baseline]
        self.differences = {one.name: differences.find(configs[one.baseline], one.config) for one in others}
        self.notes = differences.notes(self.differences, {one.name: one.baseline for one in others})

    def write(self) -> str:
        """Writes all files and returns the table with its notes."""
        found: dict[str, dict[int, results.Result]] = {one.name: {} for one in self.candidates}
        failed: dict[str, list[int]] = {one.name: [] for one in self.candidates}
        for run in self.runs:
            result = results.read(run)
            if result is not None:
                found[run.candidate.name][run.seed] = result
            elif run.has_failed:
                failed[run.candidate.name].append(run.seed)
        rows = table.rows(self.candidates, found, failed, self.costs)
        text = self._text(rows)
        content = {
            "command": self.command,
            "machines": _machines(self.runs),
            "configs": {one.name: [f"--config={one.file}", *one.overrides] for one in self.candidates},
            "differences": {name: [vars(each) for each in listed] for name, listed in self.differences.items()},
            "rows": table.as_json(rows, found),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / "table.md", text.encode())
        write_atomic(self.folder / "table.json", (json.dumps(content, indent=1) + "\n").encode())
        if self.out is not None:
            write_atomic(self.out, text.encode())
        picture.bars(rows, found, self.folder / "bars.png")
        curves = {name: [result.curve for result in by_seed.values()] for name, by_seed in found.items()}
        picture.curves(curves, self.folder / "curves.png")
        return text

    def _text(self, rows: Sequence[table.Row]) -> str:
        seeds = len(self.runs) // len(self.candidates)
        config = self.candidates[0].config
        lines = [f"Command: `{self.command}`", ""]
        for machine in _machines(self.runs):
            lines += [", ".join(f"{key} {value}" for key, value in machine.items()), ""]
        steps = sorted({one.config.run.steps for one in self.candidates})
        batches = sorted({one.config.data.batch_size for one in self.candidates})
        lines += [
            f"{_list(steps)} steps of {_list(batches)} images, {seeds} seed{'s' * (seeds != 1)} each.",
            "",
            table.markdown(rows, seeds),
            "",
            _explained(rows, config, seeds, self.runs),
            *self.notes,
        ]
        if failed := [run for run in self.runs if run.has_failed]:
            lines += ["", "Failed: " + "; ".join(f"`{run.name}`, see {run.log}" for run in failed)]
        return "\n".join(lines) + "\n"


def _explained(rows: Sequence[table.Row], config: Config, seeds: int, runs: Sequence[Run]) -> str:
    """What the columns are."""
    height, width = _size(config)
    on_device = any(row.device_bytes is not None for row in rows)
    memory = "most in use on a device (`peak_bytes_in_use`)" if on_device else "largest resident set of a run's process"
    parts = [
        "AP, AP50: on the held-out images after the last step, mean over seeds",
        "sd: standard deviation of AP over seeds (n - 1)",
        "small, medium, large: AP of objects under 32x32 pixels, up to 96x96, and above",
        "gain: difference of the APs of the same seed, mean (lowest to highest)",
        f"parameters: frozen ones too; multiply-adds: of one image of {height}x{width} from pixels to boxes,"
        " as `python -m dyhead_jax.benchmark cost` counts them",
        f"step: median over a run's log and over seeds, with all waiting for images{_load(runs)}",
        f"memory: {memory}, evaluation included, median over seeds",
        "seconds: of a run's processes from start to end, median over seeds (the first run of a config compiles)",
    ]
    if seeds == 1:
        parts.append("One seed: how far rows differ by it was not measured.")
    return "\n".join(f"- {part}" for part in parts)


def _load(runs: Sequence[Run]) -> str:
    loads = [load for run in runs for load in run.record.loads]
    if not loads:
        return ""
    return f" and what else ran on the machine (load average before the runs {min(loads):.1f} to {max(loads):.1f})"


def _machines(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Where the runs were made, without doubles."""
    found: list[dict[str, str]] = []
    for run in runs:
        machine = run.record.machine
        if machine and machine not in found:
            found.append(machine)
    return found


def _cost(candidate: Candidate) -> Cost:
    try:
        return cost.measure(candidate.config.model, _size(candidate.config))
    except Exception as error:  # a fork's module may raise anything
        reason = f"{type(error).__name__}: {one_line(error)[:500]}"
        raise CompareError(f"{candidate.name}: its model cannot be built: {reason} (--debug shows where)") from error


def _size(config: Config) -> tuple[int, int]:
    return cost.padded(config.data.canvases[0])


def _list(values: Sequence[Any]) -> str:
    return " or ".join(map(str, values))
