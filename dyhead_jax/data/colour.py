"""What changes the pixels of a training image and leaves its boxes: pure functions of an (h, w, 3) uint8 RGB image."""

import cv2
import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114])  # of RGB, ITU-R BT.601


def jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation, each changed by a factor from 1 - strength to 1 + strength, in one pass.

    The three are one affine map of a pixel's colour: saturation mixes it with its own grey, contrast with the image's
    mean grey, brightness scales the result.
    """
    brightness, contrast, saturation = rng.uniform(max(0.0, 1 - strength), 1 + strength, 3)
    mean_gray = float(np.dot(_LUMA, cv2.mean(image)[:3]))
    mix = saturation * np.eye(3) + (1 - saturation) * np.tile(_LUMA[None, :], (3, 1))
    shift = np.full((3, 1), brightness * (1 - contrast) * mean_gray)
    return cv2.transform(image, np.concatenate([brightness * contrast * mix, shift], axis=1))


def blur(image: np.ndarray, largest: float, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian blur with a standard deviation from 0 to `largest` pixels."""
    # Of less than a tenth of a pixel nothing is to be seen, and OpenCV would choose a sigma of its own for 0.
    return cv2.GaussianBlur(image, (0, 0), max(0.1, rng.uniform(0, largest)))


def noise(image: np.ndarray, largest: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise in each value, of a standard deviation from 0 to `largest`, where white is 255."""
    added = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, largest))
    return np.rint(image + added).clip(0, 255).astype(np.uint8)
