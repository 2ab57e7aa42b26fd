"""AP of a grid of small trainings on drawn shapes: detectors with and without DyHead, or each set of attentions.

    python benchmarks/drawn_shapes.py detectors --workdir=runs/grid --out=benchmarks/results/drawn_shapes_detectors.md
    python benchmarks/drawn_shapes.py attentions --workdir=runs/grid --seeds=3

Every cell is `train.py --config=configs/shapes_grid.py:CELL` with `--steps`. Cells that are finished in the workdir are
not run again, so an interrupted grid can be continued. The pictures are drawn once and shared.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from dyhead_jax import command
from dyhead_jax.files import write_atomic
from dyhead_jax.measure import tables
from dyhead_jax.measure.timing import machine

ROOT = Path(__file__).resolve().parents[1]
DETECTORS = ("atss", "retinanet", "fcos", "reppoints", "faster_rcnn", "borderdet")
ATTENTIONS = ("scale", "spatial", "task")
SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def cells(grid: str) -> list[str]:
    """Texts for configs/shapes_grid.py."""
    if grid == "detectors":
        return [f"{name}{suffix}" for name in DETECTORS for suffix in (",plain", "")]
    subsets = itertools.chain.from_iterable(itertools.combinations(ATTENTIONS, n) for n in range(4))
    return ["atss," + (",".join(subset) or "none") for subset in subsets]


def run_cell(cell: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """The AP values of a cell and its seconds; the cell is run unless its result is there."""
    folder = options.workdir / f"{cell.replace(',', '-')}-{options.steps}-seed{seed}"
    result = folder / "result.json"
    if not result.is_file():
        print(f"{cell}, seed {seed}", flush=True)
        start = time.monotonic()
        arguments = [
            f"--config=configs/shapes_grid.py:{cell}",
            f"--workdir={folder}",
            f"--config.data.root={options.workdir / 'data'}",
            f"--config.run.compilation_cache={options.workdir / 'cache'}",
            f"--config.run.steps={options.steps}",
            "--config.run.eval_every=0",
            f"--config.run.checkpoint_every={options.steps}",
            f"--config.seed={seed}",
        ]
        subprocess.run([sys.executable, "train.py", *arguments], cwd=ROOT, check=True)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        last = next(row for row in reversed(rows) if "eval/AP" in row)
        values = {name: last[f"eval/{name}"] for name in SHOWN} | {"seconds": time.monotonic() - start}
        write_atomic(result, (json.dumps(values) + "\n").encode())
    return json.loads(result.read_text())


def table(grid: str, results: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> str:
    """A Markdown table of means over seeds. For AP also the range and standard deviation over several seeds, and the
    gain over the same detector without DyHead (detectors) or with all attentions off (attentions), seed by seed."""
    without = {"detectors": "plain", "attentions": "none"}[grid]
    given = f"--steps={options.steps} --seeds={options.seeds}"
    lines = [
        f"Command: `python benchmarks/drawn_shapes.py {grid} --workdir=runs/grid {given}`",
        "",
        ", ".join(f"{key} {value}" for key, value in machine().items()),
        "",
        *tables.header("cell", *SHOWN, "AP over seeds", f"AP over {without}", "seconds"),
    ]
    for cell, runs in results.items():
        means = [f"{statistics.mean(run[name] for run in runs):.3f}" for name in SHOWN]
        aps = [run["AP"] for run in runs]
        base = f"{cell.split(',')[0]},{without}"
        gains = [run["AP"] - other["AP"] for run, other in zip(runs, results.get(base, []), strict=False)]
        spread = f"{min(aps):.3f} to {max(aps):.3f}, sd {statistics.stdev(aps):.3f}" if len(aps) > 1 else "one seed"
        gain = f"{statistics.mean(gains):+.3f}" if gains and cell != base else ""
        if gain and len(gains) > 1:
            gain += f" ({min(gains):+.3f} to {max(gains):+.3f})"
        seconds = statistics.mean(run["seconds"] for run in runs)
        lines.append(tables.row(f"`{cell}`", *means, spread, gain, f"{seconds:.0f}"))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = command.parser("python benchmarks/drawn_shapes.py", __doc__)
    parser.add_argument("grid", choices=("detectors", "attentions"))
    parser.add_argument("--workdir", type=Path, required=True, help="folder of all runs, which can be used again")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each cell")
    parser.add_argument("--only", help="run only the cells whose name begins so, such as fcos")
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    options.workdir = options.workdir.resolve()
    results: dict[str, list[dict[str, float]]] = {}
    for cell in cells(options.grid):
        if options.only is None or cell.startswith(options.only):
            results[cell] = [run_cell(cell, seed, options) for seed in range(options.seeds)]
            text = table(options.grid, results, options)
            if options.out is not None:  # after every cell: an interrupted grid leaves what it has
                write_atomic(options.out, text.encode())
    print(text)


if __name__ == "__main__":
    command.run(main)
