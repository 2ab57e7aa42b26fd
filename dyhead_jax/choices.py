"""Options with a few allowed values. The module that reads an option defines its values, as a subclass of `Choice`."""

from enum import StrEnum
from typing import Self


class Choice(StrEnum):
    """Members compare equal to their strings, so configs and callers use plain strings."""

    @classmethod
    def parse(cls, name: str, value: str) -> Self:
        """The member with the string `value`. Raises ValueError, with the option's `name`, if there is none."""
        if value not in list(cls):
            raise ValueError(f"{name} is {value!r}; it may be {', '.join(repr(str(member)) for member in cls)}")
        return cls(value)
