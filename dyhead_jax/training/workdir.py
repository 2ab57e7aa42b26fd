"""The folder of a run, and whether a config may resume in it.

It holds config.json, metrics.jsonl, checkpoints/, figures/, data/ (data sets that a source prepares), profile/,
failures/, and what the programs of `trackers` write.
"""

import dataclasses
from pathlib import Path
from typing import Any

from dyhead_jax import command
from dyhead_jax.config import Config, from_json, load_file, packages, to_json
from dyhead_jax.files import write_atomic
from dyhead_jax.training.stored import check_name, steps_in


class WorkdirError(ValueError):
    """The folder belongs to another run; the message names the fields that differ."""


# Fields that may change when a run resumes: devices, memory, logging, the location of the data; not what is computed.
# Some nodes lack some of these fields. `run.steps` may be raised besides, which the loop explains.
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
    "run.wandb",
    "run.mlflow",
    "run.figure_images",
    "run.compilation_cache",
    "run.profile_steps",
    "run.debug_nans",
    "data.workers",
    "data.eval_batch_size",
    "data.root",
    "data.source.root",
)


def check(workdir: Path, config: Config, finished: bool = False) -> int | None:
    """The number of steps that the run in the folder had so far, if any; `config.run.steps` may be more.

    A run that has saved no checkpoint has nothing to lose: its config.json may be replaced. finished: its results
    count, so it is compared although its checkpoints may have been removed. Raises WorkdirError if the folder belongs
    to a run with another config, or is in use without a config.json, and CheckpointError if its name is one in which
    checkpoints cannot be read again. Writes nothing.
    """
    path, saved = workdir / "config.json", workdir / "checkpoints"
    check_name(command.real(saved))
    if not path.exists():
        taken = [name for name in ("checkpoints", "metrics.jsonl") if (workdir / name).exists()]
        if taken:
            raise WorkdirError(f"{workdir} has {taken[0]} but no config.json; choose another --workdir")
        return None
    if not finished and not steps_in(saved):
        return None
    trust = packages(config)  # the config that was given names them, not only the one in the folder
    before = load_file(path, trust=trust)
    config = from_json(to_json(config), trust=trust)  # lists become tuples, as in the config read back
    longer = config.run.steps > before.run.steps
    free = {*FREE, "run.steps"} if longer else FREE
    changed = [line for name, line in _differences(before, config) if name not in free]
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise WorkdirError(
            f"{workdir} belongs to a run with another config: {'; '.join(changed[:5])}{more};"
            " choose another --workdir, or give the old values to go on"
        )
    return before.run.steps


def claim(workdir: Path, config: Config) -> None:
    """Creates the folder and writes its config.json; says so if that of an earlier try is replaced."""
    workdir.mkdir(parents=True, exist_ok=True)
    path, content = workdir / "config.json", (to_json(config) + "\n").encode()
    if not steps_in(workdir / "checkpoints") and path.is_file() and path.read_bytes() != content:
        print(f"note: {path} is replaced; the run that wrote it has saved nothing")
    write_atomic(path, content)


def _differences(before: Any, now: Any, prefix: str = "") -> list[tuple[str, str]]:
    """(name, "name was a, is b") for each field that differs."""
    if type(before) is not type(now):
        return [(prefix, f"config.{prefix} was a {type(before).__name__}, is a {type(now).__name__}")]
    if not dataclasses.is_dataclass(now):
        return [] if before == now else [(prefix, f"config.{prefix} was {before!r}, is {now!r}")]
    differences = []
    for field in dataclasses.fields(now):
        name = f"{prefix}.{field.name}" if prefix else field.name
        differences += _differences(getattr(before, field.name), getattr(now, field.name), name)
    return differences
