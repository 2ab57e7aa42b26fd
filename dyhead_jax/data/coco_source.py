"""What all sources with COCO annotations share: two splits, opened when asked for, with the same categories."""

from abc import ABC, abstractmethod

from dyhead_jax.data.coco_split import CocoSplit
from dyhead_jax.data.source import DataError

SPLITS = ("train", "val")


class CocoSource(ABC):
    """A `source.Source` of COCO annotations; a subclass says how to open a split."""

    def __init__(self) -> None:
        self._splits: dict[str, CocoSplit] = {}

    def split(self, name: str) -> CocoSplit:
        """The split "train" or "val", opened once.

        Raises DataError for another name, for data that cannot be used, and when the two splits have different
        categories; it names the files.
        """
        if name not in SPLITS:
            raise DataError(f"there is no split {name!r}; there are {', '.join(SPLITS)}")
        if name not in self._splits:
            self._splits[name] = self._open(name)
        first, *others = self._splits.values()
        for other in others:
            if (first.category_ids, first.class_names) != (other.category_ids, other.class_names):
                raise DataError(f"{first.index.path} and {other.index.path} have different categories")
        return self._splits[name]

    @abstractmethod
    def _open(self, name: str) -> CocoSplit:
        """Opens a split. name: one of SPLITS. Raises DataError."""
