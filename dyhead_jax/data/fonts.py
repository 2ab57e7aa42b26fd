"""Fonts for class names in any script.

DejaVu Sans, which comes with matplotlib, has Latin, Greek, Cyrillic and Arabic letters. For others, such as Chinese,
Japanese, Korean or Thai ones, a font is looked for among those installed. A name that no font can show is replaced, so
that a picture never has empty boxes in the place of letters.
"""

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib.font_manager import findSystemFonts
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

DEJAVU = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


def readable(class_names: Sequence[str]) -> list[str]:
    """The names as they can be drawn: "class 3" in the place of name 3 (from 0) if no font has all its letters."""
    return [name if shows(name) else f"class {label}" for label, name in enumerate(class_names)]


def note(class_names: Sequence[str]) -> str:
    """A line on the names that `readable` replaces, "" if there is none."""
    missing = [(label, name) for label, name in enumerate(class_names) if not shows(name)]
    if not missing:
        return ""
    label, name = missing[0]
    return (
        f"{len(missing)} of {len(class_names)} class names have letters that no installed font has; pictures show"
        f" 'class {label}' for {name!r}, and so on (a font such as Noto Sans CJK or Noto Sans Thai would show them)"
    )


@lru_cache(maxsize=4096)
def shows(text: str) -> bool:
    """Whether every character of a text can be drawn; white space always can."""
    return all(_file(character) is not None for character in set("".join(text.split())))


def runs(text: str, points: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """The text in parts, from left to right, with a font for each. A character that no font has becomes "?"."""
    files: list[str] = []
    for character in text:
        previous = files[-1] if files else DEJAVU
        # Space and marks stay with what is before them: a mark from another font would not sit on its letter.
        file = previous if character == " " or _covers(previous, character) else _file(character)
        files.append(file or DEJAVU)
    shown = [character if character == " " or _file(character) else "?" for character in text]
    parts = groupby(zip(shown, files, strict=True), key=lambda pair: pair[1])
    return [("".join(character for character, _ in part), load(file, points)) for file, part in parts]


@cache
def load(file: str, points: int) -> ImageFont.FreeTypeFont:
    """The font of a file, the first one of a collection."""
    return ImageFont.truetype(file, points)


@cache
def _file(character: str) -> str | None:
    """The font file for a character: DejaVu Sans, else the first installed one that has it, or None."""
    return next((file for file in (DEJAVU, *_installed()) if _covers(file, character)), None)


def _covers(file: str, character: str) -> bool:
    font = _opened(file)
    return font is not None and font.get_char_index(ord(character)) != 0


@cache
def _opened(file: str) -> FT2Font | None:
    try:
        font = FT2Font(file)
    except (OSError, RuntimeError):  # a damaged file, or a font of bitmaps only
        return None
    return font if font.scalable else None


@cache
def _installed() -> tuple[str, ...]:
    """Installed font files: regular faces without serifs first, Noto's before others, else by name."""

    def order(file: str) -> tuple[bool, bool, bool, str]:
        name = Path(file).stem.lower()
        slanted = re.search("bold|italic|oblique|black|light|thin|medium|condensed|mono", name) is not None
        return slanted, "serif" in name, "noto" not in name, file

    return tuple(sorted(findSystemFonts(), key=order))
