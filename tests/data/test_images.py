"""Every kind of image file becomes RGB uint8 or an error with its name."""

import io

import numpy as np
import pytest
from PIL import Image

from dyhead_jax.data import images
from dyhead_jax.data.source import DataError


def _scene() -> np.ndarray:
    rows, columns = np.mgrid[0:20, 0:30]
    return np.stack([rows * 12, columns * 8, (rows + columns) * 5], axis=2).astype(np.uint8)


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
def test_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(_scene()).convert(mode)
    decoded = images.decode(_encode(image, "PNG"), "x")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, np.array(image.convert("RGB")))


def test_cmyk_has_the_right_colours() -> None:
    decoded = images.decode(_encode(Image.fromarray(_scene()).convert("CMYK"), "JPEG", quality=98), "x")
    assert np.abs(decoded.astype(int) - _scene()).mean() < 6


def test_sixteen_bits_keep_the_upper_eight() -> None:
    values = (np.arange(600).reshape(20, 30) * 109).astype(np.uint16)
    decoded = images.decode(_encode(Image.fromarray(values), "PNG"), "x")
    np.testing.assert_array_equal(decoded, np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


def test_transparent_palette_does_not_warn() -> None:
    image = Image.fromarray(_scene()).convert("P")
    encoded = _encode(image, "PNG", transparency=bytes(range(256)))
    np.testing.assert_array_equal(images.decode(encoded, "x"), np.array(image.convert("RGB")))


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    encoded = _encode(Image.fromarray(_scene()), "JPEG", exif=exif)
    assert images.decode(encoded, "x").shape == (20, 30, 3)
    assert images.header(io.BytesIO(encoded), "x") == images.Header((20, 30), 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_cut_file_is_refused_by_name(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    encoded = _encode(Image.fromarray(noise), kind)
    for length in (0, 10, len(encoded) // 2):
        with pytest.raises(DataError, match=r"pic\.jpg: ") as error:
            images.decode(encoded[:length], "pic.jpg")
        assert "\n" not in str(error.value)


def test_formats_that_start_programs_are_refused() -> None:
    with pytest.raises(DataError, match=r"x\.eps"):
        images.decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "x.eps")


def test_a_huge_picture_is_refused_before_decoding() -> None:
    encoded = _encode(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(DataError, match="big"):
        images.decode(encoded, "big")
