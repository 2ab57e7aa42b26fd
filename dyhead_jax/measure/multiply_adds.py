"""Multiply-adds of a traced program, counted part by part without running or compiling it."""

import math
import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Var


def multiply_adds(program: ClosedJaxpr, parts: Container[str]) -> Counter[str]:
    """Multiply-adds of the program's matrix products and convolutions by part. An operation's part is the first of the
    names `parts` in its scope, or "other".

    The body of a loop counts as often as it runs, or once where its length is unknown. Products with a factor that does
    not depend on the program's inputs are not counted.
    """
    counts: Counter[str] = Counter()

    def walk(jaxpr: Jaxpr, inputs: Sequence[bool], times: int, part: str | None) -> None:
        live = {var for var, depends in zip(jaxpr.invars, inputs, strict=True) if depends}
        for eqn in jaxpr.eqns:
            depends = [isinstance(var, Var) and var in live for var in eqn.invars]
            if not any(depends):
                continue
            live.update(eqn.outvars)
            kind = eqn.primitive.name
            scope = re.findall(r"\w+", str(eqn.source_info.name_stack))
            operation_part = part or next((name for name in scope if name in parts), None)
            if kind in ("dot_general", "conv_general_dilated"):
                counts[operation_part or "other"] += times * _products(eqn) if all(depends) else 0
                continue
            if kind == "scan":  # what is carried may come to depend on the inputs, what all rounds share does not
                body = eqn.params["jaxpr"].jaxpr
                stacked = sum(map(_shapes_differ, eqn.invars, body.invars))
                carried = len(eqn.outvars) - sum(map(_shapes_differ, eqn.outvars, body.outvars))
                first = len(eqn.invars) - stacked - carried
                depends[first : first + carried] = [True] * carried
            for inner in inner_jaxprs(eqn):
                count = len(inner.invars)
                known = kind != "while" and count <= len(depends)
                rounds = eqn.params["length"] if kind == "scan" else 1
                inputs_depend = depends[len(depends) - count :] if known else [True] * count
                walk(inner, inputs_depend, times * rounds, operation_part)

    walk(program.jaxpr, [True] * len(program.jaxpr.invars), 1, None)
    return +counts


def _shapes_differ(outside: Any, inside: Any) -> bool:
    """Whether a value of a scan is stacked over its rounds. The operation's own record of this varies with JAX."""
    return outside.aval.shape != inside.aval.shape


def _products(eqn: Any) -> int:
    """Multiply-adds of a matrix product or a convolution."""
    outputs = eqn.outvars[0].aval.size
    left, right = (var.aval.shape for var in eqn.invars)
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return outputs * math.prod(left[axis] for axis in contracted)
    return outputs * math.prod(right) // right[eqn.params["dimension_numbers"].rhs_spec[0]]


def inner_jaxprs(eqn: Any) -> Iterator[Jaxpr]:
    """The programs that an operation of a traced program runs: the body of a loop, a called function."""
    for value in eqn.params.values():
        for inner in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(inner, ClosedJaxpr):
                yield inner.jaxpr
            elif isinstance(inner, Jaxpr):
                yield inner
