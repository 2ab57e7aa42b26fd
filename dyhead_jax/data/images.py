"""Image files to (h, w, 3) uint8 RGB, safely: an image is decoded whole or refused by name.

With Pillow, not OpenCV, which fills the missing part of a truncated file with grey and reports nothing; where Pillow
does too, `complete` looks closer. Pixels are taken as they are stored, without applying an EXIF orientation, unless
`upright` is asked for; which of the two the boxes refer to is the matter of `frames`. (Pillow itself turns a TIFF.)
Alpha is dropped, not composited; for pixels of more than 8 bits see `depth`; of an animation the first frame is taken.
"""

import io
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from dyhead_jax.data import complete, depth
from dyhead_jax.data.source import DataError

# Only raster formats with a decoder of Pillow's own: others, such as EPS, would start another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # JPEG covers MPO, which has no opener of its own
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")  # of image files in a folder
MAX_PIXELS = 89_478_485  # Pillow's own limit: beyond it a small file is more likely an attack than a photograph

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_FAULTS = (OSError, SyntaxError, ValueError, EOFError, struct.error, *_BOMBS)


@dataclass(slots=True, frozen=True)
class Header:
    """What the beginning of an image file says. size: (height, width) of the stored pixels; orientation: of EXIF, 1 to
    8, 1 for none."""

    size: tuple[int, int]
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) after turning the picture as the orientation says."""
        return (self.size[1], self.size[0]) if self.orientation >= 5 else self.size


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises DataError for a pipe, socket or device, which might never end, OSError as usual."""
    with open_file(path) as file:
        return file.read()


def open_file(path: Path) -> BinaryIO:
    """A file opened for reading; errors as in `read_file`."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer must not hang
    kind = os.fstat(file).st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        os.close(file)
        raise DataError(f"{path} is a pipe, socket or device, not a file")
    try:
        return os.fdopen(file, "rb")
    except IsADirectoryError as error:
        os.close(file)
        error.filename = str(path)  # in the place of the descriptor's number
        raise


def decode(encoded: bytes, name: str, *, upright: bool = False) -> np.ndarray:
    """The (h, w, 3) uint8 RGB image. upright: turned as its EXIF orientation says, as a viewer shows it.

    Raises DataError, which gives `name`, for a broken image or none.
    """
    if not encoded:
        raise DataError(f"{name}: the image file is empty")
    image = _open(io.BytesIO(encoded), name)
    deep = depth.is_deep(image)
    try:
        image.load()
        missing = complete.fault(encoded, image, lambda other: np.asarray(_open(io.BytesIO(other), name)))
    except DataError:
        raise
    except _FAULTS as error:
        raise DataError(f"{name}: the image is broken ({_one_line(error)})") from error
    if missing:
        raise DataError(f"{name}: the image is broken ({missing})")
    pixels = to_rgb(image, name, upright=upright)
    if deep:
        depth.check_deep(pixels, name)
    return pixels


def to_rgb(image: Image.Image, name: str, *, upright: bool = False) -> np.ndarray:
    """The (h, w, 3) uint8 RGB pixels of a Pillow image of any mode; errors and `upright` as in `decode`, but a file
    that ends too early is not always noticed."""
    try:
        image.load()
        if upright:
            image = _upright(image)
        if image.mode in depth.DEEP_GREY:
            return np.repeat(depth.grey(image, name)[:, :, None], 3, axis=2)
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return np.array(image.convert("RGB"))
    except DataError:
        raise
    except _FAULTS as error:
        raise DataError(f"{name}: the image is broken ({_one_line(error)})") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _FAULTS:  # an EXIF block that cannot be read says nothing of the orientation
        return image


def header(file: BinaryIO, name: str) -> Header:
    """The header of an image file, without decoding it. Raises DataError, which gives `name`."""
    image = _open(file, name)
    return Header((image.height, image.width), _orientation(image))


def _orientation(image: Image.Image) -> int:
    # Pillow turns a TIFF as it loads it, and already gives its upright size. Of a PNG it would decode all for an EXIF
    # block behind the pixels.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _FAULTS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


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
