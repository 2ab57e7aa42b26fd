"""What is declared, and the shapes and dtypes that come back. All of it is traced, nothing is computed."""

import difflib
import inspect
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.config import import_path
from dyhead_jax.contract.subject import ATTENTIONS, Broken, Path, Subject, by_path, called
from dyhead_jax.dyhead.building import misspelt
from dyhead_jax.dyhead.head import HANDED_DOWN
from dyhead_jax.training import steps

KEYWORDS = ("valid", "train")
MAX_LEVELS = 5
BFLOAT16 = 0.1  # largest mean difference that two blocks may have, relative to the mean of the values


def fields(subject: Subject) -> str:
    """No field, and no keyword of the call, is nearly one that is handed down: it would silently keep its default."""
    found = []
    for kind, target in _targets(subject):
        handed = (*ATTENTIONS, *HANDED_DOWN) if kind == "block" else HANDED_DOWN
        for field, meant in misspelt(target, handed).items():
            raise Broken(f"{kind}: nothing is handed down to a field {field!r}; is it {meant!r}?")
        parameters = list(inspect.signature(called(target).__call__).parameters.values())[2:]
        for parameter in parameters:
            near = difflib.get_close_matches(parameter.name, KEYWORDS, n=1, cutoff=0.7)
            if parameter.name in KEYWORDS or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            if near or parameter.default is parameter.empty:
                hint = f"; is it {near[0]!r}?" if near else ""
                raise Broken(
                    f"{kind}: its call is given {' and '.join(KEYWORDS)} where it declares them, never"
                    f" {parameter.name!r}{hint}"
                )
        takes = [name for name in handed if name in import_path.parameters(target)]
        takes += [f"{p.name} in its call" for p in parameters if p.name in KEYWORDS]
        found.append(f"{kind} takes {', '.join(takes) or 'nothing'}")
    return "; ".join(found)


def shapes(subject: Subject) -> str:
    """Maps of the right size and dtype come back for any number of levels, of odd sizes too."""
    finest = [(13, 11), (8, 16)]
    for levels in range(1, MAX_LEVELS + 1):
        subject.traced(levels)
    subject.traced(3, finest[1])
    return f"1 to {MAX_LEVELS} levels, the finest of {finest[0]} cells, and 3 of {finest[1]}"


def levels(subject: Subject) -> str:
    """Parameters are shared by all levels, but for those that `level_parameters` names."""
    by_count = {count: _parameters(subject, count) for count in range(1, MAX_LEVELS + 1)}
    last = by_count[MAX_LEVELS]
    differing = {
        path: [found.get(path) for found in by_count.values()]
        for path in {path for found in by_count.values() for path in found}
        if any(found.get(path) != last.get(path) for count, found in by_count.items() if count > 1)
        or by_count[1].get(path, last.get(path)) != last.get(path)
    }
    declared = set()
    for kind, target in _targets(subject):
        for name in getattr(called(target), "level_parameters", ()):
            prefix = ("block_0", *(() if kind == "block" else (kind,)), *name.split("/"))
            declared.add(prefix)
            if not any(path[: len(prefix)] == prefix for path in differing):
                raise Broken(f"{kind} declares level_parameters {name!r}, which do not depend on the number of levels")
    for path, found in sorted(differing.items()):
        if subject.own(path) and not any(path[: len(prefix)] == prefix for prefix in declared):
            seen = ", ".join(map(str, found))
            raise Broken(
                f"{'/'.join(path[1:])} depends on the number of levels (1 to {MAX_LEVELS}: {seen}): share it over the"
                " levels, or name it in `level_parameters`"
            )
    count = len([path for path in last if subject.own(path) and path not in differing])
    own = sorted({"/".join(prefix[1:]) for prefix in declared})
    return f"{count} arrays are shared by all levels" + (f"; by number of levels, as declared: {own}" if own else "")


def bfloat16(subject: Subject) -> str:
    """In a bfloat16 model parameters stay float32, maps are bfloat16, and the values close to those of float32."""
    head = subject.head(dtype=jnp.dtype("bfloat16"))
    for path, leaf in by_path(subject.initial["params"]).items():
        if leaf.dtype != jnp.float32:
            raise Broken(f"parameters are float32, but {'/'.join(path)} is {leaf.dtype}")
    pyramid = subject.pyramid()
    found = steps.jit_once(head.apply)(subject.initial, [x.astype(jnp.bfloat16) for x in pyramid])
    wanted, _ = subject.run(subject.initial, pyramid)
    pairs = zip(_leaves(found), _leaves(wanted), strict=True)
    worst = max(float(np.mean(np.abs(a - b)) / max(float(np.mean(np.abs(b))), 1e-6)) for a, b in pairs)
    if not worst <= BFLOAT16:
        raise Broken(
            f"two blocks in bfloat16 are {worst:.0%} from float32 in the mean; at most {BFLOAT16:.0%} is rounding"
        )
    return f"parameters float32, maps bfloat16, {worst:.1%} from float32 in the mean"


def _targets(subject: Subject) -> Iterator[tuple[str, Any]]:
    """What is tested and not switched off."""
    for kind in subject.tested:
        if (target := subject.target(kind)) is not None:
            yield kind, target


def _parameters(subject: Subject, count: int) -> dict[Path, tuple[int, ...]]:
    _, variables = subject.traced(count)
    return {path: leaf.shape for path, leaf in by_path(variables.get("params", {})).items()}


def _leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(tree)]
