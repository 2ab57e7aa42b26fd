"""Options that are one of a few words. The module that reads an option owns its words, as a subclass of `Choice`."""

from enum import StrEnum
from typing import Self


class Choice(StrEnum):
    """Members compare equal to their words, so configs and callers give plain strings."""

    @classmethod
    def parse(cls, name: str, value: str) -> Self:
        """The member whose word is `value`. Raises ValueError, with `name` of the option, for another word."""
        if value not in list(cls):
            raise ValueError(f"{name} is {value!r}; it may be {', '.join(repr(str(member)) for member in cls)}")
        return cls(value)
