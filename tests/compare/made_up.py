"""Runs that were never trained: folders with the files that a comparison reads."""

import json

from dyhead_jax import config as configs
from dyhead_jax.compare.candidates import Candidate
from dyhead_jax.compare.runs import Run
from dyhead_jax.evaluation.average_precision import KEYS

STEPS, BATCH = 6, 4


def config(**changes):
    """Small, with `STEPS` steps. changes: fields of `config.run`."""
    made = configs.Config(run=configs.RunConfig(steps=STEPS, **changes))
    made.data.batch_size = BATCH
    return made


def candidate(name, made=None, baseline=""):
    return Candidate(name, f"{name}.py", (), made or config(), name, baseline or name)


def rows(scores, speeds):
    """Lines of metrics.jsonl. scores: AP by step; speeds: images a second (or None) by step of the logged lines."""
    lines = [{"step": step, "train/loss": 1.0, "train/images_per_second": speed} for step, speed in speeds.items()]
    lines += [
        {"step": step} | {f"eval/{key}": ap / (1 + i) for i, key in enumerate(KEYS)} for step, ap in scores.items()
    ]
    return sorted(lines, key=lambda row: (row["step"], "eval/AP" in row))


def write(run: Run, lines):
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.json").write_text(configs.to_json(run.candidate.seeded(run.seed)))
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
