"""COCO JSON as people keep it: COCO's own folders, Roboflow's, one file for all, or a file and a folder apart."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from dyhead_jax.data import coco_json
from dyhead_jax.data.annotations import Records
from dyhead_jax.data.images import open_file
from dyhead_jax.data.layouts import parts
from dyhead_jax.data.layouts.parts import Found, Layout, Tree
from dyhead_jax.data.source import DataError

KIND = "COCO JSON"
_OTHER_TASKS = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")  # beside COCO's instances
_ROBOFLOW = "_annotations.coco.json"


@dataclass(frozen=True, slots=True)
class CocoPart:
    """A part that a COCO JSON describes.

    path: the JSON; folders: where its images may be, in the order of looking; val_fraction: None when the JSON is of
    this part alone, else the fraction of its images that validate; validates: which of the two this is; project:
    Roboflow's category for the whole project, which has no boxes, None if there is none.
    """

    path: Path
    folders: tuple[Path, ...]
    val_fraction: float | None
    validates: bool
    project: int | None

    def read(self, limit: int, errors: list[str] | None = None) -> Found:
        """See `parts.Part.read`."""
        records = coco_json.records(self.path, errors)
        if self.project is not None:
            records = _without(records, self.project)
        images = records.images
        if self.val_fraction is not None:
            wanted = parts.held_out([image.file_name for image in images], self.val_fraction) == self.validates
            images = [images[row] for row in np.flatnonzero(wanted)]
        images = images[: limit or None]
        return Found(records, images, self._folder([image.file_name for image in images]))

    def _folder(self, names: Sequence[str]) -> Path:
        for folder in self.folders:
            if not names or (folder / names[0]).is_file():
                return folder
        raise DataError(
            f"{self.path}: its image {names[0]!r} is in none of {', '.join(map(str, self.folders))}; set"
            " config.data.source.images to the folder of the images"
        )


def candidates(tree: Tree) -> list[str]:
    """The COCO files of a tree, by what is in them or by a name that COCO or Roboflow gives."""
    names = tree.with_suffix(".json")
    names = [name for name in names if not PurePosixPath(name).name.lower().startswith(_OTHER_TASKS)]
    return [name for name in names if _has_name(name) or _is_coco(tree.root / name)]


def _has_name(name: str) -> bool:
    own = PurePosixPath(name).name
    return own == _ROBOFLOW or own.startswith("instances_")


def layout(
    root: Path,
    files: dict[str, Path],
    images: dict[str, str],
    val_fraction: float,
) -> Layout:
    """The layout of one file, to be divided, or of one each for "train" and "val".

    images: the folder of each part, relative to root; "" looks. Raises DataError.
    """
    chosen, notes = parts.choose(files)
    project, more = _project(list(chosen.values()))
    where = ", ".join(_shown(root, path) for path in chosen.values())
    if len(chosen) == 1:
        (path,) = chosen.values()
        folders = _folders(root, path, images["train"])
        found = {"train": CocoPart(path, folders, val_fraction, False, project)}
        if val_fraction:
            found["val"] = replace(found["train"], validates=True)
    else:
        found = {
            name: CocoPart(path, _folders(root, path, images[name] or images["train"]), None, name == "val", project)
            for name, path in chosen.items()
        }
    return Layout(KIND, where, found, notes + more)


def by_part(names: Sequence[str]) -> dict[str, str] | None:
    """The files of "train", "val" and "test", or of "train" if there is one only; None where names do not tell."""
    if len(names) == 1:
        return {"train": names[0]}
    instances = [name for name in names if PurePosixPath(name).name.startswith("instances_")]
    found: dict[str, str] = {}
    for name in instances or names:
        part = parts.of_file(name) or parts.of_folders(name)
        if part is None or part in found:
            return None
        found[part] = name
    return found if "train" in found else None


def _folders(root: Path, path: Path, images: str) -> tuple[Path, ...]:
    if images:
        return (root / images,)
    stem = path.stem.removeprefix("instances_")
    below = [stem, f"images/{stem}"]
    part = parts.of_file(path.name)
    if part:
        words = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}[part]
        below += [f"{folder}{word}" for word in words for folder in ("", "images/")]
    bases = [root, path.parent, path.parent.parent]
    folders = [path.parent, *(base / name for base in bases for name in below)]
    folders += [base / name for base in bases for name in ("images", "JPEGImages", "")]
    inside = [folder for folder in folders if folder.is_dir() and (root in folder.parents or folder == root)]
    return tuple(dict.fromkeys(inside)) or (path.parent,)


def _project(paths: Sequence[Path]) -> tuple[int | None, list[str]]:
    """Roboflow's category 0 and a note: named after the project, above all others, and without boxes in any part."""
    if any(path.name != _ROBOFLOW for path in paths):
        return None, []
    contents = [coco_json.read(path) for path in paths]
    records = [record for record in contents[0]["categories"] if isinstance(record, dict)]
    name = next((record.get("name") for record in records if record.get("id") == 0), None)
    above = any(record.get("supercategory") == name for record in records if record.get("id") != 0)
    boxes = (box for content in contents for box in content["annotations"])
    if name is None or not above or any(isinstance(box, dict) and box.get("category_id") == 0 for box in boxes):
        return None, []
    return 0, [f"category 0, {name!r}, left out: Roboflow's name for the project, without boxes"]


def _without(records: Records, category: int) -> Records:
    return replace(records, categories={key: name for key, name in records.categories.items() if key != category})


def _is_coco(path: Path) -> bool:
    """Whether a JSON has the three lists, by a search that takes a moment for half a gigabyte."""
    try:
        with open_file(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(key) >= 0 for key in (b'"images"', b'"annotations"', b'"categories"'))
    except (OSError, ValueError):  # unreadable, empty or a pipe
        return False


def _shown(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if root in path.parents else str(path)
