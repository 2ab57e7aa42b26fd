"""data.yaml of Ultralytics: names of the classes and where the images of each part are."""

import re
import reprlib
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from dyhead_jax.data import images
from dyhead_jax.data.layouts import parts, yolo
from dyhead_jax.data.layouts.parts import Layout, Tree
from dyhead_jax.data.source import DataError


class _Loader(yaml.BaseLoader):
    """A loader without any constructors, safer than safe_load, which takes no key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key, count in Counter(keys).items() if count > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def candidates(tree: Tree) -> list[str]:
    """The files at the top of a tree that are such a data.yaml."""
    top = [name for name in tree.with_suffix(".yaml", ".yml") if "/" not in name]
    return [name for name in top if {"names", "train"} <= read(tree.root / name).keys()]


def read(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file, {} if it holds something else. Raises DataError when it is no YAML.

    All scalars stay text: a class may be called no or 1e3, and nothing but text, lists and mappings can come out.
    """
    text = "\n".join(yolo.read_lines(path))
    try:
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    return content if isinstance(content, dict) else {}


def layout(tree: Tree, path: Path, val_fraction: float) -> Layout:
    """The layout that a data.yaml describes.

    Paths in it are relative to its `path`, to its own folder or to the folder of the data set, and have to lead into
    the last. Raises DataError, which names the key at fault.
    """
    content = read(path)
    classes = _classes(path, content)
    notes: list[str] = []
    found: dict[str, list[str]] = {}
    for part in ("train", "val", "test"):
        entries = content.get(part) or []
        entries = [entries] if isinstance(entries, str) else entries
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise DataError(f"{path}: {part} is {_shown(entries)}; it must be a folder, a .txt or a list of them")
        if entries and (part != "test" or "val" not in found):
            names = [name for entry in entries for name in _images(tree, path, content, part, entry, notes)]
            found[part] = list(dict.fromkeys(names))
    if "train" not in found:
        raise DataError(f"{path} names no images to train on, under the key train")
    chosen, more = parts.choose(found)
    keypoints = "kpt_shape" in content
    if keypoints:
        notes.append("keypoints are not used")
    divided, even_more = parts.divide(chosen, val_fraction)
    made = {name: yolo.part(path, tree, own, classes, keypoints) for name, own in divided.items()}
    return Layout(
        yolo.KIND, path.name, made, list(dict.fromkeys(notes + more + even_more + yolo.unmatched(tree, made)))
    )


def _classes(path: Path, content: dict[str, Any]) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise DataError(f"{path}: names is {_shown(names)}; it must be a list of class names, or a mapping to them")
    if wrong := [key for key in names if not (isinstance(key, str) and re.fullmatch("[0-9]{1,9}", key))]:
        raise DataError(f"{path}: names has the key {_shown(wrong[0])}; keys are class numbers from 0")
    if content.get("nc", str(len(names))) != str(len(names)):
        raise DataError(f"{path}: nc is {content['nc']}, but there are {len(names)} names")
    numbers = sorted((int(key), name) for key, name in names.items())
    if len(dict(numbers)) < len(numbers):
        raise DataError(f"{path}: names has a class number twice")
    return dict(numbers)


def _shown(value: Any) -> str:
    """A value as an error shows it; by aliases a few lines may stand for more than can be printed."""
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxdict = 2, 4, 4
    return short.repr(value)[:60]


def _images(tree: Tree, path: Path, content: dict[str, Any], part: str, entry: str, notes: list[str]) -> list[str]:
    """The images of an entry, a folder or a list; adds a note when `path` of the file was not followed."""
    own, root = str(path.parent.absolute()), str(tree.root.absolute())
    base = content.get("path") or ""
    base = base if isinstance(base, str) else ""
    # Roboflow writes ../train/images, from a folder below; Ultralytics too drops the dots when nothing is there.
    entries = [entry, entry.removeprefix("../")]
    bases = [str(Path(own, base)), str(Path(root, base)), own, root]
    for number, folder in enumerate(bases):
        for option in entries:
            name = parts.below(tree.root, folder, option)
            if name is None:
                continue
            found = _images_at(tree, name, [root, *bases])
            if found is None:
                continue
            if base and number > 1:
                notes.append(f"path: {base} is not followed: the images are below the folder of {path.name}")
            return found
    raise DataError(
        f"{path}: {part}: {entry!r} has no images in {tree.root}; write it relative to the folder of {path.name}, or"
        " set config.data.root to a folder that holds the images and config.data.source.annotations to this file"
    )


def _images_at(tree: Tree, name: str, bases: list[str]) -> list[str] | None:
    if name in tree.names and PurePosixPath(name).suffix == ".txt":
        return yolo.listed(tree, name, bases)
    folder = "" if name == "." else f"{name}/"
    return [name for name in tree.with_suffix(*images.SUFFIXES) if name.startswith(folder)] or None
