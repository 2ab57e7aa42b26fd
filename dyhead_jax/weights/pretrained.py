"""Weights to start from: `config.model.pretrained` as the variables of a backbone."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from dyhead_jax.weights import files, finite, layouts, lite0_package, state_dict


class PretrainedError(ValueError):
    """Weights that do not fit the backbone; the message names the file."""


def backbone(name: str, shapes: Mapping[str, Any], own: Mapping[str, state_dict.Table] | None = None) -> dict[str, Any]:
    """{"params": ..., "batch_stats": ...} of the backbone, NumPy arrays.

    name: "efficientnet-lite0", or a file of weights (`files.read`) that holds a ResNet, ResNeXt or Swin Transformer, in
    any of the layouts `layouts.BACKBONES` and below any prefix: a backbone alone, or that of a whole detector. own:
    layouts that the backbone's class brings (`layouts.declared`).
    shapes: the backbone's own {"params", "batch_stats"}, arrays or `jax.ShapeDtypeStruct`. The weights must fill every
    one of them, except Swin's norms of the maps, which no classifier has: where the file lacks them, arrays stay as
    they are and shapes are left out.
    Raises PretrainedError, WeightsFileError, TorchFileError, NamesError or NotFiniteError, one line each, where the
    weights are absent, do not fit or have a NaN.
    """
    if name == "efficientnet-lite0":
        loaded = lite0_package.pretrained()
        if jax.tree.map(np.shape, loaded) != jax.tree.map(np.shape, dict(shapes)):
            raise PretrainedError(f"config.model.pretrained={name!r} does not fit config.model.backbone")
        return loaded
    arrays = files.read(name).arrays
    try:
        source = layouts.find_backbone(arrays, own=own)
        tree = state_dict.match(source.table, below(arrays, source.prefix), shapes).variables
    except (layouts.LayoutError, state_dict.NamesError) as error:
        raise PretrainedError(f"{name}: {error}") from error
    leaves = traverse_util.flatten_dict(tree)
    arrays_only = {path: leaf for path, leaf in leaves.items() if not isinstance(leaf, jax.ShapeDtypeStruct)}
    finite.check(tree, name)
    return traverse_util.unflatten_dict(arrays_only)


def below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
