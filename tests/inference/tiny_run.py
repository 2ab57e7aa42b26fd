"""The workdir of a detector of this package's own parts that finds things in noise, and compiles in seconds."""

from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from dyhead_jax import convert, detectors
from dyhead_jax.config import ATSSConfig, Config, DataConfig, DyHeadConfig, FPNConfig, ModelConfig, ResNetConfig
from dyhead_jax.evaluation.trained_model import InferenceModel
from dyhead_jax.training import steps
from tests.data.folders import data_config, write_split
from tests.variables import draw

NAMES, IDS = ("a", "b"), (3, 7)


def make_config(root: Path, **head: Any) -> Config:
    """Canvases of 32 x 48 and 48 x 32 pixels, evaluation in batches of four."""
    data: DataConfig = data_config(root)
    model = ModelConfig(
        num_classes=2,
        backbone=ResNetConfig(depth=18, width=4),
        neck=FPNConfig(features=8, start=1, levels=3),
        dyhead=DyHeadConfig(num_blocks=1, features=8, norm_groups=4),
        head=ATSSConfig(max_detections=20, nms_candidates=50, **head),
    )
    return Config(model=model, data=data)


@cache
def variables() -> Any:
    config = make_config(Path("none"))
    model = detectors.build(config.model)
    moved = draw(lambda: steps.init_variables(model, jax.random.key(0), (32, 48)))
    moved["batch_stats"] = jax.tree.map(np.abs, moved["batch_stats"])
    predictor = moved["params"]["class_predictor"]
    predictor["bias"] = np.zeros_like(predictor["bias"])
    predictor["kernel"] = np.random.default_rng(0).normal(0, 4, predictor["kernel"].shape).astype(np.float32)
    return moved


def write_workdir(folder: Path, data: Path, **head: Any) -> Path:
    convert.write_workdir(folder, make_config(data, **head), variables(), NAMES, IDS)
    return folder


def untrained(config: Config) -> InferenceModel:
    """Without variables."""
    model = detectors.build(config.model)
    return InferenceModel(config=config, model=model, variables={}, class_names=NAMES, category_ids=IDS, step=0)


def write_data(root: Path) -> Path:
    """A validation split of six pictures of several sizes, wide and tall, and a training split."""
    sizes = [(40, 60), (60, 40), (32, 48), (100, 90), (7, 48), (64, 96)]
    write_split(root, "val", sizes, [[[1, 1, 5, 5]]] * len(sizes))
    write_split(root, "train", sizes[:1], [[[1, 1, 5, 5]]])
    return root


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save_with_orientation(image: np.ndarray, path: Path, orientation: int) -> None:
    picture = Image.fromarray(image)
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif)
