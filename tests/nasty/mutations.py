"""Small changes to valid files that make them nasty: of JSON trees, of text and of bytes. All are drawn from a seed.

A mutation returns what it did, in words, for the report of a case.
"""

import copy
import json
import math
import random
import re
from collections.abc import Iterator
from typing import Any

LONG = "@long@"  # in a tree; in its text a whole number of 5,000 digits
TWICE = "@twice@"  # at the end of a key; in the text the same key again

NUMBERS = (0, -1, 1, 2, 0.5, -0.0, 1e-300, 1e9, 1e308, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 10**400, math.nan, math.inf)
TEXTS = (
    "",
    " ",
    "0",
    "1.5",
    "nan",
    "1_0",
    "\ud800",
    "a\0b",
    "a\nb",
    "../x",
    "/etc/passwd",
    "a" * 300,
    "ß",
    LONG,
    "none",
)
OTHERS = (None, True, False, [], {}, [[]], {"a": 1}, [None] * 4, [1, 2, 3], [1, 2, 3, 4, 5], [0.1, 0.2, 0.3, 0.4])


def odd_value(rng: random.Random) -> Any:
    """A value that a reader may not expect."""
    if rng.random() < 0.03:
        deep: Any = 1
        for _ in range(rng.choice((60, 3000))):
            deep = [deep]
        return deep
    value = rng.choice(rng.choice((NUMBERS, TEXTS, OTHERS)))
    return -value if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.3 else value


def tree(content: Any, rng: random.Random) -> tuple[Any, str]:
    """A changed copy of a JSON tree: a value dropped, doubled, replaced, exchanged, nested otherwise or renamed."""
    content = copy.deepcopy(content)
    places = list(_places(content))
    if not places:
        return odd_value(rng), "replaced all"
    parent, key = _drawn(places, rng)
    where = _shown(key)
    kind = rng.choice(("drop", "odd", "odd", "odd", "wrap", "rename", "double", "exchange", "near"))
    if kind == "drop":
        del parent[key]
    elif kind == "odd":
        parent[key] = odd_value(rng)
        return content, f"{where} became {_shown(parent[key])}"
    elif kind == "wrap":
        parent[key] = rng.choice(
            ([parent[key]], {"value": parent[key]}, [parent[key], parent[key]], str(parent[key])[:99])
        )
    elif kind == "rename" and isinstance(parent, dict):
        name = rng.choice((f"{key} ", str(key).upper(), str(key)[:-1], f"{key}{TWICE}", odd_text(rng)))
        parent[name] = copy.deepcopy(parent[key]) if name.endswith(TWICE) else parent.pop(key)
        where += f" to {_shown(name)}"
    elif kind == "double" and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(parent[key]))
    elif kind == "exchange":
        other_parent, other = rng.choice(places)
        if _holds(parent[key], other_parent) or _holds(other_parent[other], parent):
            parent[key] = odd_value(rng)
        else:
            parent[key], other_parent[other] = other_parent[other], parent[key]
    else:
        parent[key] = _near(parent[key], rng)
        kind = "near"
    return content, f"{kind} {where}"


def odd_text(rng: random.Random) -> str:
    return rng.choice(TEXTS)


def to_text(content: Any) -> bytes:
    """A tree of `tree` as JSON."""
    text = _dumped(content)
    text = text.replace(json.dumps(LONG), "1" * 5000)
    return text.replace(TWICE, "").encode("utf-8", "surrogatepass")


def data(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Changed bytes: cut, flipped, inserted, removed or repeated, more often near the beginning."""
    if not content:
        return rng.randbytes(9), "random bytes"
    place = int(len(content) * rng.random() ** rng.choice((1, 3)))
    length = min(rng.choice((1, 2, 4, 16, 200)), len(content) - place)
    kind = rng.choice(("cut", "flip", "flip", "flip", "set", "insert", "remove", "repeat", "zeros", "more"))
    if kind == "cut":
        return content[:place], f"cut at byte {place} of {len(content)}"
    if kind in ("flip", "set"):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            changed[place] = (
                changed[place] ^ 1 << rng.randrange(8) if kind == "flip" else rng.choice((0, 255, 127, 128))
            )
            place = min(len(content) - 1, place + rng.randrange(20))
        return bytes(changed), f"{kind} near byte {place}"
    piece = {
        "insert": rng.randbytes(length) + content[place : place + length],
        "remove": b"",
        "repeat": content[place : place + length] * rng.choice((2, 50)),
        "zeros": bytes(length),
        "more": content[place : place + length],
    }[kind]
    end = rng.randbytes(rng.choice((1, 999))) if kind == "more" else b""
    return content[:place] + piece + content[place + length :] + end, f"{kind} {length} bytes at {place}"


def text(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A changed text: another encoding, other line ends, words and lines dropped, doubled, exchanged or odd."""
    kind = rng.choice(("encoding", "words", "words", "words", "lines", "ends", "bytes"))
    decoded = content.decode("utf-8", "replace")
    if kind == "encoding":
        name = rng.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32", "cp1252"))
        return decoded.encode(name, "replace"), f"as {name}"
    if kind == "ends":
        end = rng.choice(("\r\n", "\r", "\n\n", " \n", "\x0b", "\u2028", "\0"))
        return decoded.replace("\n", end).encode(), f"line ends {end!r}"
    if kind == "lines":
        lines = decoded.split("\n")
        row = rng.randrange(len(lines))
        lines[row : row + 1] = rng.choice(
            ([], [lines[row]] * 2, [lines[row], odd_text(rng)], [f"# {lines[row]}"], ["\t"])
        )
        return "\n".join(lines).encode("utf-8", "surrogatepass"), f"line {row}"
    if kind == "words":
        words = list(re.finditer(r"[^\s<>\[\]{},:\"']+", decoded))
        if words:
            word = rng.choice(words)
            new = rng.choice((_number_text(rng), odd_text(rng), word[0] * 2, f"-{word[0]}", "", rng.choice(words)[0]))
            changed = decoded[: word.start()] + new + decoded[word.end() :]
            return changed.encode("utf-8", "surrogatepass"), f"{word[0][:20]!r} became {_shown(new)}"
    return data(content, rng)


def _number_text(rng: random.Random) -> str:
    return (
        str(rng.choice(NUMBERS[:-3])) if rng.random() < 0.8 else rng.choice(("nan", "inf", "1e999", "1" * 400, "0x1"))
    )


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """(list or dict, index or key) of every value of a tree."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        yield content, key
        yield from _places(value)


def _drawn(places: list[tuple[Any, Any]], rng: random.Random) -> tuple[Any, Any]:
    """One of them, each key as often as another, however many records have it."""
    by_key: dict[Any, list[tuple[Any, Any]]] = {}
    for parent, key in places:
        by_key.setdefault(key if isinstance(key, str) else "[]", []).append((parent, key))
    return rng.choice(by_key[rng.choice(list(by_key))])


def _near(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return rng.choice((value + 1, -value, value * 1000, value / 3, str(value), float(value), value + 1e-9))
    if isinstance(value, str):
        return rng.choice((value.upper(), f" {value}", value + "\n", value[:-1], [value], 0, value + "\u0301"))
    return rng.choice((list(value), value[:-1] if isinstance(value, list) else [value], None))


def _holds(content: Any, part: Any) -> bool:
    return content is part or any(_holds(parent[key], part) for parent, key in _places(content) if parent[key] is part)


def _dumped(content: Any) -> str:
    """As `json.dumps`, however deep."""
    depth = 0
    while isinstance(content, list) and len(content) == 1:
        content, depth = content[0], depth + 1
    if isinstance(content, dict):
        inside = ", ".join(f"{json.dumps(str(key))}: {_dumped(value)}" for key, value in content.items())
        text = f"{{{inside}}}"
    elif isinstance(content, list):
        text = f"[{', '.join(map(_dumped, content))}]"
    else:
        text = json.dumps(content)
    return "[" * depth + text + "]" * depth


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) > 10**30:
        return "a long number"
    return repr(value)[:40] if not isinstance(value, list) or not value or not isinstance(value[0], list) else "nested"
