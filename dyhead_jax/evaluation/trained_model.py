"""Loads a trained model: from the workdir of a run, or from a folder that was exported from one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from dyhead_jax import command, detectors
from dyhead_jax.config import Config, ConfigError, from_tree, validate_stored
from dyhead_jax.evaluation import exported_folder
from dyhead_jax.training.steps import init_variables
from dyhead_jax.weights import finite


@dataclass(frozen=True, kw_only=True)
class InferenceModel:
    """A trained model, for model.apply(variables, images, sizes, method="detect"). Class names and ids are by label."""

    config: Config
    model: Any
    variables: Any
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    step: int


def load_for_inference(source: str | Path, step: int | None = None, *, trust: Sequence[str] = ()) -> InferenceModel:
    """The model of a run, with averaged weights if config.optim.ema is on, or of an exported folder.

    source: a workdir, or what `exported_folder.find` takes for an exported folder. step: of a checkpoint of a workdir;
    None is the latest that is not damaged. trust: packages beside this one whose classes its config may name.
    Raises CheckpointError, which names the folder, if the checkpoint is missing or broken, ExportedFolderError,
    NotFiniteError for weights with a NaN, and ConfigError for a config that names other packages.
    """
    folder = exported_folder.find(source)
    if folder is None:
        return _load_workdir(command.path(source), step, trust)
    if step is not None:
        raise exported_folder.ExportedFolderError(f"{folder} is an exported model without steps; leave out step {step}")
    exported = exported_folder.read(folder, trust)
    model, like = _build(exported.config, str(folder / exported_folder.CONFIG))
    return InferenceModel(
        config=exported.config,
        model=model,
        variables=exported_folder.fill(like, exported.arrays, folder),
        class_names=exported.class_names,
        category_ids=exported.category_ids,
        step=exported.step,
    )


def _load_workdir(workdir: Path, step: int | None, trust: Sequence[str]) -> InferenceModel:
    from dyhead_jax.training.checkpoint import CheckpointError, Checkpoints  # an exported folder needs no Orbax

    folder = workdir / "checkpoints"
    if not workdir.is_dir():
        raise CheckpointError(f"{workdir}: no such folder")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; is {workdir} the workdir of a run?")
    with Checkpoints(folder, read_only=True) as checkpoints:
        if step is None:
            return checkpoints.newest(lambda step: _load_step(checkpoints, step, trust))
        if step not in (steps := checkpoints.steps()):
            raise CheckpointError(f"{folder} has no step {step}; it has {', '.join(map(str, steps))}")
        return _load_step(checkpoints, step, trust)


def _load_step(checkpoints: Any, step: int, trust: Sequence[str]) -> InferenceModel:
    from dyhead_jax.training.checkpoint import CheckpointError

    meta = checkpoints.meta(step)
    where = f"{checkpoints.folder / str(step)}: meta"
    missing = [key for key in ("config", "class_names", "category_ids") if key not in meta]
    if missing:
        raise CheckpointError(f"{where} has no {', '.join(missing)}")
    config = from_tree(meta["config"], where, trust=trust)
    model, like = _build(config, where)
    variables = checkpoints.variables(step, like, average=config.optim.ema > 0)
    finite.check(variables, str(checkpoints.folder / str(step)))
    return InferenceModel(
        config=config,
        model=model,
        variables=variables,
        class_names=tuple(meta["class_names"]),
        category_ids=tuple(meta["category_ids"]),
        step=step,
    )


def _build(config: Config, where: str) -> tuple[Any, Any]:
    """The model of a stored config, and the shapes of its variables. Raises ConfigError, which begins with `where`."""
    validate_stored(config, where)
    try:
        model = detectors.build(config.model)
        return model, jax.eval_shape(lambda: init_variables(model, jax.random.key(0), config.data.canvases[0]))
    except Exception as error:  # of numbers that do not fit each other, or of a fork's module
        reason = f"{type(error).__name__}: {command.one_line(error)[:300]}"
        raise ConfigError(f"{where}: its model cannot be built: {reason} (--debug shows where)") from error
