"""Whether a model with what is tested can be written and read back, weights and config."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dyhead_jax import detectors
from dyhead_jax.config import packages
from dyhead_jax.contract.subject import Broken, NotRun, Subject
from dyhead_jax.contract.tiny_model import CANVAS, CLASSES
from dyhead_jax.evaluation.exported_folder import flatten
from dyhead_jax.evaluation.trained_model import InferenceModel, load_for_inference
from dyhead_jax.export import hub_folder
from dyhead_jax.training import optim, steps
from dyhead_jax.training.checkpoint import Checkpoints, make_meta
from dyhead_jax.weights.npz import WeightsFileError


def checkpoint(subject: Subject) -> str:
    """A checkpoint of a run holds the model: its config with the options, and every array to the bit."""
    config, variables = subject.config, _variables(subject)
    parameters = steps.survey(detectors.build(config.model), CANVAS)
    optimizer = optim.make_optimizer(config.optim, 1, parameters)
    state = jax.eval_shape(lambda: steps.create_state(parameters, optimizer, variables))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state).replace(**variables)
    with tempfile.TemporaryDirectory() as folder:
        with Checkpoints(Path(folder) / "checkpoints") as checkpoints:
            checkpoints.save(state, make_meta(config, CLASSES, tuple(range(len(CLASSES)))))
            checkpoints.wait()
            again, _ = checkpoints.restore(0, state)
        _compare("the optimiser's state", again.opt_state, state.opt_state)
        return _read_back(Path(folder), subject, variables)


def export(subject: Subject) -> str:
    """The folder of plain files that `dyhead_jax.export` writes holds the same model."""
    config, variables = subject.config, _variables(subject)
    model = InferenceModel(
        config=config,
        model=detectors.build(config.model),
        variables=variables,
        class_names=CLASSES,
        category_ids=tuple(range(len(CLASSES))),
        step=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            hub_folder.write(Path(folder), model)
        except WeightsFileError as error:
            raise NotRun(str(error)) from error
        return _read_back(Path(folder), subject, variables)


def _variables(subject: Subject) -> Any:
    """Noise in the place of weights."""
    model, draw = detectors.build(subject.config.model), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: steps.init_variables(model, jax.random.key(0), CANVAS))
    return jax.tree.map(lambda leaf: np.asarray(draw.normal(size=leaf.shape)).astype(leaf.dtype), shapes)


def _read_back(folder: Path, subject: Subject, variables: Any) -> str:
    loaded = load_for_inference(folder, trust=packages(subject.config))
    _compare("the weights", loaded.variables, variables)
    for kind in ("block", "spatial", "scale", "task"):
        was, now = (getattr(config.model.dyhead, kind) for config in (subject.config, loaded.config))
        if was != now:
            raise Broken(f"what is read back equals what was written, but {kind} was {was}, is {now}")
    return f"{len(flatten(variables))} arrays and the config, read back equal"


def _compare(what: str, found: Any, wanted: Any) -> None:
    found, wanted = flatten(found), flatten(wanted)
    for name in {**found, **wanted}:
        if name not in found or name not in wanted or not np.array_equal(found[name], wanted[name]):
            raise Broken(f"{what} read back equal what was written, but {name} differs")
