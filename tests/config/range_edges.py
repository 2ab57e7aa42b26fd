"""Values at the edges of the ranges of `config.ranges`: just inside and just outside."""

import math
from typing import Any

from dyhead_jax.config.ranges import Each, OneOf, Range, Rule

Edges = tuple[list[Any], list[Any]]


def edges(rule: Rule, whole: bool) -> Edges:
    """Values just inside and just outside. whole: only whole numbers fit the field."""
    if isinstance(rule, Range):
        return _of_range(rule, whole)
    if isinstance(rule, OneOf):
        return _of_choice(rule)
    assert isinstance(rule, Each)
    return _of_row(rule, whole)


def _of_range(rule: Range, whole: bool) -> Edges:
    inside, outside = [], [] if whole else [math.nan, math.inf, -math.inf]
    for end, without, outward in ((rule.low, rule.above, -math.inf), (rule.high, rule.below, math.inf)):
        if math.isinf(end):
            continue
        nearest = int(end) if whole else float(end)
        (outside if without else inside).append(nearest)
        if whole:
            direction = 1 if outward > 0 else -1
            (inside if without else outside).append(nearest + (-direction if without else direction))
        else:
            (inside if without else outside).append(math.nextafter(end, -outward if without else outward))
    return inside, outside


def _of_choice(rule: OneOf) -> Edges:
    return list(rule.values), [n for n in range(min(rule.values) - 1, max(rule.values) + 2) if n not in rule.values]


def _of_row(rule: Each, whole: bool) -> Edges:
    inside, outside = edges(rule.rule, whole)
    counts = (max(rule.least, 1),) if rule.counts is None else rule.counts
    good = next(iter(inside), 0 if whole else 0.0)
    rows = [(value,) * count for value in inside for count in counts if count]
    bad = [(good,) * (count - 1) + (value,) for value in outside for count in counts if count]
    wrong = [rule.least - 1] if rule.counts is None else {n + d for n in counts for d in (-1, 1)} - set(counts)
    return rows, bad + [(good,) * count for count in wrong if count >= 0]
