"""Looks at a folder and says how its boxes are kept; never guesses between two answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dyhead_jax.data import images
from dyhead_jax.data.layouts import coco, parts, voc, yolo, yolo_yaml
from dyhead_jax.data.layouts.parts import Layout, Tree
from dyhead_jax.data.source import DataError

_LISTS = ("train", "val", "valid", "validation", "test")


@dataclass(frozen=True, slots=True)
class Options:
    """What the user says in the place of looking; "" looks. The fields are those of `config.PhotosConfig`."""

    annotations: str
    images: str
    val_annotations: str
    val_images: str
    val_fraction: float
    class_names: tuple[str, ...]


def find(root: Path, options: Options) -> Layout:
    """The layout of the data set in `root`. Raises DataError, which lists what there is and the option to set."""
    if options.annotations:
        return _given(root, options)
    tree = parts.walk(root)
    while (found := _found(tree, options)) is None:
        folders = {PurePosixPath(name).parts[0] for name in tree.names if "/" in name}
        if len(folders) != 1 or any("/" not in name for name in tree.with_suffix(*images.SUFFIXES)):
            count = len(parts.walk(root).with_suffix(*images.SUFFIXES))
            raise DataError(
                f"{root} has {count} images but no COCO JSON, YOLO or Pascal VOC labels of them; set"
                " config.data.source.annotations to where the boxes are"
            )
        tree = parts.walk(tree.root / folders.pop())  # a zip unpacked into a folder of its own
    return found


def _found(tree: Tree, options: Options) -> Layout | None:
    files = {
        coco.KIND: coco.candidates(tree),
        "data.yaml": yolo_yaml.candidates(tree),
        voc.KIND: voc.candidates(tree),
    }
    if not files["data.yaml"]:
        files[yolo.KIND] = yolo.labelled(tree)
    there = {kind: names for kind, names in files.items() if names}
    if len(there) > 1:
        listed = ", ".join(f"{kind} ({names[0]})" for kind, names in there.items())
        raise DataError(f"{tree.root} has boxes of several kinds: {listed}; set config.data.source.annotations to one")
    if files[coco.KIND]:
        return _coco(tree, files[coco.KIND], options)
    if files["data.yaml"]:
        first, *others = files["data.yaml"]
        if others:
            raise DataError(f"{tree.root} has {first} and {others[0]}; set config.data.source.annotations to one")
        return yolo_yaml.layout(tree, tree.root / first, options.val_fraction)
    if files[voc.KIND]:
        return voc.layout(tree, files[voc.KIND], options.val_fraction, _image_tree(tree.root, options))
    if files[yolo.KIND]:
        return _yolo(tree, options)
    return None


def _given(root: Path, options: Options) -> Layout:
    """The layout of the annotations that the user names, a file or a folder."""
    path = root / options.annotations
    suffix = path.suffix.lower()
    if suffix == ".json":
        files = {"train": path}
        if options.val_annotations:
            files["val"] = root / options.val_annotations
        return coco.layout(root, files, _folders(options), options.val_fraction)
    if suffix in (".yaml", ".yml"):
        return yolo_yaml.layout(parts.walk(root), path, options.val_fraction)
    if not path.is_dir():
        raise DataError(f"{path} (config.data.source.annotations) is no folder, COCO .json or YOLO data.yaml")
    tree = parts.walk(path)
    if tree.with_suffix(".xml"):
        place = parts.below(root, "", options.annotations)
        if place is None:
            return voc.layout(tree, tree.with_suffix(".xml"), options.val_fraction, _image_tree(root, options))
        whole, folder = parts.walk(root), "" if place == "." else f"{place}/"  # with the lists beside the folder
        files = [name for name in whole.with_suffix(".xml") if name.startswith(folder)]
        return voc.layout(whole, files, options.val_fraction, _image_tree(root, options))
    if tree.with_suffix(".txt"):
        return _yolo_apart(root, tree, options)
    raise DataError(f"{path} (config.data.source.annotations) has no Pascal VOC .xml and no YOLO .txt")


def _coco(tree: Tree, names: Sequence[str], options: Options) -> Layout:
    found = coco.by_part(names)
    if found is None:
        raise DataError(
            f"{tree.root} has {len(names)} COCO files whose names do not tell training from validation:"
            f" {', '.join(names[:6])}; set config.data.source.annotations and val_annotations to two of them, or"
            " annotations to one"
        )
    files = {name: tree.root / file for name, file in found.items()}
    layout = coco.layout(tree.root, files, _folders(options), options.val_fraction)
    layout.notes += parts.unread("JSON", set(tree.with_suffix(".json")).difference(found.values()))
    return layout


def _yolo(tree: Tree, options: Options) -> Layout:
    """YOLO labels without a data.yaml: parts by lists or by the names of folders."""
    classes, where = yolo.class_names(tree, options.class_names)
    notes: list[str] = []
    lists = {parts.of_file(name): name for name in tree.names if name.removesuffix(".txt") in _LISTS and ".txt" in name}
    if "train" in lists:
        found = {str(part): yolo.listed(tree, name) for part, name in lists.items()}
    else:
        names, folders = tree.with_suffix(*images.SUFFIXES), {_folder(name) for name in yolo.labelled(tree)}
        used = [name for name in names if _folder(name) in folders]  # not pictures of other things beside them
        if not used:
            raise DataError(f"{tree.root} has no image with a YOLO label; set config.data.source.images")
        if len(used) < len(names):
            notes.append(f"{len(names) - len(used)} images in folders without any label are not used")
        found = parts.by_folders(used, tree.root)
    chosen, more = parts.choose(found)
    divided, even_more = parts.divide(chosen, options.val_fraction)
    made = {name: yolo.part(tree.root, tree, own, classes) for name, own in divided.items()}
    return Layout(yolo.KIND, where, made, notes + more + even_more + yolo.unmatched(tree, made))


def _yolo_apart(root: Path, labels: Tree, options: Options) -> Layout:
    """YOLO labels in a folder of their own, with the names of the images but for the ending; where the folder of the
    images is not given, they are looked for in `root`."""
    pictures = _image_tree(root, options)
    if pictures is None:
        return _yolo(parts.walk(root), options)
    classes, where = yolo.class_names(labels, options.class_names)
    names = pictures.with_suffix(*images.SUFFIXES)
    if not names:
        raise DataError(f"{pictures.root} (config.data.source.images) has no images")
    there = set(labels.names)
    chosen, notes = parts.choose(parts.by_folders(names, pictures.root))
    divided, more = parts.divide(chosen, options.val_fraction)
    made = {}
    for part, own in divided.items():
        wanted = [PurePosixPath(name).with_suffix(".txt").as_posix() for name in own]
        files = tuple(labels.root / name if name in there else None for name in wanted)
        made[part] = yolo.YoloPart(labels.root, pictures.root, tuple(own), files, classes)
    return Layout(yolo.KIND, where, made, notes + more + yolo.unmatched(labels, made))


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.as_posix()


def _image_tree(root: Path, options: Options) -> Tree | None:
    return parts.walk(root / options.images) if options.images else None


def _folders(options: Options) -> dict[str, str]:
    return {"train": options.images, "val": options.val_images}
