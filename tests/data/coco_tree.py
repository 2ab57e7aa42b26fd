"""COCO 2017 in small, as it is published: folders and zips named as the originals."""

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.data.folders import SHARED

SPLITS = {"train": "train2017", "validation": "val2017"}


def drawn(root: Path, train: int = 23, validation: int = 7) -> Path:
    """Noise in JPEG with boxes that have fractions, a crowd, an image without boxes and ids that are not in order."""
    rng = np.random.default_rng(3)
    number = 1000
    for name, count in zip(SPLITS.values(), (train, validation), strict=True):
        (root / name).mkdir(parents=True)
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        content["categories"] = [{"id": 7, "name": "cat"}, {"id": 11, "name": "a dog"}, {"id": 90, "name": "pen"}]
        for image_id in rng.permutation(count).tolist():
            height, width = rng.integers(20, 70, 2).tolist()
            file_name = f"{image_id:012d}.jpg"
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(buffer, "JPEG")
            (root / name / file_name).write_bytes(buffer.getvalue())
            image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
            content["images"].append(image)
            for k in range(image_id % 4):
                x, y = (rng.random(2) * [width, height] * 0.5).round(2).tolist()
                w, h = (rng.random(2) * [width, height] * 0.4 + 1).round(2).tolist()
                number += 1
                content["annotations"].append(
                    {
                        "id": number * 3,
                        "image_id": image_id,
                        "category_id": (7, 90, 11)[number % 3],
                        "bbox": [x, y, w, h],
                        "area": round(w * h * 0.61, 4),
                        "iscrowd": int(k == 2),
                        "segmentation": [[x, y, x + w, y, x, y + h]],
                    }
                )
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
    return root


def mini(root: Path) -> Path | None:
    """The shared photographs under COCO's names, or None where they are absent."""
    source = SHARED / "coco_mini"
    if not source.is_dir():
        return None
    (root / "annotations").mkdir(parents=True)
    for own, name in (("train", "train2017"), ("val", "val2017")):
        (root / name).symlink_to(source / own)
        shutil.copyfile(
            source / "annotations" / f"instances_{own}.json", root / "annotations" / f"instances_{name}.json"
        )
    return root


def zipped(tree: Path, root: Path) -> Path:
    """The same as the three zips of the release."""
    root.mkdir()
    for name in SPLITS.values():
        with zipfile.ZipFile(root / f"{name}.zip", "w") as archive:
            for path in sorted((tree / name).iterdir()):
                archive.write(path, f"{name}/{path.name}")
    with zipfile.ZipFile(root / "annotations_trainval2017.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((tree / "annotations").iterdir()):
            archive.write(path, f"annotations/{path.name}")
    return root


def truth(tree: Path, split: str) -> dict[str, Any]:
    """The JSON of a split."""
    return json.loads((tree / "annotations" / f"instances_{SPLITS[split]}.json").read_text())
