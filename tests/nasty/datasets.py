"""Nasty folders of photographs: COCO JSON, Roboflow, YOLO and Pascal VOC, changed in their annotations, their files or
their pictures; and what `data check` and a training make of them.

`data check` must account for every annotation and every picture of the folder, and agree with the training, which reads
the same to its first batch and then every picture.
"""

import io
import json
import os
import random
import re
import shutil
import unicodedata
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

from dyhead_jax import train
from dyhead_jax.command import one_line
from dyhead_jax.config import Config, DataConfig, PhotosConfig
from dyhead_jax.data import __main__ as data
from dyhead_jax.data import pipeline
from dyhead_jax.data.images import SUFFIXES
from dyhead_jax.data.source import make_source
from tests.data import photo_sets
from tests.nasty import harness, mutations, photographs
from tests.nasty.photographs import NAMES

LAYOUTS: dict[str, list[Callable[[Path], object]]] = {
    "coco": [photo_sets.coco, photo_sets.coco_2017, photo_sets.roboflow],
    "yolo": [photo_sets.yolo, lambda root: photo_sets.yolo(root, yaml=None)],
    "voc": [photo_sets.voc, lambda root: photo_sets.voc(root, lists=False)],
}
ANNOTATIONS = (".json", ".xml", ".txt", ".yaml")
_KEPT = re.compile(r"^(?:train|val): (\d+) images, (\d+) boxes to train on, (\d+) crowd regions$", re.MULTILINE)
_LEFT = re.compile(r"^  (\d+) boxes (?:without width or height|wholly outside)", re.MULTILINE)
# reasons for which a set that `data check` finds right cannot be trained on
_ONLY_TRAINING = ("no image with a box", "no validation part", "different categories", "classes, and", "need a value")


def case(kind: str, folder: Path, rng: random.Random, bases: Path) -> tuple[list[str], str | None]:
    """Makes a nasty set of a kind in `folder`; returns what is nasty in it, and what is wrong with the reaction."""
    number = rng.randrange(len(LAYOUTS[kind]))
    base = bases / f"{kind}{number}"
    if not base.is_dir():
        LAYOUTS[kind][number](base)
    root = folder / "set"
    shutil.copytree(base, root, symlinks=True)
    words = [change(root, rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    return words, fault(kind, root, folder, rng)


def change(root: Path, rng: random.Random) -> str:
    """Changes one file of a set."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
    notes = [path for path in files if path.suffix in ANNOTATIONS]
    others = [path for path in files if path.suffix not in ANNOTATIONS]
    if not notes or not others:
        return "nothing left to change"
    if rng.random() < 0.15:
        path = rng.choice(others)
        return f"{path.name}: {photographs.change(path, rng)}"
    if rng.random() < 0.12:
        return change_name(rng.choice(files), root, rng)
    path = rng.choice(notes)
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.85:
        try:
            tree, said = mutations.tree(json.loads(content), rng)
        except (ValueError, RecursionError):
            changed, said = mutations.data(content, rng)
        else:
            changed = mutations.to_text(tree)
    elif path.suffix == ".xml" and rng.random() < 0.4:
        changed, said = change_xml(content, rng)
    elif path.suffix != ".json" and rng.random() < 0.8:
        changed, said = mutations.text(content, rng)
    else:
        changed, said = mutations.data(content, rng)
    path.write_bytes(changed)
    return f"{path.relative_to(root)}: {said}"


def change_name(path: Path, root: Path, rng: random.Random) -> str:
    """Removes a file, gives it another name, or puts something else in its place."""
    kind = rng.choice(("remove", "upper", "odd", "odd", "folder", "pipe", "loop", "gone", "outside", "empty", "copy"))
    if kind in ("upper", "odd"):
        odd = os.fsdecode(rng.choice(NAMES))
        name = path.stem + path.suffix.upper() if kind == "upper" else odd + path.suffix
        path.rename(path.with_name(name))
    elif kind == "copy":
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "outside":
        outside = root.parent / f"outside{path.suffix}"
        path.rename(outside)
        path.symlink_to(outside)
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind in ("loop", "gone"):
            path.symlink_to(path.name if kind == "loop" else "nowhere")
    return f"{kind} {path.name}"


def change_xml(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """An XML with an element dropped, doubled, renamed, moved or nested otherwise, or with another head."""
    kind = rng.choice(("drop", "double", "rename", "nest", "move", "head", "deep", "space"))
    if kind == "head":
        head = rng.choice(
            (
                '<?xml version="1.0" encoding="nonsense"?>',
                '<?xml version="1.0" encoding="utf-16"?>',
                '<?xml version="1.0" encoding="shift_jis"?>',
                '<?xml version="1.0" encoding="utf-7"?>',
                '<?xml version="2.0"?>',
                '<!DOCTYPE a [<!ENTITY e "&#65;">]>',
                "<?php echo 1 ?>",
                "\ufeff",
                " " * 3000,
            )
        )
        return head.encode() + content, f"begins with {head[:50]!r}"
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError):
        return mutations.data(content, rng)
    pairs = [(parent, child) for parent in root.iter() for child in parent]
    if not pairs:
        return mutations.data(content, rng)
    tags = sorted({child.tag for _, child in pairs})
    tag = rng.choice(tags)
    parent, child = rng.choice([pair for pair in pairs if pair[1].tag == tag])
    place = list(parent).index(child)
    if kind in ("drop", "move"):
        parent.remove(child)
        if kind == "move":
            rng.choice([root, *[other for _, other in pairs if other not in child.iter()]]).append(child)
    elif kind == "double":
        parent.insert(place, child)
    elif kind == "rename":
        child.tag = rng.choice((child.tag.upper(), f"{child.tag}s", "{urn:x}" + child.tag, rng.choice(tags)))
    elif kind == "space":
        child.text = rng.choice((f"\n  {child.text}\n", f"{child.text}\u00a0", None, mutations.odd_text(rng)))
    else:
        inner = child
        for _ in range(1 if kind == "nest" else 20_000):
            wrapped = ElementTree.Element(rng.choice(("group", tag)) if kind == "nest" else "a")
            wrapped.append(inner)
            inner = wrapped
        parent[place] = inner
    try:
        return ElementTree.tostring(root, encoding="utf-8"), f"{kind} <{tag}>"
    except (RecursionError, ValueError, UnicodeError):
        return b"<annotation>" + b"<a>" * 20_000 + b"</a>" * 20_000 + b"</annotation>", "deep"


def fault(kind: str, root: Path, folder: Path, rng: random.Random) -> str | None:
    """What is wrong with what `data check` and a training make of a set."""
    work, out = folder / "here", folder / "out"
    work.mkdir()
    options = ["--config.data.source.val_fraction=0.5"]
    names = [str(root), root.name, *(path.name for path in root.rglob("*"))]
    drawn = ["--out", out] if rng.random() < 0.3 else []
    checked = harness.run(data._main, "check", root, *drawn, *options, folder=work, allowed=[out])
    if found := checked.fault(names):
        return f"data check: {found}"
    trained = harness.run(lambda: first_batch(root, folder), folder=work, allowed=[folder / "run"])
    if found := trained.fault([*names, "config.model.num_classes", *_ONLY_TRAINING]):
        return f"training: {found}"
    if trained.code == 0 and checked.code:
        return f"data check finds {checked.err[:300]!r}, but a training does not stop"
    if checked.code == 0 and trained.code and not any(text in trained.err for text in _ONLY_TRAINING):
        return f"data check finds nothing, but a training stops: {trained.err[:300]!r}"
    return not_counted(kind, root, checked.out) if checked.code == 0 else None


def not_counted(kind: str, root: Path, out: str) -> str | None:
    """What `data check` neither takes nor counts as left out."""
    kept = [tuple(map(int, found)) for found in _KEPT.findall(out)]
    images = sum(part[0] for part in kept)
    boxes = sum(part[1] + part[2] for part in kept) + sum(map(int, _LEFT.findall(out)))
    given = {"coco": coco_given, "yolo": yolo_given, "voc": voc_given}[kind](root, out)
    if isinstance(given, str):
        return f"{given}\n{out}"
    if (images, boxes) != given:
        return f"{given[0]} images and {given[1]} boxes were given, {images} and {boxes} are accounted for\n{out}"
    return None


def coco_given(root: Path, out: str) -> tuple[int, int] | str:
    """Images and boxes of the JSON files that are not named as left out; those of no file that is not read."""
    images = boxes = 0
    for path in sorted(root.rglob("*.[jJ][sS][oO][nN]")):
        if path.name.startswith(".") or _is_unread("JSON", path.relative_to(root), out):
            continue
        if not path.is_file():
            if path.name.startswith(("captions", "person_keypoints")):  # of other tasks
                continue
            return f"{path.name} is no file, and nothing says so"
        try:
            content = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=_pairs)
            images += len(content["images"])
            boxes += len(content["annotations"])
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            return f"{path.name} cannot be read ({str(error)[:99]}), and nothing says so"
    return images, boxes


def _is_unread(kind: str, name: Path, out: str) -> bool:
    """Whether `data check` says that it does not read a file."""
    named = [line.split(", ") for line in re.findall(rf"{kind} files that are not read: (.*)", out)]
    return any(one_line(name.as_posix()) in names for names in named)


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object in which lists of the same key follow each other."""
    result: dict[str, object] = {}
    for key, value in pairs:
        before = result.get(key)
        result[key] = [*before, *value] if isinstance(before, list) and isinstance(value, list) else value
    return result


def yolo_given(root: Path, out: str) -> tuple[int, int] | str:
    pictures = [path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    pictures = [path for path in pictures if not path.is_dir()]
    stems = {(path.parent.name, path.stem) for path in pictures}
    boxes = 0
    for path in root.joinpath("labels").rglob("*.txt"):
        if (path.parent.name, path.stem) in stems and path.is_file() and not path.name.startswith("."):
            lines = re.split("\r\n|\r|\n", path.read_bytes().decode("utf-8-sig"))
            boxes += sum(bool(line.strip()) for line in lines)
    return len(pictures) - _said(r"(\d+) images in folders without any label", out), boxes


def voc_given(root: Path, out: str) -> tuple[int, int] | str:
    boxes = images = 0
    for path in root.rglob("*"):
        if _is_unread("XML", path.relative_to(root), out):
            continue
        if path.suffix.lower() == ".xml" and path.is_file() and not path.name.startswith("."):
            images += 1
            try:
                boxes += sum(
                    element.tag == "object" for _, element in ElementTree.iterparse(io.BytesIO(path.read_bytes()))
                )
            except (ElementTree.ParseError, ValueError, LookupError) as error:
                if not _said(r"(\d+) XML files are in no list", out):
                    return f"{path.name} cannot be read ({error}), and nothing says so"
    unlisted = _said(r"(\d+) XML files are in no list", out)
    if unlisted:  # which ones is not said
        kept = [tuple(map(int, found)) for found in _KEPT.findall(out)]
        boxes = sum(part[1] + part[2] for part in kept) + sum(map(int, _LEFT.findall(out)))
    return images - unlisted, boxes


def _said(pattern: str, out: str) -> int:
    found = re.search(pattern, unicodedata.normalize("NFC", out))
    return int(found[1]) if found else 0


def first_batch(root: Path, folder: Path) -> None:
    """Opens the data as a training does, loads the first batch, then every picture and the ground truth."""
    config = Config(
        data=DataConfig(
            source=PhotosConfig(root=str(root), val_fraction=0.5),
            canvases=((32, 48), (48, 32)),
            short_side=(32,),
            long_side=48,
            batch_size=2,
            eval_batch_size=2,
            max_boxes=5,
            min_box_side=0.0,
        )
    )
    config.model.num_classes = len(make_source(config.data, folder / "run").split("train").class_names)
    parts = train.open_data(config, folder / "run")
    with closing(pipeline.train_batches(parts[0], config.data, 0)) as batches:
        next(batches)
    for part in parts:
        for row in range(len(part)):
            part[row]
        part.coco()
