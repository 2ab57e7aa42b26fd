"""The weights that a training starts from: random, of `config.model.pretrained`, and of `config.model.init`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from dyhead_jax import command
from dyhead_jax.config import Config, packages
from dyhead_jax.evaluation import exported_folder
from dyhead_jax.evaluation.trained_model import load_for_inference
from dyhead_jax.training import initial, steps
from dyhead_jax.training.parameters import Parameters
from dyhead_jax.weights import layouts, pretrained, provenance


def first_variables(
    config: Config, model: Any, parameters: Parameters, class_names: Sequence[str], trust: Sequence[str] = ()
) -> dict[str, Any]:
    """Random weights from the seed, with the backbone of config.model.pretrained and what config.model.init has.

    trust: packages whose classes the model of config.model.init may name, beside those that the config itself names.
    Prints what was taken of that model. Raises InitialError, PretrainedError and the errors of reading.
    """
    random = partial(steps.init_variables, model, jax.random.key(config.seed), config.data.canvases[0])
    begin = initial.Start({}, {}, [])
    if config.model.init:
        pixels = provenance.configured(config.model)
        begin = initial.start(_other_model(config, trust), parameters, class_names, pixels, config.model.init)
        print(*begin.notes, sep="\n  ")
    given = begin.given
    if config.model.pretrained:
        backbone = {name: tree["backbone"] for name, tree in parameters.shapes.items() if "backbone" in tree}
        loaded = pretrained.backbone(config.model.pretrained, backbone, layouts.declared(config.model.backbone))
        flat = flatten_dict({name: {"backbone": tree} for name, tree in loaded.items()})
        given = unflatten_dict(flat | flatten_dict(given))  # config.model.init goes before
    return begin.fill(steps.jit_once(random)(given=given))


def _other_model(config: Config, trust: Sequence[str]) -> initial.OtherModel:
    """The model that config.model.init names."""
    path = command.path(config.model.init)
    exported = path.name == exported_folder.WEIGHTS and path.with_name(exported_folder.CONFIG).is_file()
    if not path.is_dir() and not exported:
        return initial.read(path, config.model)
    loaded = load_for_inference(path, trust=(*trust, *packages(config)))
    return initial.other_model(loaded.variables, loaded.class_names, loaded.config.model)
