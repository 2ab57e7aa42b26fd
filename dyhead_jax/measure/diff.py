"""Two results of --json beside each other: how many times as long the second takes as the first.

Rows are matched by name, batch, size and dtype; those in one file only are named. There are two ratios: of the medians,
and of the medians in yardsticks, which a slower or busier machine changes less. A "~" marks a ratio whose distance from
1 is within the spread (interquartile range over median) of either file. What else differs is listed first: hardware,
versions, flags, options.

  python -m dyhead_jax.benchmark op --size 32 --channels 64 --json before.json
  python -m dyhead_jax.benchmark diff before.json after.json
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyhead_jax.command import no_overrides
from dyhead_jax.files import parse_json
from dyhead_jax.measure import tables
from dyhead_jax.measure.timing import spread

SETTING = ("batch", "height", "width", "dtype")


class ResultError(ValueError):
    """A file that is no result of these benchmarks; the message names it."""


@dataclass(frozen=True)
class Row:
    """A program of a result. key: what it is matched by; repeats: seconds; yardsticks: the same over the yardstick's of
    the same round."""

    key: tuple[Any, ...]
    repeats: list[float]
    yardsticks: list[float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, metavar="A.json", help="what --json of a timing command wrote")
    parser.add_argument("second", type=Path, metavar="B.json", help="the same after a change, or elsewhere")


def run(options: argparse.Namespace) -> None:
    no_overrides(options)
    a, b = load(options.first), load(options.second)
    print(f"A {options.first}: {a['title']}\nB {options.second}: {b['title']}")
    changes = list(differences(a, b))
    print("\n".join(changes) if changes else "same hardware, versions and options")
    print("\n" + table(a, b))


def load(path: Path) -> dict[str, Any]:
    """Reads a result. Raises ResultError for a file that is none, OSError for one that is not there."""
    try:
        result = parse_json(path.read_text(encoding="utf-8"))
        for program in result["programs"]:
            if not (program["name"] and program["repeats_s"] and all(s > 0 for s in program["repeats_s"])):
                raise ResultError(f"{path}: the program {program['name']!r} has no times")
        if not result["programs"] or not isinstance(result["title"], str):
            raise ResultError(f"{path}: it has no programs or no title")
        dict(result["machine"])
    except ResultError:
        raise
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ResultError(f"{path}: not a result of `--json` ({type(error).__name__}: {error})") from error
    return result


def rows(result: dict[str, Any], by_setting: bool) -> list[Row]:
    """The programs without yardsticks and ceilings. Of several with one name and setting each has a number, too."""
    found: list[Row] = []
    unit: list[float] = []
    for i, program in enumerate(result["programs"]):
        # older files have no roles: the yardstick, two ceilings, and the others
        role = program.get("role", "yardstick" if i == 0 else "ceiling" if i < 3 else "program")
        if role == "yardstick":
            unit = program["repeats_s"]
        if role != "program":
            continue
        key = (program["name"], *(program.get(name) for name in SETTING if by_setting))
        number = sum(row.key[: len(key)] == key for row in found)
        repeats = program["repeats_s"]
        found.append(Row((*key, number), repeats, [s / u for s, u in zip(repeats, unit, strict=True)]))
    return found


def differences(a: dict[str, Any], b: dict[str, Any]) -> Iterator[str]:
    """A line for each thing but the date in which the circumstances of two results differ."""
    for part in ("machine", "environment", "options"):
        if (part in a) != (part in b):
            yield f"{part}: only {'A' if part in a else 'B'} has it"
            continue
        left, right = dict(_leaves(a.get(part, {}))), dict(_leaves(b.get(part, {})))
        for name in dict.fromkeys((*left, *right)):
            if name != "date" and left.get(name) != right.get(name):
                yield f"{name}: A {left.get(name, 'not set')}, B {right.get(name, 'not set')}"
    failed = [(name, entry) for name, result in (("A", a), ("B", b)) for entry in result.get("failed", ())]
    for name, entry in failed:
        yield f"{entry['name']} did not fit in {name}: {entry['reason']}"


def table(a: dict[str, Any], b: dict[str, Any]) -> str:
    """A row for each program that is in both, and a line for each of the others."""
    by_setting = all("role" in result["programs"][0] for result in (a, b))
    left, right = ({row.key: row for row in rows(result, by_setting)} for result in (a, b))
    both = [key for key in left if key in right]
    columns = [i for i in range(1, 1 + len(SETTING) * by_setting) if len({key[i] for key in both}) > 1]
    lines: list[Sequence[str]] = [
        ("program", *(SETTING[i - 1] for i in columns), "A, ms", "B, ms", "B / A", "spread", "in yardsticks", "spread")
    ]
    for key in both:
        first, second = left[key], right[key]
        times = (f"{statistics.median(row.repeats) * 1e3:.2f}" for row in (first, second))
        ratios = (*compared(first.repeats, second.repeats), *compared(first.yardsticks, second.yardsticks))
        lines.append((key[0] + f" ({key[-1] + 1})" * (key[-1] > 0), *(str(key[i]) for i in columns), *times, *ratios))
    text = [tables.aligned(lines)] if both else ["no program is in both"]
    for name, one, other in (("A", left, right), ("B", right, left)):
        text += [f"only in {name}: {', '.join(map(str, key[:-1]))}" for key in one if key not in other]
    return "\n".join(text)


def compared(first: Sequence[float], second: Sequence[float]) -> tuple[str, str]:
    """The ratio of the medians, marked if it is within the spread, and the larger spread of the two."""
    value = statistics.median(second) / statistics.median(first)
    within = max(spread(first), spread(second))
    return f"{value:.3f}" + (" ~" if abs(value - 1) <= within else "  "), f"{within:.1%}"


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
