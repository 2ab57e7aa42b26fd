"""Weights to start from: `config.model.pretrained` as the variables of a backbone."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dyhead_jax import names, torch_file
from dyhead_jax.backbones import efficientnet_lite
from dyhead_jax.state_dict import Table


class PretrainedError(ValueError):
    """Weights that do not fit the backbone; the message names the file."""


def backbone(name: str, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """{"params": ..., "batch_stats": ...} of the backbone, NumPy arrays.

    name: "efficientnet-lite0", or a PyTorch file of a ResNet or ResNeXt with the names of torchvision, mmdetection
    (below "backbone." in a whole detector) or detectron2. shapes: the backbone's own {"params", "batch_stats"}, arrays
    or `jax.ShapeDtypeStruct`; every one of them must be filled.
    Raises PretrainedError, TorchFileError or NamesError, one line each, where the weights are absent or do not fit.
    """
    if name == "efficientnet-lite0":
        loaded = efficientnet_lite.pretrained()
        same = jax.tree.map(np.shape, loaded) == jax.tree.map(np.shape, dict(shapes))
        if not same:
            raise PretrainedError(f"config.model.pretrained={name!r} does not fit config.model.backbone")
        return loaded
    state = torch_file.read(name)
    inner = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    state = inner or state
    return names.load(_table(name, state), state, shapes)


def _table(name: str, state: Mapping[str, Any]) -> Table:
    """The name table that the file's names belong to."""
    if "conv1.weight" in state:
        return names.resnet
    if "stem.conv1.weight" in state:
        return names.resnet_detectron2
    raise PretrainedError(
        f"{name}: names like {next(iter(state), 'none at all')!r} fit no ResNet of torchvision, mmdetection, detectron2"
    )
