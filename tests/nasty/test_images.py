"""Every image of the set becomes RGB pixels or an error with its name, alone and through the loader."""

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest

from dyhead_jax.config import CocoFolderConfig
from dyhead_jax.data import images, pipeline
from dyhead_jax.data.source import NO_IMAGE, DataError, make_source
from tests.data.folders import data_config, rewrite
from tests.nasty.cases import EITHER, FOLDER, IMAGES, there

ALIKE = ("trailing_garbage.jpg", "progressive.jpg", "rgb16.png", "cmyk.jpg", "palette.png")


def test_every_image_is_expected_here() -> None:
    assert {path.name for path in there("images")} <= set(IMAGES)


@pytest.mark.parametrize("path", there("images"), ids=lambda path: path.name)
def test_image(path: Path) -> None:
    encoded, reaction = path.read_bytes(), IMAGES[path.name]
    if reaction is not None and path.name not in EITHER:
        with pytest.raises(DataError, match=f"^{re.escape(str(path))}: .*({reaction})"):
            images.decode(encoded, str(path))
        return
    with contextlib.suppress(*([DataError] if path.name in EITHER else [])):
        decoded = images.decode(encoded, str(path))
        assert (decoded.dtype, decoded.ndim, decoded.shape[2]) == (np.uint8, 3, 3)
        with path.open("rb") as file:
            assert images.header(file, str(path)).size == decoded.shape[:2]


@pytest.mark.parametrize("name", [name for name in ALIKE if (FOLDER / "images" / name).is_file()])
def test_kinds_of_the_same_scene_look_alike(name: str) -> None:
    path, plain = FOLDER / "images" / name, FOLDER / "images" / "ok_rgb.jpg"
    decoded, expected = (images.decode(own.read_bytes(), own.name).astype(int) for own in (path, plain))
    assert np.abs(decoded - expected).mean() < 8


def test_all_that_decode_load_together(tmp_path: Path) -> None:
    names = [path.name for path in there("images") if IMAGES[path.name] is None]
    records = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    content = {"images": records, "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "annotations").mkdir()
    rewrite(tmp_path, "val", content)
    source = CocoFolderConfig(root=str(tmp_path), val_images=str(FOLDER / "images"))
    config = data_config(tmp_path, source=source)
    loaded = list(pipeline.eval_batches(make_source(config, "unused").split("val"), config))
    assert sorted(i for batch in loaded for i in batch.image_ids if i != NO_IMAGE) == list(range(len(names)))
    assert all(np.asarray(batch.batch.ground_truth.sizes).min() >= 1 for batch in loaded)
