"""What people hand in as a picture, to (h, w, 3) uint8 RGB pixels as one sees it.

A photograph that a camera stored on its side is turned upright, as its EXIF orientation says, and boxes refer to that
picture. Training and evaluation read pixels as the boxes of their annotation files refer to them (see `data.frames`).
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dyhead_jax.data import images
from dyhead_jax.data.source import DataError


def read(picture: Any, name: str = "the picture") -> np.ndarray:
    """The pixels of an image file (a path), a Pillow image or an array.

    An array is (h, w, 3) RGB, (h, w) or (h, w, 1) grey, or (h, w, 4) with alpha, which is dropped; always uint8, and
    taken as it is. name: of a picture that is not a file, for errors.
    Raises DataError for a broken image, a pipe and other arrays, OSError for a file that cannot be read, TypeError for
    other objects.
    """
    if isinstance(picture, str | os.PathLike):
        return images.decode(images.read_file(Path(picture)), os.fspath(picture), upright=True)
    if isinstance(picture, Image.Image):
        return images.to_rgb(picture, name, upright=True)
    if not isinstance(picture, np.ndarray):
        raise TypeError(f"{name} is a {type(picture).__name__}; give a path, a Pillow image or a NumPy array")
    if picture.dtype != np.uint8:
        raise DataError(f"{name} is an array of {picture.dtype}; pixels are uint8, from 0 to 255")
    pixels = picture[:, :, None] if picture.ndim == 2 else picture
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise DataError(f"{name} is an array {picture.shape}; give (h, w, 3) RGB, (h, w) grey, or a list of pictures")
    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[:, :, :3]
    return np.ascontiguousarray(pixels)
