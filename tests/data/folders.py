"""Small COCO folders for the tests, and where the shared data is."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dyhead_jax.config import CocoFolderConfig, DataConfig

_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
_FOLDERS = [Path(os.environ.get("DYHEAD_GOLDENS", _BESIDE)).absolute().parent / "data", _BESIDE]
# beside the golden files that the environment names, or beside the repository
SHARED = next((folder for folder in _FOLDERS if (folder / "coco_eval").is_dir()), _BESIDE)


def shared(name: str) -> Path:
    """A folder of the shared data; skips the test where it is absent."""
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"{path} is absent")
    return path


def write_split(root: Path, name: str, sizes: list[tuple[int, int]], boxes: list[list[list[float]]]) -> dict:
    """Noise images (h, w) of the given sizes with x, y, w, h boxes; category ids 7 and 3 in turns."""
    rng = np.random.default_rng(len(name))
    (root / name).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    content: dict = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}]}
    for row, ((height, width), own) in enumerate(zip(sizes, boxes, strict=True)):
        file_name = f"{row}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(root / name / file_name)
        content["images"].append({"id": 100 + row, "file_name": file_name, "height": height, "width": width})
        for box in own:
            number = len(content["annotations"])
            content["annotations"].append(
                {
                    "id": number + 1,
                    "image_id": 100 + row,
                    "category_id": (7, 3)[number % 2],
                    "bbox": box,
                    "area": 0.5 * box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    rewrite(root, name, content)
    return content


def rewrite(root: Path, name: str, content: dict) -> None:
    (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))


def data_config(root: Path, **fields: object) -> DataConfig:
    """Canvases of 32 x 48 and 48 x 32 pixels, batches of four."""
    values: dict = {
        "source": CocoFolderConfig(root=str(root)),
        "canvases": ((32, 48), (48, 32)),
        "short_side": (32,),
        "long_side": 48,
        "batch_size": 4,
        "eval_batch_size": 4,
        "max_boxes": 5,
        **fields,
    }
    return DataConfig(**values)
