"""A trained model as a folder of plain files, in the form that the Hugging Face Hub keeps.

    config.json        the experiment's config, class names (id2label), category ids, the step
    model.safetensors  every array by its path here, such as params/backbone/conv1/kernel

Such a folder may come from anybody: nothing in it is unpickled or run, and its config may name classes of this package
only, unless the caller names another.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dyhead_jax import command
from dyhead_jax.config import Config, from_tree, parse, to_json
from dyhead_jax.weights import files, finite

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1


class ExportedFolderError(ValueError):
    """An exported folder that cannot be used; the message names the file, and the key or array at fault."""


@dataclass(frozen=True, kw_only=True)
class ExportedFolder:
    """What the two files hold. arrays: by path. Class names and ids are by label."""

    config: Config
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    step: int
    arrays: dict[str, np.ndarray]


def find(source: str | Path) -> Path | None:
    """The exported folder at `source`, which is the folder or its model.safetensors; None for anything else."""
    path = command.path(source)
    if path.name == WEIGHTS and path.is_file():
        return path.parent
    if path.is_file():
        raise ExportedFolderError(f"{path} is a file; give a folder, or {WEIGHTS} in an exported one")
    return path if (path / WEIGHTS).is_file() else None


def describe(config: Config, class_names: Sequence[str], category_ids: Sequence[int], step: int) -> dict[str, Any]:
    """The content of config.json."""
    return {
        "model_type": "dyhead_jax",
        "architectures": [config.model.head.module.rpartition(":")[2]],
        "id2label": {str(label): name for label, name in enumerate(class_names)},
        "label2id": {name: label for label, name in enumerate(class_names)},
        "category_ids": [int(i) for i in category_ids],
        "step": step,
        "dyhead_jax_format": FORMAT,
        "dyhead_jax": json.loads(to_json(config)),
    }


def flatten(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by path, the names joined by slashes."""
    found = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in found}


def read(folder: Path, trust: Sequence[str] = ()) -> ExportedFolder:
    """Reads and checks both files. trust: packages beside this one whose classes the config may name.

    Raises ExportedFolderError, WeightsFileError or ConfigError.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ExportedFolderError(f"{path}: no such file; {WEIGHTS} beside it says nothing of the model")
    tree = parse(path.read_bytes(), str(path))
    if not isinstance(tree, dict) or tree.get("model_type") != "dyhead_jax":
        raise ExportedFolderError(f"{path} is not of a model of dyhead_jax (model_type)")
    if tree.get("dyhead_jax_format") != FORMAT:
        raise ExportedFolderError(f"{path} has dyhead_jax_format {tree.get('dyhead_jax_format')!r}; known is {FORMAT}")
    for key, kind in (("id2label", dict), ("category_ids", list), ("step", int), ("dyhead_jax", dict)):
        if not isinstance(tree.get(key), kind):
            raise ExportedFolderError(f"{path}: {key} is {str(tree.get(key))[:40]!r}")
    config = from_tree(tree["dyhead_jax"], str(path), trust=trust)
    labels = [str(label) for label in range(len(tree["id2label"]))]
    if set(labels) != set(tree["id2label"]) or not len(labels) == len(tree["category_ids"]) == config.model.num_classes:
        raise ExportedFolderError(
            f"{path}: {len(labels)} labels in id2label and {len(tree['category_ids'])} category_ids, but the model has"
            f" {config.model.num_classes} classes, labelled from 0"
        )
    return ExportedFolder(
        config=config,
        class_names=tuple(str(tree["id2label"][label]) for label in labels),
        category_ids=tuple(int(i) for i in tree["category_ids"]),
        step=tree["step"],
        arrays=files.read(folder / WEIGHTS).arrays,
    )


def fill(like: Any, arrays: Mapping[str, np.ndarray], folder: Path) -> Any:
    """The tree `like` (arrays or shapes) with the arrays of the file.

    Raises ExportedFolderError, which names them, for arrays that are missing, unknown, or of another shape or dtype,
    and NotFiniteError.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    wanted = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    where = folder / WEIGHTS
    for what, names in (("lacks", wanted.keys() - arrays.keys()), ("has unknown", arrays.keys() - wanted.keys())):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ExportedFolderError(f"{where} {what} {', '.join(sorted(names)[:3])}{more}")
    for name, leaf in wanted.items():
        array = arrays[name]
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ExportedFolderError(
                f"{where}: {name} is {array.shape} {array.dtype}, but the model needs {leaf.shape} {leaf.dtype}"
            )
    finite.check({name: arrays[name] for name in wanted}, str(where))
    return jax.tree.unflatten(structure, [arrays[name] for name in wanted])
