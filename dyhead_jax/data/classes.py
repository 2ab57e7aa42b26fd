"""Classes of a model and of data are the same by their names, not by their numbers.

The numbers follow the order in which an annotation file or a checkpoint lists its classes, which differs from file to
file; a model that meets classes in another order would take each for another one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dyhead_jax.data.source import Example, Split

OPTION = "--classes-by-number"
HELP = "take the classes of model and data by their numbers, although their names differ"
_SHOWN = 12


class ClassesError(ValueError):
    """The classes of a model and of data are not the same; the message shows both."""


def plain(names: Sequence[str]) -> list[str]:
    """The names without differences of case and space."""
    return [" ".join(name.split()).casefold() for name in names]


def numbered(count: int) -> tuple[str, ...]:
    """What classes are called that have no known names."""
    return tuple(f"class {i}" for i in range(1, count + 1))


def are_known(names: Sequence[str]) -> bool:
    """Whether these are names, and not those of `numbered`."""
    return tuple(names) != numbered(len(names))


def order(model: Sequence[str], data: Sequence[str], where: str, by_number: bool = False) -> list[int]:
    """For each class of a model the label that the same class has in the data.

    model, data: names by label. where: whose classes `model` are, for the message. by_number: take them as they stand.
    Classes whose names are not known are taken by number too. Raises ClassesError where the names, or their numbers
    where those count, differ; it shows the two lists side by side.
    """
    have, want = plain(data), plain(model)
    same = list(range(len(want)))
    if want == have or (len(want) == len(have) and (by_number or not are_known(model) or not are_known(data))):
        return same
    if len(want) == len(have) == len(set(have)) and set(want) == set(have):
        return [have.index(name) for name in want]
    pairs = [
        f"{i + 1} {model[i] if i < len(model) else '-'} | {data[i] if i < len(data) else '-'}"
        for i in range(max(len(model), len(data)))
        if want[i : i + 1] != have[i : i + 1]
    ]
    more = f", and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    way_on = f"; {OPTION} takes them by number" if len(want) == len(have) else ""
    raise ClassesError(
        f"{where} has {len(model)} classes, the data {len(data)}, and they differ (number, {where} | data):"
        f" {', '.join(pairs[:_SHOWN])}{more}{way_on}"
    )


def matched(split: Split, names: Sequence[str], where: str, by_number: bool = False) -> tuple[Split, list[str]]:
    """A split with its labels in the order of the classes `names`, and what is to be said of it: one line or none.

    The split itself where its order is the same. Arguments and errors as in `order`.
    """
    labels = order(names, split.class_names, where, by_number)
    if labels != list(range(len(labels))):
        return Relabelled(split, labels), [f"classes matched by name: the data has them in another order than {where}"]
    if plain(names) == plain(split.class_names):
        return split, []
    reason = "as asked" if by_number else "the names of one side are not known"
    return split, [f"classes of {where} and of the data taken by their numbers, {reason}"]


class Relabelled:
    """A `source.Split` with other label numbers. labels: the old one of each new one."""

    def __init__(self, split: Split, labels: Sequence[int]):
        self._split = split
        self._new = np.argsort(labels).astype(np.int32)  # of each old label
        self.class_names = tuple(split.class_names[i] for i in labels)
        self.category_ids = tuple(split.category_ids[i] for i in labels)
        self.image_ids = split.image_ids
        self.sizes = split.sizes
        self.box_counts = split.box_counts

    def __getattr__(self, name: str) -> Any:  # what only some splits have
        if name == "_split":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self._split, name)

    @property
    def notes(self) -> list[str]:
        """See `source.Split.notes`."""
        return self._split.notes

    def __len__(self) -> int:
        return len(self._split)

    def box_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """See `source.Split.box_labels`."""
        rows, labels = self._split.box_labels()
        return rows, self._new[labels]

    def __getitem__(self, index: int) -> Example:
        example = self._split[index]
        return dataclasses.replace(example, labels=self._new[example.labels])

    def coco(self) -> dict[str, Any]:
        """See `source.Split.coco`; category ids are the file's, and stay."""
        return self._split.coco()
