"""Image files to (h, w, 3) uint8 RGB, safely: an image is decoded whole or refused by name.

With Pillow, not OpenCV, which fills the missing part of a truncated file with grey and reports nothing. Pixels are
taken as they are stored, without applying an EXIF orientation, since COCO boxes refer to them, unless `upright` is
asked for. Alpha is dropped, not composited; of 16 bits a channel the upper 8 are kept; of an animation the first frame
is taken.
"""

import io
import struct
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from dyhead_jax.data.source import DataError

# Only raster formats with a decoder of Pillow's own: others, such as EPS, would start another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # JPEG covers MPO, which has no opener of its own
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")  # of image files in a folder
MAX_PIXELS = 89_478_485  # Pillow's own limit: beyond it a small file is more likely an attack than a photograph

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_FAULTS = (OSError, SyntaxError, ValueError, EOFError, struct.error, *_BOMBS)


def decode(encoded: bytes, name: str, *, upright: bool = False) -> np.ndarray:
    """The (h, w, 3) uint8 RGB image. upright: turned as its EXIF orientation says, as a viewer shows it.

    Raises DataError, which gives `name`, for a broken image or none.
    """
    if not encoded:
        raise DataError(f"{name}: the image file is empty")
    return to_rgb(_open(io.BytesIO(encoded), name), name, upright=upright)


def to_rgb(image: Image.Image, name: str, *, upright: bool = False) -> np.ndarray:
    """The (h, w, 3) uint8 RGB pixels of a Pillow image of any mode; errors and `upright` as in `decode`."""
    try:
        image.load()
        if upright:
            image = _upright(image)
        if image.mode in ("I;16", "I;16B", "I;16L", "I"):  # Pillow's own conversion would clip at 255
            gray = (np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
            return np.repeat(gray[:, :, None], 3, axis=2)
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return np.array(image.convert("RGB"))
    except _FAULTS as error:
        raise DataError(f"{name}: the image is broken ({_one_line(error)})") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _FAULTS:  # an EXIF block that cannot be read says nothing of the orientation
        return image


def size(file: BinaryIO, name: str) -> tuple[int, int]:
    """(height, width) of an image file, from its header alone. Raises DataError, which gives `name`."""
    image = _open(file, name)
    return image.height, image.width


def _open(file: BinaryIO, name: str) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{name}: empty, or not an image of a known format ({', '.join(FORMATS)})") from error
    except _FAULTS as error:
        raise DataError(f"{name}: the image cannot be opened ({_one_line(error)})") from error
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{name}: {image.width}x{image.height} pixels are more than the {MAX_PIXELS} allowed")
    return image


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
