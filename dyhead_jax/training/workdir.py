"""The folder of a run, and whether a config may go on in it.

config.json, metrics.jsonl, checkpoints/, figures/, data/ where a source keeps what it prepares, profile/ and failures/
"""

import dataclasses
from pathlib import Path
from typing import Any

from dyhead_jax import config as configs
from dyhead_jax.config import Config
from dyhead_jax.files import write_atomic


class WorkdirError(ValueError):
    """A folder that another run has; the message names the fields that differ."""


# What a run may change when it goes on: on which devices and in what memory it runs and where its data lie, not what it
# computes. Some nodes lack some of these fields.
FREE = (
    "model.backbone.remat",
    "model.dyhead.remat",
    "model.dyhead.implementation",
    "model.head.implementation",
    "run.eval_every",
    "run.checkpoint_every",
    "run.max_to_keep",
    "run.log_every",
    "run.parallel",
    "run.shard_state",
    "run.tensorboard",
    "run.figure_images",
    "run.compilation_cache",
    "run.profile_steps",
    "run.debug_nans",
    "data.workers",
    "data.eval_batch_size",
    "data.root",
    "data.source.root",
)


def check(workdir: Path, config: Config) -> None:
    """Raises WorkdirError when the folder belongs to a run of another config, or to no run but is in use.

    Writes nothing.
    """
    path = workdir / "config.json"
    if not path.exists():
        taken = [name for name in ("checkpoints", "metrics.jsonl") if (workdir / name).exists()]
        if taken:
            raise WorkdirError(f"{workdir} has {taken[0]} but no config.json; choose another --workdir")
        return
    before = configs.load_file(path)
    config = configs.from_json(configs.to_json(config))  # as it would be read back: lists become tuples
    changed = [line for name, line in _differences(before, config) if name not in FREE]
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise WorkdirError(
            f"{workdir} belongs to a run with another config: {'; '.join(changed[:5])}{more};"
            " choose another --workdir, or give the old values to go on"
        )


def claim(workdir: Path, config: Config) -> None:
    """Makes the folder and writes its config.json."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomic(workdir / "config.json", (configs.to_json(config) + "\n").encode())


def _differences(before: Any, now: Any, prefix: str = "") -> list[tuple[str, str]]:
    """(name, "name was a, is b") of every field that differs."""
    if type(before) is not type(now):
        return [(prefix, f"config.{prefix} was a {type(before).__name__}, is a {type(now).__name__}")]
    if not dataclasses.is_dataclass(now):
        return [] if before == now else [(prefix, f"config.{prefix} was {before!r}, is {now!r}")]
    found = []
    for field in dataclasses.fields(now):
        name = f"{prefix}.{field.name}" if prefix else field.name
        found += _differences(getattr(before, field.name), getattr(now, field.name), name)
    return found
