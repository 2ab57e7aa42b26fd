"""JSON files that others wrote: their content, or one error that names the file."""

import os
from pathlib import Path
from typing import Any

from dyhead_jax.data.source import DataError
from dyhead_jax.files import parse_json

LARGEST = 1e9  # of a coordinate or an area in pixels; a larger one is a mistake, and its products may be infinite


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark.

    Raises DataError, which names the file, when it is missing or cannot be read, for an object that has a key twice, of
    which Python would keep the last, and for what is not JSON or not of a size that Python reads: nested a thousand
    times, or an integer of 4,300 digits.
    """
    if path.is_fifo() and os.path.exists(os.path.realpath(path)):  # one of a shell's <(...) has no name, and an end
        raise DataError(f"{path} is a pipe, not a file")
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def is_number(value: Any, largest: float = LARGEST) -> bool:
    """Whether a value is a finite number, and no larger than `largest` in size."""
    return isinstance(value, (float, int)) and not isinstance(value, bool) and -largest <= value <= largest


def short(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
