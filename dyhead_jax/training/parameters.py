"""Which parameters a model has, and what its modules declare of them.

A module may say of its own parameters and sub-modules, by name, in a class attribute, a field or a property that is a
tuple of text:

    offset_parameters      say where something samples: they learn at config.optim.offset_rate of the learning rate
    position_parameters    tables of positions: decayed only with config.optim.decay_positions
    undecayed_parameters   never decayed
    frozen_parameters      never trained; so are those for which the detector's `is_frozen(path)` is true

and a class attribute `is_norm = True` says that its parameters are a norm's, as those of Flax's norms are.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax import traverse_util

Path = tuple[str, ...]
DECLARED = ("offset_parameters", "position_parameters", "undecayed_parameters", "frozen_parameters")
NORMS = (nn.BatchNorm, nn.GroupNorm, nn.InstanceNorm, nn.LayerNorm, nn.RMSNorm, nn.SpectralNorm, nn.WeightNorm)


class ParameterError(ValueError):
    """A declaration that names no parameter; the message names the module."""


@dataclasses.dataclass(frozen=True)
class Parameters:
    """shapes: the model's variables as `jax.ShapeDtypeStruct`. The sets hold paths below "params"."""

    shapes: Any
    offsets: frozenset[Path]
    positions: frozenset[Path]
    undecayed: frozenset[Path]
    frozen: frozenset[Path]
    norms: frozenset[Path]

    def is_frozen(self, path: Path) -> bool:
        return path in self.frozen


def survey(model: Any, init: Callable[[], Any]) -> Parameters:
    """The parameters of a detector. Traces `init`, which returns its variables, and asks each module that is called.

    Raises ParameterError where a module declares a parameter that it does not have.
    """
    declared: dict[str, dict[Path, str]] = defaultdict(dict)  # by kind and path, the class that declares

    def look(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if not module.path and not isinstance(module, type(model)):
            return call(*args, **kwargs)  # a module that is tried out on its own
        for kind in DECLARED:
            for name in getattr(module, kind, ()):
                declared[kind][(*module.path, name)] = type(module).__name__
        if isinstance(module, NORMS) or getattr(module, "is_norm", False):
            declared["norms"][module.path] = type(module).__name__
        return call(*args, **kwargs)

    with nn.intercept_methods(look):
        shapes = jax.eval_shape(init)
    paths = list(traverse_util.flatten_dict(shapes["params"]))

    def below(kind: str) -> frozenset[Path]:
        for prefix, owner in declared[kind].items():
            of_module = {path for path in paths if path[: len(prefix) - 1] == prefix[:-1]}
            if of_module and not any(path[: len(prefix)] == prefix for path in of_module):
                raise ParameterError(f"{owner} declares {kind} {prefix[-1]!r}, but has none: {'/'.join(prefix)}")
        return frozenset(path for path in paths for n in range(len(path) + 1) if path[:n] in declared[kind])

    return Parameters(
        shapes=shapes,
        offsets=below("offset_parameters"),
        positions=below("position_parameters"),
        undecayed=below("undecayed_parameters"),
        frozen=below("frozen_parameters") | {path for path in paths if model.is_frozen(path)},
        norms=below("norms"),
    )
