"""Pictures that end early are refused, however cleanly they end; whole ones that look like it are not."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dyhead_jax.data import complete, images
from dyhead_jax.data.source import DataError

NOISE = np.random.default_rng(0).integers(1, 255, (64, 80, 3), np.uint8)
GREY_BELOW = np.where(np.arange(64)[:, None, None] < 30, NOISE, np.uint8(128))
BLACK_BELOW = np.where(np.arange(64)[:, None, None] < 30, NOISE, np.uint8(0))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(pixels: np.ndarray, rows: int) -> bytes:
    """A PNG of pixels (h, w, 3) whose stream ends cleanly after some rows."""
    height, width = pixels.shape[:2]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    stream = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels[:rows]))
    parts = [chunk(b"IDAT", stream[start : start + 500]) for start in range(0, len(stream), 500)]
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(parts) + chunk(b"IEND", b"")


def jpeg(pixels: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("pixels", [NOISE, BLACK_BELOW], ids=["noise", "black below"])
def test_a_png_that_ends_cleanly_too_early(pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(images.decode(png(pixels, 64), "x"), pixels)
    for rows in (0, 10, 63):
        with pytest.raises(DataError, match=r"pic\.png: the image is broken"):
            images.decode(png(pixels, rows), "pic.png")


def test_only_headers_of_a_jpeg_in_one_scan_are_read() -> None:
    exif = b"Exif\0\0" + jpeg(NOISE[:8])  # the small picture that a camera puts in has a scan of its own
    for mode in ("L", "RGB", "CMYK"):
        assert complete._is_in_one_scan(jpeg(NOISE, mode))
        assert complete._is_in_one_scan(jpeg(NOISE, mode, exif=exif))
        assert not complete._is_in_one_scan(jpeg(NOISE, mode, progressive=True, exif=exif))
    whole = jpeg(NOISE)
    scan = whole.index(b"\xff\xda")
    first = b"\xff\xda\0\x08\x01" + whole[scan + 5 : scan + 7] + whole[scan + 11 :]  # of the three components
    assert not complete._is_in_one_scan(whole[:scan] + first)
    assert not complete._is_in_one_scan(whole[:scan])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "I;16"])
def test_black_pngs_of_every_mode_are_whole(mode: str) -> None:
    for size in ((1, 1), (7, 5), (33, 20)):
        file = io.BytesIO()
        Image.new(mode, size).save(file, "PNG")
        assert images.decode(file.getvalue(), "x").shape == (size[1], size[0], 3)


def test_interlaced_sizes_are_those_of_the_format() -> None:
    """Of 5 x 3 grey pixels the passes have 1, 1, 0, 1, 1, 2 and 1 rows, each a byte longer than its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 3, 8, 0, 0, 0, 1))
    for length, fault in ((22, None), (21, "its pixels end after 21 of 22 bytes")):
        data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(length))) + chunk(b"IEND", b"")
        assert complete._png(data) == fault


@pytest.mark.parametrize("pixels", [NOISE, GREY_BELOW], ids=["noise", "grey below"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_cut_jpeg_with_an_end_marker(pixels: np.ndarray, mode: str, progressive: bool, subsampling: int) -> None:
    whole = jpeg(pixels, mode, quality=80, progressive=progressive, subsampling=subsampling)
    expected = np.asarray(Image.open(io.BytesIO(whole)).convert("RGB"))
    for _ in range(2):
        np.testing.assert_array_equal(images.decode(whole, "x"), expected)
    np.testing.assert_array_equal(images.decode(whole + whole, "x"), expected)  # a second picture behind it, as in MPO
    for part in (0.4, 0.6, 0.8, 0.9):
        cut = whole[: int(len(whole) * part)] + b"\xff\xd9"
        for file in (cut, cut + whole):
            with pytest.raises(DataError, match=r"pic\.jpg: the image is broken"):
                images.decode(file, "pic.jpg")


def encoded(pixels: np.ndarray, kind: str = "TIFF") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


RAMP = np.arange(600).reshape(20, 30)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ((RAMP % 256).astype(np.uint16), RAMP % 256),
        ((RAMP * 6).astype(np.uint16), RAMP * 6 // 16),
        ((RAMP * 109).astype(np.uint16), RAMP * 109 // 256),
        ((RAMP % 256).astype(np.int32), RAMP % 256),
        ((RAMP * 109).astype(np.int32), RAMP * 109 // 256),
        ((RAMP / 599).astype(np.float32), np.rint(RAMP / 599 * 255)),
        ((RAMP % 256).astype(np.float32), RAMP % 256),
    ],
    ids=["16 bits to 255", "to 4095", "to 65535", "32 bits to 255", "to 65535", "floats to 1", "to 255"],
)
def test_ranges_of_deep_pixels_are_judged(pixels: np.ndarray, expected: np.ndarray) -> None:
    for kind in ("TIFF", "PNG") if pixels.dtype == np.uint16 else ("TIFF",):
        decoded = images.decode(encoded(pixels, kind), "x")
        np.testing.assert_allclose(decoded, np.repeat(expected[:, :, None], 3, axis=2), atol=1e-3)


@pytest.mark.parametrize(
    "pixels",
    [
        RAMP.astype(np.float32),
        -RAMP.astype(np.float32),
        np.full((2, 2), np.nan, np.float32),
        (RAMP * 1000).astype(np.int32),
        -RAMP.astype(np.int32),
    ],
)
def test_other_ranges_are_refused_by_name(pixels: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"deep\.tif: its pixels are"):
        images.decode(encoded(pixels), "deep.tif")


def test_sixteen_bits_a_colour_that_are_fewer_are_refused_by_name() -> None:
    import cv2

    for ending in (".png", ".tiff"):
        low = cv2.imencode(ending, NOISE.astype(np.uint16))[1].tobytes()
        with pytest.raises(DataError, match="x: has 16 bits a channel, but no value reaches 4096 of 65535"):
            images.decode(low, "x")
        full = cv2.imencode(ending, NOISE.astype(np.uint16) * 257)[1].tobytes()
        np.testing.assert_array_equal(images.decode(full, "x"), NOISE[:, :, ::-1])
