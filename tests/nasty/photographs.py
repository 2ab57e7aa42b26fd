"""Nasty image files: of every format and mode, cut, flipped, with huge sizes, odd names and links; and what `predict`
makes of a folder of them.
"""

import io
import json
import os
import random
import re
import shutil
import struct
import warnings
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from dyhead_jax import predict
from dyhead_jax.data import images
from dyhead_jax.data.source import DataError
from dyhead_jax.inference import model as inference
from dyhead_jax.inference.objects import FoundObjects
from tests.nasty import harness, mutations

# as bytes: not all of them are UTF-8
NAMES = (
    b"a b", b" lead", b"trail ", b"new\nline", b"tab\t", b"\xff\xfe", b"caf\xe9", b"a" * 230, b"-o", b"--out", b"*",
    b"[a]", b"?", b"%s", b"'\"", b"a.b.c", b"\x1b[31m", b"NUL", b"~", b"$HOME", b"#", b"a\\b",
    *(name.encode() for name in ("n\u00e4me", "na\u0308me", "\u87ba\u4e1d", "\u202egnp", "\u87ba" * 80)),
)  # fmt: skip

FORMATS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("JPEG", "RGB", {}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "L", {}), ("JPEG", "CMYK", {}),
    ("JPEG", "RGB", {"subsampling": 0, "quality": 30}), ("JPEG", "RGB", {"orientation": 6}),
    ("JPEG", "RGB", {"orientation": 3, "optimize": True}), ("JPEG", "RGB", {"restart_marker_rows": 1}),
    ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "L", {}), ("PNG", "LA", {}), ("PNG", "P", {}), ("PNG", "1", {}),
    ("PNG", "I;16", {}), ("PNG", "P", {"transparency": 0}), ("PNG", "RGB", {"orientation": 8}),
    ("GIF", "P", {}), ("GIF", "L", {"animated": True}), ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}),
    ("WEBP", "RGB", {"animated": True}), ("BMP", "RGB", {}), ("BMP", "L", {}), ("BMP", "1", {}), ("BMP", "P", {}),
    ("TIFF", "RGB", {}), ("TIFF", "L", {}), ("TIFF", "1", {"compression": "group4"}), ("TIFF", "I;16", {}),
    ("TIFF", "F", {}), ("TIFF", "I", {}), ("TIFF", "CMYK", {}), ("TIFF", "LAB", {}), ("TIFF", "RGBA", {}),
    ("TIFF", "YCbCr", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}), ("TIFF", "L", {"compression": "packbits"}),
    ("TIFF", "RGB", {"orientation": 6}), ("TIFF", "P", {"animated": True}),
    ("PPM", "RGB", {}), ("PPM", "L", {}), ("PPM", "1", {}), ("PPM", "I", {}), ("MPO", "RGB", {"animated": True}),
)  # fmt: skip
ENDINGS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "BMP": "bmp", "TIFF": "tiff", "PPM": "ppm"}


@cache
def whole(number: int, height: int = 24, width: int = 20) -> bytes:
    """A valid file of one of FORMATS."""
    kind, mode, options = FORMATS[number]
    options = dict(options)
    rng = np.random.default_rng(number)
    smooth = np.add.outer(np.arange(height) * 7, np.arange(width) * 5) % 200 + rng.integers(0, 40, (height, width))
    picture = Image.fromarray(smooth.astype(np.uint8))
    if mode == "I;16":
        picture = Image.fromarray((smooth * 200).astype(np.uint16))
    elif mode in ("F", "I"):
        picture = Image.fromarray((smooth / 255).astype(np.float32) if mode == "F" else (smooth * 9).astype(np.int32))
    elif mode == "LAB":
        picture = Image.fromarray(np.stack([smooth] * 3, -1).astype(np.uint8), "LAB")
    else:
        picture = picture.convert("RGB").convert(mode)
    if orientation := options.pop("orientation", 0):
        exif = picture.getexif()
        exif[0x0112] = orientation
        options["exif"] = exif
    if options.pop("animated", False):
        options |= {"save_all": True, "append_images": [picture.copy()]}
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def change(path: Path, rng: random.Random) -> str:
    """Makes an image file nasty."""
    kind = rng.choice(("bytes", "bytes", "bytes", "other", "head", "cut", "empty"))
    content = path.read_bytes()
    if kind == "other":
        number = rng.randrange(len(FORMATS))
        path.write_bytes(whole(number))
        return f"is {FORMATS[number]}"
    if kind == "head":
        content, said = change_head(content, rng)
    elif kind == "cut":
        content, said = content[: rng.randrange(len(content) + 1)], "cut"
    elif kind == "empty":
        content, said = b"", "empty"
    else:
        content, said = mutations.data(content, rng)
    path.write_bytes(content)
    return said


def change_head(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Another width, height, depth or kind in the head of a file, with checksums that are right."""
    value = rng.choice((0, 1, 255, 4096, 65500, 2**31 - 1, 2**32 - 1, 19, 21))
    if content[:4] == b"\x89PNG":
        place, size = rng.choice(((16, 4), (20, 4), (24, 1), (25, 1), (28, 1)))
        head = bytearray(content[:29])
        head[place : place + size] = (value & (2 ** (8 * size) - 1)).to_bytes(size, "big")
        return bytes(head) + struct.pack(">I", zlib.crc32(bytes(head[12:29]))) + content[33:], f"head {place} {value}"
    places = {b"BM": (18, 22, 28, 10, 14), b"GI": (6, 8, 10), b"II": (4,), b"P6": (3,), b"P5": (3,)}
    if content[:2] == b"\xff\xd8" and (found := re.search(rb"\xff[\xc0\xc2]..\x08", content, re.DOTALL)):
        place = found.end() + rng.choice((0, 2, 4, 5, 6))
        return content[:place] + struct.pack(">H", value & 0xFFFF) + content[place + 2 :], f"frame {value}"
    if content[:2] in places:
        place = rng.choice(places[content[:2]])
        return content[:place] + struct.pack("<I", value) + content[place + 4 :], f"head {place} {value}"
    return mutations.data(content, rng)


class _Finder:
    """Takes the place of a model: a box in every picture."""

    class_names, category_ids = ("a", "\u87ba"), (3, 7)

    def __call__(self, pictures: Sequence[np.ndarray], score: float, **_: Any) -> list[FoundObjects]:
        one = [np.array([[1.0, 1.0, 5.0, 6.0]], np.float32), np.array([0.9], np.float32), np.array([1], np.int32)]
        return [
            FoundObjects(*one, image=image, class_names=self.class_names, category_ids=self.category_ids)
            for image in pictures
        ]


def case(folder: Path, rng: random.Random) -> tuple[list[str], str | None]:
    """Makes a folder of nasty pictures; returns what is nasty in it, and what is wrong with what `predict` does."""
    root, out, work = folder / "pictures", folder / "found", folder / "here"
    root.mkdir()
    work.mkdir()
    words = []
    for i in range(rng.choice((1, 2, 3))):
        number = rng.randrange(len(FORMATS))
        content, said = whole(number), "whole"
        ending = ENDINGS.get(FORMATS[number][0], "jpg")
        path = root / f"{i}.{rng.choice((ending, ending, ending.upper(), 'jpg', 'png'))}"
        path.write_bytes(content)
        if rng.random() < 0.7:
            said = change(path, rng)
            if said == "cut" and (wrong := cut_wrong(content, path.read_bytes())):
                return [f"{FORMATS[number]}: cut to {path.stat().st_size} of {len(content)}"], wrong
        if rng.random() < 0.3:
            path = path.rename(root / os.fsdecode(rng.choice(NAMES) + b"%d" % i + path.suffix.encode()))
        if rng.random() < 0.1:
            path.rename(folder / f"outside{i}{path.suffix}")
            path.symlink_to(rng.choice((folder / f"outside{i}{path.suffix}", Path("nowhere"), Path(path.name))))
        words.append(f"{FORMATS[number]} {path.name[:20]!r}: {said}")
    with mock.patch.object(inference, "load", return_value=_Finder()):
        arguments = ["--workdir", "none", "--out", out, root]
        ended = harness.run(predict._main, *arguments, folder=work, allowed=[out])
    names = [str(root), *(path.name for path in root.iterdir())]
    return words, ended.fault([*names, *(" ".join(name.split()) for name in names)]) or _lost(root, out, ended)


def _lost(root: Path, out: Path, ended: harness.Ended) -> str | None:
    """The pictures that are neither found, nor named, nor counted as left out."""
    given = len(list(root.iterdir()))
    found = re.search(r"^(\d+) of (\d+) images", ended.out, re.MULTILINE)
    if found is None:
        return None if ended.code else f"no count: {ended.out}"
    left = sum(map(int, re.findall(r"^left out: (\d+)", ended.out, re.MULTILINE)))
    done, read = int(found[1]), int(found[2])
    listed = json.loads((out / "images.json").read_text())["images"]
    named = ended.err.count("error: ")
    if done + named != read or read + left != given or len(listed) != done:
        return f"{given} given; {ended.out!r} {ended.err!r}, {len(listed)} listed"
    gone = [image["picture"] for image in listed if not (out / image["picture"]).is_file()]
    return f"no pictures {gone}" if gone else None


def cut_wrong(content: bytes, cut: bytes) -> str | None:
    """What is wrong where a file that was cut is not refused: it must have all of its pixels."""
    try:
        with warnings.catch_warnings(action="ignore"):
            decoded = images.decode(cut, "cut").astype(int)
    except DataError:
        return None
    expected = images.decode(content, "whole").astype(int)
    if decoded.shape != expected.shape:
        return f"another size, {decoded.shape}"
    off = np.abs(decoded - expected).max(axis=2) > 2
    off[-16:, -16:] = False  # see docs/promises.md: a JPEG that was cut within its last block
    return f"{int(off.sum())} pixels are wrong" if off.any() else None


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
