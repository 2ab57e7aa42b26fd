"""Parameters between PyTorch checkpoints and trees here: `load`, which accounts for every one of them, and `save`.

A table is a list of rules such as `Rule("layer{}.{}.conv{}.weight", "layer{}_{}/conv{}/kernel", "conv")`. Each {}
stands for a number, and the numbers keep their order; the kind says how the array is laid out (KINDS). A target
`scales[{}]` is one piece of a stack. Tables can be added, and `under` puts one below a prefix. The tables themselves
are in `names`.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import traverse_util


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
    "scalar": lambda x: x.reshape(()),  # mmdetection has shape ()
    "scalar_1": lambda x: x.reshape(()),  # the official code (1,)
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
    "scalar_1": lambda x: x.reshape((1,)),
    "conv": lambda x: x.transpose(3, 2, 0, 1),
    "linear": lambda x: x.transpose(1, 0),
    "flat_conv": lambda x: x.transpose(1, 0)[:, :, None, None],
    "unfold_linear": lambda x: _unfold_order(x.transpose(1, 0)),
    "unfold_vector": _unfold_order,
    "nchw": lambda x: x.transpose(0, 3, 1, 2),
}


@dataclass(frozen=True)
class Rule:
    """source: the name in the file, {} for numbers; target: module path and parameter here, by slashes.

    order: where the file has groups of output channels in another order, the file's group for each of ours.
    """

    source: str
    target: str
    kind: str
    collection: str = "params"
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rules, and what may be left over on either side.

    ignored: names in the file that have no place here, each with the reason. optional: paths here that a file may lack;
    they then keep their value. constants: batch statistics that the format leaves out because their value is known.
    renamed: (pattern, replacement) of `re.sub` for older forms of a name; the first that fits is taken. In `ignored`
    and `constants` a * matches anything, in `ignored` and `optional` a {} matches any number.
    """

    rules: tuple[Rule, ...]
    ignored: tuple[tuple[str, str], ...] = ()
    optional: tuple[str, ...] = ()
    constants: tuple[tuple[str, float], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()

    def under(self, source: str, target: str) -> "Table":
        """The same table for a model that sits below the prefix `source` there and the module path `target` here."""
        head = f"{target}/" if target else ""
        return Table(
            tuple(dataclasses.replace(r, source=source + r.source, target=head + r.target) for r in self.rules),
            tuple((source + name, reason) for name, reason in self.ignored),
            tuple(head + path for path in self.optional),
            tuple((head + path, value) for path, value in self.constants),
            tuple((f"({re.escape(source)}){old}", _shifted(new)) for old, new in self.renamed)
            if source
            else self.renamed,
        )

    def __add__(self, other: "Table") -> "Table":
        return Table(*(getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(Table)))


@dataclass(frozen=True)
class Match:
    """How a checkpoint fills a model.

    variables: the model's tree, filled. names: path here -> name in the file ("scales[2]" is a piece of a stack).
    left: name in the file -> why it has no place here. kept: paths here that the file may lack and does. constant:
    paths here whose value the format implies.
    """

    variables: dict[str, Any]
    names: dict[str, str]
    left: dict[str, str]
    kept: tuple[str, ...]
    constant: tuple[str, ...]


def load(
    table: Table, state_dict: Mapping[str, np.ndarray], variables: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The tree {"params": ..., "batch_stats": ...} of NumPy arrays that a PyTorch checkpoint holds for a model here.

    state_dict: name -> array. variables: as in `match`, but a parameter that the file lacks must be an array. Without
    it the tree is whatever the table makes of the file.
    Raises NamesError as `match` does.
    """
    if variables is None:
        filled, _, _, problems = _collect(table, state_dict, None)
        if problems:
            raise NamesError("; ".join(problems))
        return traverse_util.unflatten_dict(filled, sep="/")
    matched = match(table, state_dict, variables)
    flat = _flatten(variables)
    lacking = [path for path in matched.kept if isinstance(flat[path], jax.ShapeDtypeStruct)]
    if lacking:
        raise NamesError(f"the checkpoint has nothing for {_some(lacking)} of the model")
    return matched.variables


def known(table: Table, state_dict: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The tree of the arrays that the rules take, and the names that have no place, whether ignored or unknown.

    Unlike `load` it asks for nothing to be complete. Raises NamesError for two names of one parameter, missing pieces
    of a stack, and arrays that are not of a rule's kind.
    """
    filled, names, _, _ = _collect(table, state_dict, None)
    taken = set(names.values())
    return traverse_util.unflatten_dict(filled, sep="/"), tuple(name for name in state_dict if name not in taken)


def match(table: Table, state_dict: Mapping[str, np.ndarray], variables: Mapping[str, Any]) -> Match:
    """Fills a model's tree from a checkpoint, and accounts for every parameter on both sides.

    variables: the model's own tree, arrays or `jax.ShapeDtypeStruct` (of `jax.eval_shape(model.init, ...)`); the result
    has its structure and dtypes, and its values where the file may lack a parameter.
    Raises NamesError, which names up to five of each kind, for names of the file that no rule takes, parameters of
    `variables` that the file does not fill, two names for one parameter, missing pieces of a stack, and shapes that
    differ.
    """
    flat = _flatten(variables)
    filled, names, left, problems = _collect(table, state_dict, flat)
    optional = [name_pattern(f"params/{path}") for path in table.optional]
    constants = [(name_pattern(f"batch_stats/{path}"), value) for path, value in table.constants]
    result, missing, unlike = {}, [], []
    kept, constant = [], []
    for path, leaf in flat.items():
        value = next((v for pattern, v in constants if pattern.fullmatch(path)), None)
        if path in filled:
            if filled[path].shape != tuple(leaf.shape):
                name = names.get(path) or names[f"{path}[0]"]
                shapes = f"{filled[path].shape}; {path} has {tuple(leaf.shape)}"
                unlike.append(f"{name} of the checkpoint gives shape {shapes}")
            result[path] = filled[path].astype(leaf.dtype, copy=False)
        elif value is not None:
            result[path] = np.full(leaf.shape, value, leaf.dtype)
            constant.append(path)
        elif any(pattern.fullmatch(path) for pattern in optional):
            result[path] = leaf
            kept.append(path)
        else:
            missing.append(path)
    if missing:
        problems.append(f"the checkpoint has nothing for {_some(missing)} of the model")
    if unlike:
        problems.append(unlike[0] + (f"; and {len(unlike) - 1} more shapes differ" if len(unlike) > 1 else ""))
    if problems:
        raise NamesError("; ".join(problems))
    return Match(traverse_util.unflatten_dict(result, sep="/"), names, left, tuple(kept), tuple(constant))


def _collect(
    table: Table, state_dict: Mapping[str, np.ndarray], flat: Mapping[str, Any] | None
) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, str], list[str]]:
    """Our arrays by path, the name behind each path, the names left over and why, and what is wrong.

    flat: the paths that the model has; None for all that the rules give.
    """
    rules = [(name_pattern(rule.source), rule) for rule in table.rules]
    ignored = [(name_pattern(name), reason) for name, reason in table.ignored]
    renamed = [(re.compile(old), new) for old, new in table.renamed]
    filled: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    left: dict[str, str] = {}
    pieces: dict[str, dict[int, np.ndarray]] = {}
    unknown: list[str] = []
    for name, array in state_dict.items():
        old = next((pair for pair in renamed if pair[0].match(name)), None)
        current = old[0].sub(old[1], name, count=1) if old else name
        matched = next(((m, rule) for pattern, rule in rules if (m := pattern.fullmatch(current))), None)
        if matched is None:
            reason = next((reason for pattern, reason in ignored if pattern.fullmatch(name)), None)
            if reason is None:
                unknown.append(name)
            else:
                left[name] = reason
            continue
        numbers, rule = matched[0].groups(), matched[1]
        path = f"{rule.collection}/{_fill(rule.target, numbers)}"
        stack = _STACK.fullmatch(path)
        leaf = stack[1] if stack else path
        if flat is not None and leaf not in flat:
            unknown.append(name)
            continue
        if path in names:
            raise NamesError(f"{names[path]} and {name} of the checkpoint both fill {path}")
        names[path] = name
        value = _layout(np.asarray(array), rule, name, path)
        if stack:
            pieces.setdefault(leaf, {})[int(stack[2])] = value
        else:
            filled[path] = value
    for path, values in pieces.items():
        lacking = sorted(set(range(max(values) + 1)) - set(values))
        if lacking or len({v.shape for v in values.values()}) > 1:
            raise NamesError(f"the checkpoint's pieces of {path} do not stack: indices {sorted(values)}")
        filled[path] = np.stack([values[i] for i in range(len(values))])
    problems = [f"the model has no place for {_some(unknown)} of the checkpoint"] if unknown else []
    return filled, names, left, problems


def save(table: Table, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tree {"params": ..., ...} under PyTorch's names and in its layouts: the inverse of `load`.

    Raises NamesError for a parameter that no rule names, unless it has the value that the format implies.
    """
    rules = [(name_pattern(f"{rule.collection}/{rule.target}"), rule) for rule in table.rules]
    constants = [(name_pattern(f"batch_stats/{path}"), value) for path, value in table.constants]
    result: dict[str, np.ndarray] = {}
    unknown: list[str] = []
    for path, leaf in _flatten(variables).items():
        value = np.asarray(leaf)
        if any(p.fullmatch(path) and (value == np.asarray(v, value.dtype)).all() for p, v in constants):
            continue
        entries = [(path, value)]
        if not any(pattern.fullmatch(path) for pattern, _ in rules):
            entries = [(f"{path}[{i}]", piece) for i, piece in enumerate(value)] if value.ndim else []
        matches = [(m, rule, v) for p, v in entries for pattern, rule in rules if (m := pattern.fullmatch(p))]
        if not matches:
            unknown.append(path)
        for matched, rule, v in matches:
            try:
                array = INVERSES[rule.kind](v)
            except (ValueError, IndexError) as error:
                raise NamesError(f"{path} has shape {v.shape}, which is no {rule.kind}") from error
            result[_fill(rule.source, matched.groups())] = _grouped(array, tuple(np.argsort(rule.order).tolist()))
    if unknown:
        raise NamesError(f"the table has no name for {_some(unknown)}")
    return result


_STACK = re.compile(r"(.*)\[(\d+)\]")  # piece number n of a stack


def _flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Path by slashes -> leaf, in the order of the paths."""
    leaves = traverse_util.flatten_dict(dict(variables))
    return {"/".join(path): leaves[path] for path in sorted(leaves)}


def name_pattern(name: str) -> re.Pattern[str]:
    """A name with {} for any number, each a group, and * for anything."""
    return re.compile(re.escape(name).replace(r"\{\}", r"(\d+)").replace(r"\*", ".*"))


def _shifted(replacement: str) -> str:
    r"""The replacement where a new first group comes before: \1, \2, ... become \2, \3, ... behind it."""
    return r"\1" + re.sub(r"\\(\d)", lambda m: f"\\{int(m[1]) + 1}", replacement)


def _fill(name: str, numbers: Sequence[str]) -> str:
    for number in numbers:
        name = name.replace("{}", number, 1)
    return name


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _layout(array: np.ndarray, rule: Rule, name: str, path: str) -> np.ndarray:
    try:
        return KINDS[rule.kind](_grouped(array, rule.order))
    except (ValueError, IndexError) as error:
        shape = f"{name} of the checkpoint has shape {array.shape}"
        raise NamesError(f"{shape}, which is no {rule.kind} for {path}") from error


def _grouped(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """The groups of the first axis in another order."""
    if not order:
        return array
    return array.reshape(len(order), -1, *array.shape[1:])[list(order)].reshape(array.shape)
