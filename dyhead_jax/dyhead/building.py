"""What a block is built with: its attentions, what is handed down to them, and checks of what they return.

A block of another structure needs nothing else. One without task attention, whose fields reach its attentions:

    class TwoSteps(nn.Module):
        features: int = 256
        spatial: ModuleChoice = SpatialAttention
        scale: ModuleChoice = ScaleAttention
        task: ModuleChoice = None
        dtype: jnp.dtype = jnp.float32

        @nn.compact
        def __call__(self, pyramid, valid=None, train=False):
            spatial, scale, _ = attentions(self, pyramid, valid=valid, train=train)
            candidates = spatial(pyramid)
            return [scale(candidates, level) for level in range(len(pyramid))]
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
from flax import errors
from flax import linen as nn

from dyhead_jax.command import one_line
from dyhead_jax.config import import_path
from dyhead_jax.dyhead.branches import Branches, Level
from dyhead_jax.dyhead.spatial import PlainNeighbours

Pyramid = list[jax.Array]
Candidates = Sequence[Sequence[jax.Array]]  # for each level its maps (b, h_l, w_l, features)
ModuleChoice = Callable[..., Any] | str | None  # a module class, a partial or import path of one; None or "none": off
ATTENTIONS = ("spatial", "scale", "task")
CLOSE = 0.85  # similarity of names (difflib) from which a field counts as misspelt: feature, dtypes, d_type


def attentions(
    block: nn.Module, pyramid: Pyramid, *, valid: list[jax.Array] | None = None, train: bool = False
) -> tuple[
    Callable[[Pyramid], Candidates],
    Callable[[Candidates, int], jax.Array],
    Callable[[jax.Array, int], Level],
]:
    """The attentions of a block, as functions: spatial(pyramid), scale(candidates, level) and task(x, level).

    Call it once in the block's `__call__`. block: a module with the fields `spatial`, `scale`, `task`, `features` and
    `dtype`; its other fields are handed down too. pyramid: the maps (b, h_l, w_l, c) whose sizes the results must have;
    valid: (b, h_l, w_l) bool of each level, and train: for the attentions that declare them.
    The functions raise ValueError, which names the attention and the level, where a result is not what they say here:
    spatial a list for each level of a list of maps, scale one map, task one map or `Branches`; a map is
    (b, h_l, w_l, features) in `dtype`.
    """
    modules = {kind: make_attention(block, kind) for kind in ATTENTIONS}
    features, dtype = block.features, block.dtype  # type: ignore[attr-defined]

    def call(kind: str, level: int, x: Any) -> Any:
        return hand_down(modules[kind], valid=None if valid is None else valid[level], train=train)(x)

    def check(kind: str, level: int, maps: Sequence[Any]) -> None:
        who = f"{kind} attention {name_of(modules[kind])}, level {level}"
        check_maps(who, maps, pyramid[level].shape[:3], features, dtype)

    def spatial(maps: Pyramid) -> Candidates:
        candidates = hand_down(modules["spatial"], valid=valid, train=train)(maps)
        check_candidates(f"spatial attention {name_of(modules['spatial'])}", candidates, len(pyramid))
        for level, found in enumerate(candidates):
            check("spatial", level, found)
        return candidates

    def scale(candidates: Candidates, level: int) -> jax.Array:
        try:
            y = call("scale", level, candidates[level])
        except (errors.FlaxError, IndexError, TypeError, ValueError) as error:
            counts = [len(maps) for maps in candidates]
            raise ValueError(
                f"scale attention {name_of(modules['scale'])} fails at level {level}, which has {counts[level]}"
                f" candidates (the levels have {', '.join(map(str, counts))}): {one_line(error)}"
            ) from error
        check("scale", level, [y])
        return y

    def task(x: jax.Array, level: int) -> Level:
        y = call("task", level, x)
        check("task", level, y if isinstance(y, Branches) else [y])
        return y

    return spatial, scale, task


def mean_of_candidates(candidates: list[jax.Array]) -> jax.Array:
    """The mean, used when scale attention is switched off."""
    return sum(candidates[1:], candidates[0]) / len(candidates)


OFF: dict[str, Callable[..., Any]] = {"spatial": PlainNeighbours, "scale": mean_of_candidates, "task": nn.relu}
"""What takes the place of an attention that is switched off."""


def make_attention(block: nn.Module, kind: str) -> Callable[..., Any]:
    """The attention of a block, named `kind`, by the choice in the block's field of that name; to be called in the
    block's `__call__`. Every other field of the block is handed down."""
    choice = getattr(block, kind)
    if choice is None or choice == "none":
        choice = OFF[kind]
        if not isinstance(choice, type):
            return choice
    fields = (name for name in import_path.parameters(type(block)) if name not in ATTENTIONS)
    return make(choice, kind, **{name: getattr(block, name) for name in fields})


def make(choice: ModuleChoice, name: str | None, **context: Any) -> Any:
    """The module that `choice` names, called with those values of `context` that it declares as fields.

    A fork's attention thus declares only the fields that it needs (`features`, `dtype`, ...). `choice` carries its own
    options, as a partial. Raises ValueError for a field that is nearly the name of a value of `context`, and would
    silently keep its default.
    """
    target: Any = import_path.load(choice) if isinstance(choice, str) else choice
    for field, meant in misspelt(target, context).items():
        raise ValueError(
            f"{import_path.name_of(target)} has a field {field!r}, which nothing is handed down to; is it {meant!r}?"
            f" (if it is an option of its own, give it another name, or declare {meant!r} too)"
        )
    return import_path.call(partial(target, name=name), context)


def misspelt(target: Any, handed_down: Iterable[str]) -> dict[str, str]:
    """The fields of a class, or of a partial that does not set them, that are nearly one of the names that are handed
    down: field -> name. Names that the class also declares are none that it could have meant."""
    takes = import_path.parameters(target)
    set_here = target.keywords if isinstance(target, partial) else {}
    names = tuple(handed_down)
    open_names = [name for name in names if name not in takes]
    own = [field for field in takes if field not in names and field not in set_here]
    close = {field: difflib.get_close_matches(field, open_names, n=1, cutoff=CLOSE) for field in own}
    return {field: matches[0] for field, matches in close.items() if matches}


def declared(module: Callable[..., Any], **offered: Any) -> dict[str, Any]:
    """Those of the `offered` values that the module's call declares as parameters; None is no value."""
    takes = inspect.signature(module).parameters
    return {name: value for name, value in offered.items() if value is not None and name in takes}


def hand_down(module: Callable[..., Any], **offered: Any) -> Callable[..., Any]:
    """`module` with those of the `offered` keywords bound that its call declares: `valid` (see `valid_area`) and
    `train`. Without them it is called as it is."""
    taken = declared(module, **offered)
    return partial(module, **taken) if taken else module


def check_candidates(who: str, candidates: Any, levels: int) -> None:
    """Raises ValueError unless `candidates` is a list for each level of a list of maps, of at least one."""
    wanted = "a list for each level of a list of maps (b, h, w, features)"
    if not isinstance(candidates, list | tuple) or not all(isinstance(maps, list | tuple) for maps in candidates):
        raise ValueError(f"{who}: returns {describe(candidates)}, not {wanted}")
    if len(candidates) != levels:
        raise ValueError(f"{who} returns {len(candidates)} lists of candidates for {levels} levels")
    for level, maps in enumerate(candidates):
        if not maps:
            raise ValueError(f"{who}, level {level}: returns no candidate")


def check_levels(who: str, pyramid: Pyramid, levels: Any, features: int, dtype: Any) -> None:
    """Raises ValueError unless `levels`, what a block makes of `pyramid`, is a list with a map or `Branches` of its
    size for each level."""
    if not isinstance(levels, list | tuple) or len(levels) != len(pyramid):
        raise ValueError(f"{who}: returns {describe(levels)}, not a list of {len(pyramid)} levels")
    for level, (x, y) in enumerate(zip(pyramid, levels, strict=True)):
        check_maps(f"{who}, level {level}", y if isinstance(y, Branches) else [y], x.shape[:3], features, dtype)


def check_maps(who: str, maps: Sequence[Any], size: tuple[int, ...], features: int, dtype: Any) -> None:
    """Raises ValueError unless each of `maps` is (*size, features) in `dtype`; size: (b, h, w)."""
    wanted = jax.ShapeDtypeStruct((*size, features), dtype)
    for found in maps:
        if (getattr(found, "shape", None), getattr(found, "dtype", None)) != (wanted.shape, wanted.dtype):
            raise ValueError(f"{who}: returns {describe(found)}, not {describe(wanted)} (b, h, w, features)")


def describe(value: Any) -> str:
    """dtype and shape of an array, and what a list holds, for messages."""
    if isinstance(value, list | tuple):
        held = [describe(item) for item in value[:3]] + ["..."] * (len(value) > 3)
        return f"a list of {len(value)} ({', '.join(held)})"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return f"a {type(value).__name__}"


def name_of(module: Any) -> str:
    """The class of a module, or the name of a function, for messages."""
    return type(module).__name__ if isinstance(module, nn.Module) else import_path.name_of(module)
