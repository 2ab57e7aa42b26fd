"""Colour, blur and noise against plain formulas."""

import numpy as np

from dyhead_jax.data import colour

IMAGE = np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)


def test_jitter_of_strength_zero_is_identity() -> None:
    np.testing.assert_array_equal(colour.jitter(IMAGE, 0.0, np.random.default_rng(0)), IMAGE)
    other = colour.jitter(IMAGE, 0.4, np.random.default_rng(0))
    assert other.dtype == np.uint8
    assert np.abs(other.astype(int) - IMAGE).mean() > 3


def test_jitter_is_the_three_steps_one_after_the_other() -> None:
    image = np.random.default_rng(0).integers(90, 160, (20, 20, 3), np.uint8)
    brightness, contrast, saturation = np.random.default_rng(7).uniform(0.8, 1.2, 3)
    gray = (image @ np.array([0.299, 0.587, 0.114]))[:, :, None]
    step = saturation * image + (1 - saturation) * gray
    step = contrast * step + (1 - contrast) * gray.mean()
    ours = colour.jitter(image, 0.2, np.random.default_rng(7))
    np.testing.assert_allclose(ours, np.clip(brightness * step, 0, 255), atol=1.0)


def test_blur_is_a_gaussian_of_the_drawn_width() -> None:
    for seed in range(4):
        sigma = np.random.default_rng(seed).uniform(0, 2.0)
        distance = np.arange(-12, 13)
        kernel = np.exp(-(distance**2) / (2 * max(sigma, 0.1) ** 2))
        kernel /= kernel.sum()
        padded = np.pad(IMAGE.astype(float), ((12, 12), (12, 12), (0, 0)), "reflect")
        rows = sum(kernel[i] * padded[i : i + 20] for i in range(25))
        expected = sum(kernel[i] * rows[:, i : i + 24] for i in range(25))
        ours = colour.blur(IMAGE, 2.0, np.random.default_rng(seed))
        assert (ours.shape, ours.dtype) == (IMAGE.shape, np.uint8)
        np.testing.assert_allclose(ours, expected, atol=3.0)  # OpenCV cuts the kernel at three sigma, in 8 bits


def test_noise_has_the_drawn_deviation_and_no_mean() -> None:
    gray = np.full((200, 200, 3), 128, np.uint8)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        rng.standard_normal(gray.shape, np.float32)
        expected = rng.uniform(0, 20)
        added = colour.noise(gray, 20.0, np.random.default_rng(seed)).astype(float) - 128
        assert abs(added.mean()) < 0.3
        assert abs(added.std() - expected) < 0.05 * expected + 0.3
    assert colour.noise(np.full((9, 9, 3), 255, np.uint8), 20.0, np.random.default_rng(0)).max() == 255
