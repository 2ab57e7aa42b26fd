"""The words that options of a training may have. A module's own choices are the types of its fields; `validate` knows
both."""

from enum import StrEnum


class Dtype(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Optimizer(StrEnum):
    SGD = "sgd"
    ADAMW = "adamw"


class Schedule(StrEnum):
    STEP = "step"
    COSINE = "cosine"
    CONSTANT = "constant"


class ParallelKind(StrEnum):
    PMAP = "pmap"
    JIT = "jit"
    SINGLE = "single"


class Merge(StrEnum):
    NMS = "nms"
    VOTE = "vote"


def check(name: str, value: object, choices: type[StrEnum], error: type[ValueError] = ValueError) -> None:
    """Raises `error`, naming the field and what it may be, unless `value` is one of `choices`."""
    if value not in list(choices):
        raise error(f"{name} is {value!r}; it may be {', '.join(repr(str(choice)) for choice in choices)}")
