"""A model as the folder of plain files that the Hugging Face Hub keeps, which `dyhead_jax.load` opens.

config.json, model.safetensors    the model: see `evaluation.exported_folder`
preprocessor_config.json          how pictures are prepared, for people and other programs
README.md                         the model card
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from dyhead_jax.config import Config
from dyhead_jax.evaluation import exported_folder
from dyhead_jax.evaluation.trained_model import InferenceModel
from dyhead_jax.files import write_atomic
from dyhead_jax.weights import files

CARD = """\
---
library_name: dyhead_jax
pipeline_tag: object-detection
tags: [object-detection, dynamic-head, jax, flax]
---

# {detector} with Dynamic Head

Finds {count} kinds of objects: {names}.

    import dyhead_jax

    model = dyhead_jax.load("this folder")
    found = model("photo.jpg")      # found.boxes, found.scores, found.names, found.draw()

- {parameters:,} parameters in `model.safetensors`, trained for {steps:,} steps; their names are those of dyhead_jax.
- Pictures are resized to a short side of {short_side} pixels, at most {long_side}, and put on a canvas of {canvases}.
- `config.json` holds the whole experiment, without the folders of its data.

Data, licence and scores are for those who trained it to say.
"""


def write(folder: Path, loaded: InferenceModel) -> None:
    """Writes the four files into an empty folder. Raises WeightsFileError without the extra `safetensors`."""
    config = without_paths(loaded.config)
    arrays = exported_folder.flatten(loaded.variables)
    content = exported_folder.describe(config, loaded.class_names, loaded.category_ids, loaded.step)
    files.write(folder / exported_folder.WEIGHTS, arrays)
    write_atomic(folder / exported_folder.CONFIG, json.dumps(content, indent=2).encode())
    write_atomic(folder / "preprocessor_config.json", json.dumps(preprocessing(config), indent=2).encode())
    card = CARD.format(
        detector=content["architectures"][0],
        count=len(loaded.class_names),
        names=", ".join(loaded.class_names[:20]) + (", ..." if len(loaded.class_names) > 20 else ""),
        parameters=sum(int(np.prod(array.shape)) for array in arrays.values()),
        steps=loaded.step,
        short_side=max(config.data.short_side),
        long_side=config.data.long_side,
        canvases=" or ".join(f"{height} x {width}" for height, width in config.data.canvases),
    )
    write_atomic(folder / "README.md", card.encode())


def without_paths(config: Config) -> Config:
    """The config without what names folders and files of the machine that trained it."""
    changes = {"root": ""} if "root" in {field.name for field in dataclasses.fields(config.data.source)} else {}
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, pretrained=""),
        data=dataclasses.replace(config.data, root="", source=dataclasses.replace(config.data.source, **changes)),
        run=dataclasses.replace(config.run, compilation_cache=""),
    )


def preprocessing(config: Config) -> dict[str, object]:
    """preprocessor_config.json: sides in pixels, means and deviations of pixels from 0 to 1 (rescale_factor)."""
    return {
        "image_processor_type": "dyhead_jax",
        "do_resize": True,
        "size": {"shortest_edge": max(config.data.short_side), "longest_edge": config.data.long_side},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in config.model.pixel_mean],
        "image_std": [value / 255 for value in config.model.pixel_std],
        "channel_order": "BGR" if config.model.bgr else "RGB",
        "do_pad": True,
        "canvases": [list(canvas) for canvas in config.data.canvases],
    }
