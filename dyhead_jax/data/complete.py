"""Whether an image file has all of its pixels, where its decoder fills in what is missing and says nothing.

A PNG whose compressed stream ends too early, but cleanly, decodes with black rows at its end; a JPEG that was cut and
closed by an end marker with grey blocks, and a progressive one without its finer detail. Looking closer costs as much
as decoding again, so only suspicious pictures are looked at. (Pillow notices what other formats lack.)
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

_PADDING = bytes(4096)
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_whole: set[tuple[int, int]] = set()  # length and checksum of JPEGs that were looked at: each once in a process


def fault(encoded: bytes, image: Image.Image, decode: Callable[[bytes], np.ndarray]) -> str | None:
    """What an image file lacks, None for nothing.

    encoded: the file; image: what Pillow loaded from it, as it is stored; decode: the pixels of another version of the
    file, as they are stored.
    """
    if image.format == "PNG" and _ends_empty(image):
        return _png(encoded)
    if image.format in ("JPEG", "MPO"):
        return _jpeg(encoded, image, decode)
    return None


def _ends_empty(image: Image.Image) -> bool:
    """Whether the last rows, which pixels that were never written would leave at 0, are at 0."""
    rows = image.crop((0, max(0, image.height - 2), image.width, image.height))
    return not np.asarray(rows).any(axis=tuple(range(1, np.asarray(rows).ndim))).all()


def _png(encoded: bytes) -> str | None:
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", encoded[16:29])
    bits = depth * _PNG_CHANNELS[kind]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sides = [(-(-(height - y) // dy), -(-(width - x) // dx)) for y, x, dy, dx in passes]
    wanted = sum(rows * (1 + (columns * bits + 7) // 8) for rows, columns in sides if rows > 0 and columns > 0)
    stream, found, position = zlib.decompressobj(), 0, 8
    while position + 8 <= len(encoded) and found < wanted:
        length, name = struct.unpack(">I4s", encoded[position : position + 8])
        if name == b"IDAT":
            rest = encoded[position + 8 : position + 8 + length]
            while rest and found < wanted and not stream.eof:
                found += len(stream.decompress(rest, 2**20))
                rest = stream.unconsumed_tail
        position += 12 + length
    return None if found >= wanted else f"its pixels end after {found} of {wanted} bytes"


def _jpeg(encoded: bytes, image: Image.Image, decode: Callable[[bytes], np.ndarray]) -> str | None:
    corner = image.getpixel((image.width - 1, image.height - 1))
    grey = all(value in (127, 128) for value in (corner if isinstance(corner, tuple) else (corner,)))
    if not grey and _is_in_one_scan(encoded):  # as most photographs are; no more than their headers are read
        return None
    scans, missing, end = _scans(encoded)
    if not (grey or scans > 1) or end is None:
        return None
    if missing:
        return "its last scans are missing"
    key = len(encoded), zlib.crc32(encoded)
    if key not in _whole:
        # A decoder that has all blocks skips zeros before the end marker; one that lacks some makes blocks of them.
        if not np.array_equal(decode(encoded[:end] + _PADDING + encoded[end:]), np.asarray(image)):
            return "its data end before its last block"
        if len(_whole) > 1_000_000:
            _whole.clear()
        _whole.add(key)
    return None


def _segments(encoded: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Of each segment of a JPEG its marker, its content and where it begins. A content, which may hold a small picture,
    is not looked through."""
    position = 2
    while (found := _MARKER.search(encoded, position)) is not None:
        marker, position, content = found.group(1)[0], found.end(), b""
        if marker not in (0x01, 0xD9) and position + 2 <= len(encoded):
            content = encoded[position + 2 : position + int.from_bytes(encoded[position : position + 2], "big")]
            position += 2 + len(content)
        yield marker, content, found.start()


def _is_in_one_scan(encoded: bytes) -> bool:
    """Whether the first scan of a JPEG brings all components in full."""
    components = 0
    for marker, content, _ in _segments(encoded):
        if marker in _FRAMES and len(content) >= 6:
            if marker in _PROGRESSIVE:
                return False
            components = content[5]
        elif marker == 0xDA and content:
            return content[0] == components
    return False


def _scans(encoded: bytes) -> tuple[int, bool, int | None]:
    """The number of scans of a JPEG, whether there are coefficients that no scan brings in full, and where its end
    marker is."""
    components: dict[int, np.ndarray] = {}
    progressive, scans = False, 0
    for marker, segment, begin in _segments(encoded):
        if marker == 0xD9:
            missing = any((bits > 0).any() for bits in components.values())
            return scans, missing, begin
        if marker in _FRAMES and len(segment) >= 6:
            progressive = marker in _PROGRESSIVE
            components = {segment[i]: np.full(64, 99) for i in range(6, len(segment) - 2, 3)}
        elif marker == 0xDA and segment:
            scans += 1
            own = [segment[1 + 2 * i] for i in range(segment[0]) if 1 + 2 * i < len(segment)]
            first, last, precision = (*segment[-3:], 0, 63, 0)[:3] if progressive else (0, 63, 0)
            for component in own:
                if component in components:
                    bits = components[component]
                    bits[first : last + 1] = np.minimum(bits[first : last + 1], precision & 15)
    return scans, False, None
