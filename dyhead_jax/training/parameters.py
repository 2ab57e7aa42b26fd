"""The parameters of a model, and what its modules declare about them.

A module may list its own parameters and sub-modules by name, in these class attributes, fields or properties (tuples of
strings):

    offset_parameters      predict sampling positions: their learning rate is multiplied by config.optim.offset_rate
    position_parameters    position tables: decayed only with config.optim.decay_positions
    undecayed_parameters   never decayed
    frozen_parameters      never trained; neither are those for which the detector's `is_frozen(path)` is true

    class_parameters       a dict: parameters with a part for each class along their last axis, and how it is laid out:
                           "classes" (the classes of the first anchor, then those of the next), "classes, background",
                           or "classes x boxes" (four deltas a class). `initial` keeps the part of a class by its name

    level_parameters       their shape depends on the number of levels, so that weights fit a pyramid of as many only;
                           for `python -m dyhead_jax.contract`

A class attribute `is_norm = True` marks all parameters of the module as those of a norm, like those of Flax's norms.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax import traverse_util

Path = tuple[str, ...]
DECLARED = (
    "offset_parameters", "position_parameters", "undecayed_parameters", "frozen_parameters", "class_parameters",
)  # fmt: skip
NORMS = (nn.BatchNorm, nn.GroupNorm, nn.InstanceNorm, nn.LayerNorm, nn.RMSNorm, nn.SpectralNorm, nn.WeightNorm)


class ParameterError(ValueError):
    """A module declares a parameter that it does not have; the message names the module."""


@dataclasses.dataclass(frozen=True)
class Parameters:
    """shapes: the model's variables as `jax.ShapeDtypeStruct`. The sets hold paths within "params"; classes: the layout
    of each of the `class_parameters`."""

    shapes: Any
    offsets: frozenset[Path]
    positions: frozenset[Path]
    undecayed: frozenset[Path]
    frozen: frozenset[Path]
    norms: frozenset[Path]
    classes: dict[Path, str]

    def is_frozen(self, path: Path) -> bool:
        return path in self.frozen


def trace_parameters(model: Any, init: Callable[[], Any]) -> Parameters:
    """The parameters of a detector. Traces `init`, which returns its variables, and reads the declarations of each
    module that is called.

    Raises ParameterError if a module declares a parameter that it does not have.
    """
    declared: dict[str, dict[Path, str]] = defaultdict(dict)  # kind -> path -> name of the declaring class
    layouts: dict[Path, str] = {}

    def collect(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if not module.path and not isinstance(module, type(model)):
            return call(*args, **kwargs)  # called on its own, outside the model
        for kind in DECLARED:
            for name in getattr(module, kind, ()):
                declared[kind][(*module.path, name)] = type(module).__name__
        layouts.update({(*module.path, k): layout for k, layout in getattr(module, "class_parameters", {}).items()})
        if isinstance(module, NORMS) or getattr(module, "is_norm", False):
            declared["norms"][module.path] = type(module).__name__
        return call(*args, **kwargs)

    with nn.intercept_methods(collect):
        shapes = jax.eval_shape(init)
    paths = list(traverse_util.flatten_dict(shapes["params"]))

    def below(kind: str) -> frozenset[Path]:
        for prefix, owner in declared[kind].items():
            of_module = {path for path in paths if path[: len(prefix) - 1] == prefix[:-1]}
            if of_module and not any(path[: len(prefix)] == prefix for path in of_module):
                raise ParameterError(f"{owner} declares {kind} {prefix[-1]!r}, but has no {'/'.join(prefix)}")
        return frozenset(path for path in paths for n in range(len(path) + 1) if path[:n] in declared[kind])

    classes = {path: layout for path in paths for prefix, layout in layouts.items() if path[: len(prefix)] == prefix}
    is_frozen = getattr(model, "is_frozen", lambda path: False)
    return Parameters(
        shapes=shapes,
        offsets=below("offset_parameters"),
        positions=below("position_parameters"),
        undecayed=below("undecayed_parameters"),
        frozen=below("frozen_parameters") | {path for path in paths if is_frozen(path)},
        norms=below("norms"),
        classes=classes,
    )
