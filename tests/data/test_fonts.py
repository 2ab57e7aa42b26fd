"""Class names in any script: shown by a font that has the letters, or replaced, but never drawn as empty boxes."""

from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from dyhead_jax.data import fonts, pictures


@pytest.fixture
def installed(monkeypatch):
    """Sets the fonts of the system."""

    def use(*files: Path):
        fonts._installed.cache_clear()
        fonts._file.cache_clear()
        fonts.shows.cache_clear()
        monkeypatch.setattr(fonts, "findSystemFonts", lambda: [str(file) for file in files])

    yield use
    use()


def font_of(path: Path, letters: str) -> Path:
    """A font whose letters are solid squares."""
    pen = TTGlyphPen(None)
    for i, point in enumerate([(0, 0), (0, 800), (800, 800), (800, 0)]):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    square = pen.glyph()
    names = {ord(letter): f"u{ord(letter):04X}" for letter in letters}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    builder.setupGlyf({name: square for name in [".notdef", *names.values()]})
    builder.setupHorizontalMetrics({name: (1000, 0) for name in [".notdef", *names.values()]})
    builder.setupHorizontalHeader(ascent=900, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


def test_names_are_shown_by_the_first_font_that_has_all_their_letters(installed, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    cat, dog = font_of(tmp_path / "a.ttf", "猫"), font_of(tmp_path / "b.ttf", "犬")
    installed(tmp_path / "broken.ttf", cat, dog)
    names = ["cat", "猫 cat", "犬猫", "แมว", "собака", ""]
    assert fonts.readable(names) == ["cat", "猫 cat", "犬猫", "class 3", "собака", ""]
    assert fonts.note(names).startswith("1 of 6 class names have letters that no installed font has")
    parts = [(text, font.path) for text, font in fonts.runs("猫 犬 cat 0.5", 12)]
    assert parts == [("猫 ", str(cat)), ("犬 ", str(dog)), ("cat 0.5", fonts.DEJAVU)]


def test_without_a_font_the_class_is_numbered_and_counted_once(installed):
    installed()
    assert fonts.readable(["a", "猫", "b\x07"]) == ["a", "class 1", "class 2"]
    assert "2 of 3 class names" in fonts.note(["a", "猫", "b\x07"])
    assert fonts.note(["a", "b"]) == ""
    assert [text for text, _ in fonts.runs("a猫", 12)] == ["a?"]
    image, box = np.full((100, 200, 3), 90, np.uint8), np.array([[20.0, 40.0, 180.0, 90.0]])
    drawn, plain = (pictures.draw(image, box, np.array([1]), None, ["a", name]) for name in ("猫", "class 1"))
    np.testing.assert_array_equal(drawn, plain)


def test_a_found_font_draws_the_letter(installed, tmp_path):
    installed(font_of(tmp_path / "a.ttf", "猫"))
    image, box = np.full((100, 200, 3), 90, np.uint8), np.array([[20.0, 40.0, 180.0, 90.0]])
    one, three = (pictures.draw(image, box, np.array([0]), None, [name])[:40] for name in ("猫", "猫猫猫"))
    white = [(plate == 255).all(-1).sum() for plate in (one, three)]
    assert white[0] > 40
    assert abs(white[1] - 3 * white[0]) <= 0.1 * white[1]
