"""Reads the checkpoint of one step, `<workdir>/checkpoints/<step>/`, and compares it with its digests.

Nothing here waits for other processes: each reads for itself, and one alone may check.
"""

import json
import logging
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from dyhead_jax.command import debugging, one_line
from dyhead_jax.training import digests

UNREADABLE = "[]*?\\"  # Orbax and TensorStore take these for patterns and write what they cannot find again


class CheckpointError(ValueError):
    """A checkpoint is missing, broken or of another model; the message names its folder."""


class DamagedError(CheckpointError):
    """What is read is not what was written."""


def check_name(folder: Path) -> None:
    """Raises CheckpointError for a path that Orbax would write to, but not read from."""
    for character in UNREADABLE:
        if character in str(folder):
            raise CheckpointError(
                f"{folder}: checkpoints in a folder with {character} in its path cannot be read again; choose a path"
                f" without any of {' '.join(UNREADABLE)}"
            )


def steps_in(folder: Path) -> list[int]:
    """Steps of the complete checkpoints in a folder, in order; a save goes to a folder of another name until then."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def verify(where: Path) -> None:
    """Reads a checkpoint whole, one item after the other. Raises DamagedError if it is not what was written."""
    meta(where)
    written = _written(where)
    for item in sorted({"variables", "optimizer", *written} - {"meta", "position"}):
        arrays(where, item)
    for path in sorted((where / "data").glob("process_*.json")):
        try:
            position = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DamagedError(f"{path} is not JSON: {one_line(error)}") from error
        changed = path.name.startswith("process_0-") and written.get("position") != digests.of_json(position)
        step = position.get("step") if isinstance(position, dict) else None
        if (written and changed) or (step is not None and str(step) != where.name):
            raise DamagedError(f"{path}: {position} is not the position of the input at step {where.name}")


def arrays(where: Path, item: str) -> dict[str, np.ndarray]:
    """The arrays of an item by path. Raises DamagedError."""
    tree = restore(where, item, ocp.StandardCheckpointHandler(), ocp.args.StandardRestore())
    found = {name: np.asarray(leaf) for name, leaf in digests.named(tree).items()}
    if written := _written(where):
        ours, expected = digests.of_tree(found), written.get(item)
        if not isinstance(expected, dict):
            raise DamagedError(f"{where}: 'digests' has none of '{item}'")
        for name in [*expected, *ours]:
            if ours.get(name) != expected.get(name):
                raise DamagedError(f"{where}: {name} of '{item}' is not what was written")
    return found


def meta(where: Path) -> dict[str, Any]:
    """The meta of a checkpoint. Raises DamagedError if it is not what was written or a value has the wrong type."""
    content = _json(where, "meta")
    written = _written(where)
    if written and digests.of_json(content) != written.get("meta"):
        raise DamagedError(f"{where}: 'meta' is not what was written")
    if reason := _wrong_type(content):
        raise DamagedError(f"{where}: meta: {reason}")
    return content


def restore(where: Path, item: str, handler: Any, args: Any) -> Any:
    """What a handler of Orbax reads from the folder of an item. Raises DamagedError."""
    if not (where / item).is_dir():
        raise DamagedError(f"{where}: the checkpoint has no '{item}'")
    try:
        with quiet():
            return handler.restore(epath.Path(where / item), args=args)
    except Exception as error:  # Orbax and TensorStore raise many types
        raise DamagedError(f"{where}: '{item}' cannot be restored: {one_line(error)[:300]}") from error


def _written(where: Path) -> dict[str, Any]:
    """The digests that were written beside the arrays; {} in a checkpoint of an earlier version."""
    return _json(where, "digests") if (where / "digests").is_dir() else {}


def _json(where: Path, item: str) -> dict[str, Any]:
    content = restore(where, item, ocp.JsonCheckpointHandler(), ocp.args.JsonRestore())
    if not isinstance(content, dict):
        raise DamagedError(f"{where}: '{item}' is not a JSON object")
    return content


def _wrong_type(meta: dict[str, Any]) -> str | None:
    """What is wrong with the values that are there; some may be missing."""

    def numbers(value: Any) -> bool:
        return isinstance(value, dict) and all(type(number) in (int, float) for number in value.values())

    def listed(kind: type) -> Any:
        return lambda value: isinstance(value, list) and all(type(item) is kind for item in value)

    rules = {
        "config": (lambda value: isinstance(value, dict), "an object"),
        "class_names": (listed(str), "a list of strings"),
        "category_ids": (listed(int), "a list of whole numbers"),
        "evaluation": (lambda value: value is None or numbers(value), "null or an object of numbers"),
    }
    for name, (is_right, what) in rules.items():
        if name in meta and not is_right(meta[name]):
            return f"{name} is not {what}"
    names, ids = meta.get("class_names"), meta.get("category_ids")
    if names is not None and ids is not None and len(names) != len(ids):
        return f"{len(names)} class_names, but {len(ids)} category_ids"
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the reports of Orbax and TensorStore about an error, hundreds of lines, off standard error; with --debug
    they are shown. The error itself is raised.

    Orbax logs it in each of its threads. If one array fails, the other pending reads and writes fail on a closed event
    loop, each printing a traceback.
    """
    if debugging():
        yield
        return
    hook, logger = sys.unraisablehook, logging.getLogger("absl")

    def filtered(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    def is_other(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    sys.unraisablehook = filtered
    logging.getLogger("asyncio").addFilter(_is_wanted)  # for good: it reports when the memory of a failed read is freed
    logger.addFilter(is_other)
    try:
        yield
    except BaseException:
        time.sleep(0.3)  # enough for what is pending to fail
        warnings.filterwarnings("ignore", r"coroutine '\w+Handler\.\w+' was never awaited")
        raise
    finally:
        logger.removeFilter(is_other)
        sys.unraisablehook = hook


def _is_wanted(record: logging.LogRecord) -> bool:
    """Not what asyncio says of the failed reads and writes of TensorStore that nobody waits for."""
    text = record.getMessage()
    return not ("was never retrieved" in text and re.search("orbax|OCDBT|tensorstore", text))
