"""What a checkpoint of another project says about its classes and about the pixels it was trained on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dyhead_jax.config import ModelConfig, ResNetConfig
from dyhead_jax.data import classes, coco_categories

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet, in the order of RGB


@dataclass(frozen=True)
class Pixels:
    """How pixels become input: mean and std in the order of RGB, and whether the network wants blue first."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool

    def options(self) -> str:
        """As options of train.py."""
        mean, std = (",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"--config.model.bgr={self.bgr} --config.model.pixel_mean={mean} --config.model.pixel_std={std}"

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{'BGR' if self.bgr else 'RGB'}, mean {mean}, std {std} (both in the order of RGB)"


def configured(model: ModelConfig) -> Pixels:
    """What a config says."""
    return Pixels(tuple(model.pixel_mean), tuple(model.pixel_std), model.bgr)


def pixels(
    arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], layout: str, model: ModelConfig
) -> tuple[Pixels | None, str]:
    """What the weights were trained on, and how that is known; (None, "") where it is not.

    Sources: the buffers pixel_mean and pixel_std that detectron2 saved before version 0.4; the config text in
    mmdetection's meta; for Caffe2's the kind of file (blue first; std 1, except for ResNeXt).
    """
    if {"pixel_mean", "pixel_std"} <= set(arrays):
        mean, std = (tuple(np.asarray(arrays[f"pixel_{k}"], float).ravel().tolist()) for k in ("mean", "std"))
        return _in_rgb(mean, std, bgr=mean[0] < mean[-1]), "its pixel_mean and pixel_std say so"
    text = next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), "")
    lists = {key: set(re.findall(rf"\b{key}=\[([-\d.,e\s]+)\]", text)) for key in ("mean", "std")}
    orders = set(re.findall(r"\b(?:bgr_to_rgb|to_rgb)=(True|False)", text))
    if all(len(values) == 1 for values in (*lists.values(), orders)):
        mean, std = (_numbers(lists[key].pop()) for key in ("mean", "std"))
        if len(mean) == len(std) == 3:
            return _in_rgb(mean, std, bgr=orders == {"False"}), "its mmdetection config says so"
    if layout == "resnet-caffe2":
        grouped = isinstance(model.backbone, ResNetConfig) and model.backbone.groups > 1
        return Pixels(MEAN, STD if grouped else (1.0, 1.0, 1.0), True), "Caffe2's weights were trained so"
    return None, ""


def same(a: Pixels, b: Pixels) -> bool:
    """Whether the two are equal up to the rounding in such files."""
    return a.bgr == b.bgr and np.allclose(a.mean, b.mean, atol=0.01) and np.allclose(a.std, b.std, atol=0.01)


def _in_rgb(mean: tuple[float, ...], std: tuple[float, ...], bgr: bool) -> Pixels:
    return Pixels(mean[::-1], std[::-1], True) if bgr else Pixels(mean, std, False)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        return ()


def class_names(meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The class names in the meta of mmdetection 2 or 3, by label, or None."""
    inner = meta.get("dataset_meta")
    places = (inner if isinstance(inner, dict) else {}, meta)
    for place in places:
        for key in ("classes", "CLASSES"):
            value = place.get(key)
            if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
                return tuple(value)
    return None


def categories(
    names: Sequence[str] | None,
    count: int,
    of_file: Sequence[tuple[str, int]] | None,
    *,
    by_number: bool = False,
    backbone: bool = False,
) -> tuple[tuple[str, ...], tuple[int, ...], str]:
    """(class names, category ids) by label for `count` classes, and where they come from.

    names: of the checkpoint. of_file: (name, id) pairs of a COCO file, which decides on the ids, and on the names where
    the checkpoint has none. by_number: take those of the file as they stand, whatever the checkpoint's names are.
    backbone: the weights know no classes, so that only the file can name them. Without a file, COCO's names and 80
    classes without names get COCO's names and ids.
    Raises ValueError when the file does not fit the number of classes, and ClassesError when it does not fit the
    checkpoint's names.
    """
    if backbone or (names is not None and len(names) != count):
        names = None
    if of_file is not None:
        if len(of_file) != count:
            raise ValueError(f"--categories has {len(of_file)} categories; config.model.num_classes is {count}")
        if names is None or by_number:
            return tuple(n for n, _ in of_file), tuple(i for _, i in of_file), "of --categories, in the order of ids"
        labels = classes.order(names, [name for name, _ in of_file], "the checkpoint")
        where = "of the checkpoint, ids of --categories"
        if labels != sorted(labels):
            where += ", which has them in another order: matched by name"
        return tuple(names), tuple(of_file[label][1] for label in labels), where
    if not backbone and count == 80 and (names is None or tuple(names) == coco_categories.NAMES):
        return coco_categories.NAMES, coco_categories.IDS, "COCO's"
    ids = tuple(range(1, count + 1))
    if names is not None:
        return tuple(names), ids, "of the checkpoint, ids counted from 1 (--categories gives others)"
    return classes.numbered(count), ids, "numbered from 1, for lack of names (--categories gives them)"
