"""Weights of another model to start from (`config.model.init`): what fits is taken, the rest starts anew.

An array fits by its name and shape. Of the parameters that have a part for each class (`class_parameters`, see
`parameters`), classes of the same name keep their part, whatever their number and order; other classes start anew.
"""

import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dyhead_jax.config import ModelConfig
from dyhead_jax.data import classes
from dyhead_jax.training.parameters import Parameters, Path
from dyhead_jax.weights import files, finite, layouts, provenance, state_dict

COLLECTIONS = ("params/", "batch_stats/")


class InitialError(ValueError):
    """A model to start from has nothing that fits; the message names it."""


@dataclass(frozen=True)
class OtherModel:
    """arrays: host arrays by path, which begins with "params" or "batch_stats". class_names: by label, () where they
    are not known; pixels: what it takes for input, None where that is not known.

    left: names in its file that are not those of such a model.
    """

    arrays: Mapping[Path, np.ndarray]
    class_names: tuple[str, ...] = ()
    pixels: provenance.Pixels | None = None
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Start:
    """given: arrays that are taken whole, a part of the model's variables. parts: of each array that has a part for
    each class, the values (path -> array) and where they are known (path -> bool of the last axis). notes: one line for
    each kind of thing that was taken or starts anew."""

    given: dict[str, Any]
    parts: dict[Path, tuple[np.ndarray, np.ndarray]]
    notes: list[str]

    def fill(self, variables: Any) -> Any:
        """The model's variables (random, with `given` among them) with the parts of known classes put in."""
        flat: Any = traverse_util.flatten_dict(variables, keep_empty_nodes=True)  # batch_stats may be {}
        for path, (values, known) in self.parts.items():
            flat[path] = jnp.where(known, values, flat[path])
        return traverse_util.unflatten_dict(flat)


def other_model(variables: Any, class_names: Sequence[str], model: ModelConfig) -> OtherModel:
    """A trained model with these variables and classes; model: its own config."""
    known = tuple(class_names) if classes.are_known(class_names) else ()
    return OtherModel(_flat(variables), known, provenance.configured(model))


def read(path: pathlib.Path, model: ModelConfig) -> OtherModel:
    """The weights in a file: with the names of this package, or of a whole detector or a backbone in any known layout.

    model: the config of the new model, which has the number of its layers. Raises the errors of `files.read`,
    LayoutError and NamesError.
    """
    arrays, meta, _ = files.read(path)
    if all(name.startswith(COLLECTIONS) for name in arrays):
        return OtherModel({tuple(name.split("/")): array for name, array in arrays.items()})
    own = layouts.declared(model.backbone)
    layout = layouts.detect(arrays, own)
    pixels, _ = provenance.pixels(arrays, meta, layout, model)
    if layout in layouts.WHOLE:
        variables, left = state_dict.known(layouts.detector(model, layout), arrays)
        return OtherModel(_flat(variables), tuple(provenance.class_names(meta) or ()), pixels, left)
    backbone = layouts.find_backbone(arrays, own=own)
    variables, left = state_dict.known(backbone.table.under(backbone.prefix, "backbone"), arrays)
    return OtherModel(_flat(variables), (), pixels, left)


def start(
    other: OtherModel, parameters: Parameters, class_names: Sequence[str], pixels: provenance.Pixels, where: str
) -> Start:
    """What a new model, whose classes by label are `class_names`, takes of another one. pixels: what the new one takes
    for input; where: for messages.

    Raises InitialError where nothing fits, and NotFiniteError where what fits has a NaN.
    """
    have, want = other.arrays, _flat(parameters.shapes)
    given, parts, anew, unlike = {}, {}, [], []
    same_classes = not other.class_names or classes.plain(other.class_names) == classes.plain(class_names)
    for path, leaf in want.items():
        layout = parameters.classes.get(path[1:]) if path[0] == "params" else None
        if path not in have:
            anew.append(path)
        elif layout is not None and not same_classes:
            part = _part(have[path], leaf, layout, other.class_names, class_names)
            if part is None:
                unlike.append(path)
            else:
                parts[path] = part
        elif np.shape(have[path]) != tuple(leaf.shape):
            unlike.append(path)
        else:
            given[path] = have[path].astype(leaf.dtype, copy=False)
    finite.check({"/".join(path): have[path] for path in (*given, *parts)}, f"config.model.init={where}")
    kept = [path for path, (_, known) in parts.items() if known.any()]
    if not given and not kept:
        raise InitialError(f"config.model.init={where}: nothing in it fits this model by name and shape")
    notes = [
        f"start from {where}: {len(given) + len(kept)} of {len(want)} arrays,"
        f" {_millions(want[path] for path in (*given, *kept))} of {_millions(want.values())} M values"
    ]
    if parts:
        known = [name for name in class_names if classes.plain([name])[0] in classes.plain(other.class_names)]
        new = [name for name in class_names if name not in known]
        notes.append(f"classes that keep their weights: {', '.join(known) or 'none'}; new: {', '.join(new) or 'none'}")
    elif not other.class_names and any(path[1:] in parameters.classes for path in given):
        notes.append("the classes of these weights are not known; they are taken in their order")
    for text, paths in (("not in it", anew), ("of another shape in it", unlike)):
        if paths:
            notes.append(f"start anew, {text}: {_groups(paths)}")
    if unused := [path for path in have if path not in want]:
        notes.append(f"no place here for {_groups(unused)}")
    if other.left:
        notes.append(f"no place here for {len(other.left)} arrays of the file, such as {other.left[0]}")
    if other.pixels is not None and not provenance.same(other.pixels, pixels):
        notes.append(f"warning: these weights want {other.pixels}, not {pixels}; give {other.pixels.options()}")
    return Start(traverse_util.unflatten_dict(given), parts, notes)


def _part(
    old: np.ndarray, leaf: jax.ShapeDtypeStruct, layout: str, old_names: Sequence[str], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """The values of the classes that both models have, and where along the last axis; None if the rest differs."""
    before, now = _channels(layout, old.shape[-1], len(old_names)), _channels(layout, leaf.shape[-1], len(names))
    if old.shape[:-1] != tuple(leaf.shape[:-1]) or before is None or now is None or before.shape[1] != now.shape[1]:
        return None
    values, known = np.zeros(leaf.shape, leaf.dtype), np.zeros(leaf.shape[-1], bool)
    labels = {name: label for label, name in enumerate(classes.plain(old_names))}
    pairs = [(label, labels[name]) for label, name in enumerate(classes.plain(names)) if name in labels]
    if layout == "classes, background":
        pairs.append((len(names), len(old_names)))
    for new_label, old_label in pairs:
        values[..., now[new_label]] = old[..., before[old_label]]
        known[now[new_label]] = True
    return values, known


def _channels(layout: str, size: int, count: int) -> np.ndarray | None:
    """(classes, k) the channels of each class among `size`; None where they do not divide. See `parameters`."""
    if layout == "classes, background":
        return np.arange(size)[:, None] if size == count + 1 else None
    if size % count:
        return None
    channels = np.arange(size)
    return channels.reshape(-1, count).T if layout == "classes" else channels.reshape(count, -1)


def _millions(leaves: Any) -> str:
    return f"{sum(int(np.prod(leaf.shape)) for leaf in leaves) / 1e6:.2f}"


def _flat(tree: Any) -> dict[Path, Any]:
    return dict(traverse_util.flatten_dict(tree))  # type: ignore[arg-type]


def _groups(paths: Sequence[Path]) -> str:
    """The modules of these arrays, with the number of arrays in each."""
    counts = Counter(path[1] for path in paths)
    return ", ".join(f"{name} ({count} array{'s' if count > 1 else ''})" for name, count in counts.items())
