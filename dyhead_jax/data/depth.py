"""Pixels of more than 8 bits to 8 bits, by the range of their values: no picture turns black because of its file
format.

Values of a file with 16 bits a channel may go up to 255, 4095 (cameras and scanners with 12 bits) or 65535, and floats
up to 1 or 255, and the file does not say which. So the largest value of the picture decides; a range that is none of
these is refused by name.
"""

import numpy as np
from PIL import Image

from dyhead_jax.data.source import DataError

DEEP_GREY = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""Pillow's modes of grey pictures that its own conversion would cut off at 255."""


def is_deep(image: Image.Image) -> bool:
    """Whether a picture that is not loaded yet has channels of 16 bits, of which Pillow keeps the upper 8."""
    tiles = getattr(image, "tile", None) or []
    return image.mode not in DEEP_GREY and any(";16" in str(tile[3]) for tile in tiles)


def grey(image: Image.Image, name: str) -> np.ndarray:
    """The (h, w) uint8 pixels of a picture of one of the modes DEEP_GREY.

    Integers up to 255 are kept, up to 4095 divided by 16 and up to 65535 by 256; floats up to 1 are multiplied by 255
    and up to 255 rounded. Raises DataError, which gives `name`, for other ranges.
    """
    values = np.asarray(image)
    if values.dtype.kind == "f":
        largest = float(values.max(initial=0))
        if not np.isfinite(values).all() or values.min(initial=0) < 0 or largest > 255:
            low = float(values.min(initial=0))
            raise DataError(f"{name}: its pixels are floats from {low:g} to {largest:g}, not from 0 to 1 or to 255")
        return np.rint(values * (255 if largest <= 1 else 1)).astype(np.uint8)
    values = values.astype(np.int64)
    low, largest = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or largest > 65535:
        raise DataError(f"{name}: its pixels are integers from {low} to {largest}, not from 0 to 65535")
    return (values >> (0 if largest <= 255 else 4 if largest <= 4095 else 8)).astype(np.uint8)


def check_deep(pixels: np.ndarray, name: str) -> None:
    """Raises DataError, which gives `name`, for the upper 8 bits of a picture for which `is_deep` when they are nearly
    all that is black: its values are of fewer bits."""
    if pixels.max(initial=0) < 16:
        raise DataError(
            f"{name}: has 16 bits a channel, but no value reaches 4096 of 65535; save it with 8 bits a channel"
        )
