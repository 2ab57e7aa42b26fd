"""Loads a trained model from the workdir of a run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from dyhead_jax import detectors
from dyhead_jax.config import Config, from_json
from dyhead_jax.training.checkpoint import CheckpointError, Checkpoints
from dyhead_jax.training.steps import init_variables


@dataclass(frozen=True, kw_only=True)
class InferenceModel:
    """A trained model, for model.apply(variables, images, sizes, method="detect"). Class names and ids are by label."""

    config: Config
    model: Any
    variables: Any
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    step: int


def load_for_inference(workdir: str | Path, step: int | None = None) -> InferenceModel:
    """The model of a run, with averaged weights if config.optim.ema is on. step: of a checkpoint; None is the latest.

    Raises CheckpointError, which names the folder, if the checkpoint is missing or broken.
    """
    folder = Path(workdir) / "checkpoints"
    if not Path(workdir).is_dir():
        raise CheckpointError(f"{workdir}: no such folder")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; is {workdir} the workdir of a run?")
    with Checkpoints(folder, read_only=True) as checkpoints:
        steps = checkpoints.steps()
        if not steps:
            raise CheckpointError(f"{folder} has no complete checkpoint")
        if step is None:
            step = steps[-1]
        if step not in steps:
            raise CheckpointError(f"{folder} has no step {step}; it has {', '.join(map(str, steps))}")
        meta = checkpoints.meta(step)
        where = f"{folder / str(step)}: meta"
        missing = [key for key in ("config", "class_names", "category_ids") if key not in meta]
        if missing:
            raise CheckpointError(f"{where} has no {', '.join(missing)}")
        config = from_json(json.dumps(meta["config"]), where)
        model = detectors.build(config.model)
        like = jax.eval_shape(lambda: init_variables(model, jax.random.key(0), config.data.canvases[0]))
        variables = checkpoints.variables(step, like, average=config.optim.ema > 0)
    return InferenceModel(
        config=config,
        model=model,
        variables=variables,
        class_names=tuple(meta["class_names"]),
        category_ids=tuple(meta["category_ids"]),
        step=step,
    )
