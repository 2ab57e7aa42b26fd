"""Weights to start from: `config.model.pretrained` as the variables of a backbone."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from dyhead_jax.weights import files, layouts, lite0_package, state_dict


class PretrainedError(ValueError):
    """Weights that do not fit the backbone; the message names the file."""


def backbone(name: str, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """{"params": ..., "batch_stats": ...} of the backbone, NumPy arrays.

    name: "efficientnet-lite0", or a file of weights (`files.read`) with a ResNet, ResNeXt or Swin Transformer
    among them, in any of the layouts `layouts.BACKBONES` and below any prefix: a backbone of its own or that of a whole
    detector. shapes: the backbone's own {"params", "batch_stats"}, arrays or `jax.ShapeDtypeStruct`; every one of them
    must be filled, but for Swin's norms of the maps, which no classifier has: they stay the arrays that they are, and
    are left out where they are none.
    Raises PretrainedError, WeightsFileError, TorchFileError or NamesError, one line each, where the weights are absent
    or do not fit.
    """
    if name == "efficientnet-lite0":
        loaded = lite0_package.pretrained()
        same = jax.tree.map(np.shape, loaded) == jax.tree.map(np.shape, dict(shapes))
        if not same:
            raise PretrainedError(f"config.model.pretrained={name!r} does not fit config.model.backbone")
        return loaded
    arrays, _ = files.read(name)
    try:
        found = layouts.find_backbone(arrays)
        tree = state_dict.match(found.table, below(arrays, found.prefix), shapes).variables
    except (layouts.LayoutError, state_dict.NamesError) as error:
        raise PretrainedError(f"{name}: {error}") from error
    leaves = traverse_util.flatten_dict(tree)
    known = {path: leaf for path, leaf in leaves.items() if not isinstance(leaf, jax.ShapeDtypeStruct)}
    return traverse_util.unflatten_dict(known)


def below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
