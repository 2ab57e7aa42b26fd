"""Parameters between PyTorch checkpoints and trees here: `load`, which accounts for every one of them, and `save`.

A table is a list of rules. `Rule("layer{}.{}.conv{}.weight", "layer{}_{}/conv{}/kernel", "conv")`: each {} stands for a
number and goes over in order; the kind says how the array is laid out (KINDS). A target `scales[{}]` is one piece of a
stack. Tables add up, and `under` puts one below a prefix. The tables themselves are in `names`.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


class NamesError(ValueError):
    """A checkpoint that does not fit the model; the message names parameters and shapes."""


def _merging_order(x: np.ndarray) -> np.ndarray:
    """Channels of mmdetection's patch merging (nn.Unfold) -> the official order, along the last axis.

    Both stack the four pixels of a 2x2 cell: mmdetection as (c, row, column), the official code as (column, row, c).
    """
    *rest, c4 = x.shape
    return x.reshape(*rest, c4 // 4, 2, 2).swapaxes(-1, -3).reshape(*rest, c4)


def _unfold_order(x: np.ndarray) -> np.ndarray:
    """The inverse of `_merging_order`."""
    *rest, c4 = x.shape
    return x.reshape(*rest, 2, 2, c4 // 4).swapaxes(-1, -3).reshape(*rest, c4)


def _flat(x: np.ndarray) -> np.ndarray:
    if x.shape[2:] != (1, 1):
        raise ValueError("not a 1x1 kernel")
    return x[:, :, 0, 0].transpose(1, 0)


# PyTorch layout -> layout here
KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda x: x,
    "scalar": lambda x: x.reshape(()),  # PyTorch has shape () or (1,)
    "conv": lambda x: x.transpose(2, 3, 1, 0),  # (out, in, kh, kw) -> (kh, kw, in, out)
    "linear": lambda x: x.transpose(1, 0),  # (out, in) -> (in, out)
    "flat_conv": _flat,  # a 1x1 convolution that is a linear layer here
    "unfold_linear": lambda x: _merging_order(x).transpose(1, 0),
    "unfold_vector": _merging_order,
    "nchw": lambda x: x.transpose(0, 2, 3, 1),
}

# and back
INVERSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda x: x,
    "scalar": lambda x: x.reshape(()),
    "conv": lambda x: x.transpose(3, 2, 0, 1),
    "linear": lambda x: x.transpose(1, 0),
    "flat_conv": lambda x: x.transpose(1, 0)[:, :, None, None],
    "unfold_linear": lambda x: _unfold_order(x.transpose(1, 0)),
    "unfold_vector": _unfold_order,
    "nchw": lambda x: x.transpose(0, 3, 1, 2),
}


@dataclass(frozen=True)
class Rule:
    """source: the name in the file, {} for numbers; target: module path and parameter here, by slashes."""

    source: str
    target: str
    kind: str
    collection: str = "params"


@dataclass(frozen=True)
class Table:
    """Rules; `ignored`: names of the file with no place here; `optional`: paths here that a file may lack.

    In `ignored` a {} is any number and a * anything; an optional path keeps the value it has.
    """

    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def under(self, source: str, target: str) -> "Table":
        """The same table for a model that sits below the prefix `source` there and the module path `target` here."""
        head = f"{target}/" if target else ""
        rules = (dataclasses.replace(r, source=source + r.source, target=head + r.target) for r in self.rules)
        return Table(tuple(rules), tuple(source + i for i in self.ignored), tuple(head + o for o in self.optional))

    def __add__(self, other: "Table") -> "Table":
        return Table(self.rules + other.rules, self.ignored + other.ignored, self.optional + other.optional)


def load(
    table: Table, state_dict: Mapping[str, np.ndarray], variables: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The tree {"params": ..., "batch_stats": ...} of NumPy arrays that a PyTorch checkpoint holds for a model here.

    variables: the model's own tree, arrays or `jax.ShapeDtypeStruct` (of `jax.eval_shape(model.init, ...)`). With it
    every parameter of both sides is accounted for, and the result has its structure and dtypes; without it the tree is
    what the table makes of the file.
    Raises NamesError, naming up to five of them, for names of the file that no rule takes, parameters of `variables`
    that the file does not fill, two names for one parameter, missing pieces of a stack, and shapes that differ.
    """
    rules = [(_pattern(rule.source), rule) for rule in table.rules]
    ignored = [_pattern(name) for name in table.ignored]
    flat = None if variables is None else _flatten(variables)
    filled: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    pieces: dict[str, dict[int, np.ndarray]] = {}
    unknown: list[str] = []
    for name, array in state_dict.items():
        match = next(((m, rule) for pattern, rule in rules if (m := pattern.fullmatch(name))), None)
        if match is None:
            if not any(pattern.fullmatch(name) for pattern in ignored):
                unknown.append(name)
            continue
        path = f"{match[1].collection}/{_fill(match[1].target, match[0].groups())}"
        stack = _STACK.fullmatch(path)
        leaf = stack[1] if stack else path
        if flat is not None and leaf not in flat:
            unknown.append(name)
            continue
        if path in names:
            raise NamesError(f"{names[path]} and {name} of the checkpoint both fill {path}")
        names[path] = name
        names.setdefault(leaf, name)
        value = _layout(np.asarray(array), match[1].kind, name, path)
        if stack:
            pieces.setdefault(leaf, {})[int(stack[2])] = value
        else:
            filled[path] = value
    if unknown:
        raise NamesError(f"the model has no place for {_some(unknown)} of the checkpoint")
    for path, values in pieces.items():
        lacking = sorted(set(range(max(values) + 1)) - set(values))
        if lacking or len({v.shape for v in values.values()}) > 1:
            raise NamesError(f"the checkpoint's pieces of {path} do not stack: indices {sorted(values)}")
        filled[path] = np.stack([values[i] for i in range(len(values))])
    if flat is not None:
        filled = _checked(filled, flat, names, table)
    return _nest(filled)


def _checked(filled: dict, flat: dict[str, Any], names: dict[str, str], table: Table) -> dict[str, np.ndarray]:
    """`filled` in the order and dtypes of `flat`, optional gaps filled from there."""
    optional = [_pattern(f"params/{path}") for path in table.optional]
    result, missing = {}, []
    for path, leaf in flat.items():
        if path in filled:
            if filled[path].shape != tuple(leaf.shape):
                shapes = f"{filled[path].shape}; {path} has {tuple(leaf.shape)}"
                raise NamesError(f"{names[path]} of the checkpoint gives shape {shapes}")
            result[path] = filled[path].astype(leaf.dtype)
        elif any(p.fullmatch(path) for p in optional) and not isinstance(leaf, jax.ShapeDtypeStruct):
            result[path] = np.asarray(leaf)
        else:
            missing.append(path)
    if missing:
        raise NamesError(f"the checkpoint has nothing for {_some(missing)} of the model")
    return result


def save(table: Table, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The PyTorch names and layouts of a tree {"params": ..., ...}: `load` backwards, for what the table names.

    Raises NamesError for a parameter that no rule gives.
    """
    rules = [(_pattern(f"{rule.collection}/{rule.target}"), rule) for rule in table.rules]
    result: dict[str, np.ndarray] = {}
    unknown: list[str] = []
    for path, leaf in _flatten(variables).items():
        value = np.asarray(leaf)
        entries = [(path, value)]
        if not any(pattern.fullmatch(path) for pattern, _ in rules):
            entries = [(f"{path}[{i}]", piece) for i, piece in enumerate(value)] if value.ndim else []
        found = [(m, rule, v) for p, v in entries for pattern, rule in rules if (m := pattern.fullmatch(p))]
        if not found:
            unknown.append(path)
        for match, rule, v in found:
            result[_fill(rule.source, match.groups())] = INVERSES[rule.kind](v)
    if unknown:
        raise NamesError(f"the table has no name for {_some(unknown)}")
    return result


_STACK = re.compile(r"(.*)\[(\d+)\]")  # piece number n of a stack


def _flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(dict(variables))
    return {"/".join(str(key.key) for key in keys): leaf for keys, leaf in leaves}


def _nest(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    return tree


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\{\}", r"(\d+)").replace(r"\*", ".*"))


def _fill(name: str, numbers: Sequence[str]) -> str:
    for number in numbers:
        name = name.replace("{}", number, 1)
    return name


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _layout(array: np.ndarray, kind: str, name: str, path: str) -> np.ndarray:
    try:
        return KINDS[kind](array)
    except (ValueError, IndexError) as error:
        raise NamesError(f"{name} of the checkpoint has shape {array.shape}, which is no {kind} for {path}") from error
