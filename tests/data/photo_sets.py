"""One small set of pictures, written in every way that people keep photographs and boxes."""

import json
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

CLASSES = ("bolt", "nut & washer", "螺丝")


@dataclass
class Picture:
    """boxes: (x1, y1, x2, y2, label) in whole pixels, continuous; hard: which of them are difficult, or crowd."""

    name: str
    size: tuple[int, int]
    boxes: list[tuple[int, int, int, int, int]]
    hard: tuple[int, ...] = ()


PARTS = {
    "train": [
        Picture("a b.jpg", (30, 40), [(1, 2, 11, 12, 0), (20, 3, 39, 29, 2)]),
        Picture("ünï.JPG", (25, 20), [(0, 0, 20, 25, 1)]),
        Picture("empty.png", (16, 16), []),
    ],
    "val": [Picture("v.jpeg", (40, 30), [(5, 6, 7, 40, 2), (0, 10, 30, 20, 0)])],
}


def save(folder: Path, picture: Picture) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    height, width = picture.size
    pixels = np.random.default_rng(height).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(folder / picture.name, "PNG" if picture.name.endswith("png") else "JPEG")


def coco_content(pictures: list[Picture], project: bool = False) -> dict:
    above = {"supercategory": "project"} if project else {}
    categories = [{"id": i + 1, "name": name, **above} for i, name in enumerate(CLASSES)]
    if project:
        categories.insert(0, {"id": 0, "name": "project", "supercategory": "none"})
    content: dict = {"images": [], "annotations": [], "categories": categories}
    for number, picture in enumerate(pictures):
        height, width = picture.size
        content["images"].append({"id": number, "file_name": picture.name, "height": height, "width": width})
        for i, (x1, y1, x2, y2, label) in enumerate(picture.boxes):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": int(i in picture.hard)}
            record = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": label + 1, **box}
            content["annotations"].append(record)
    return content


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def coco(root: Path, parts=PARTS, year: str = "") -> Path:
    for part, pictures in parts.items():
        for picture in pictures:
            save(root / f"{part}{year}", picture)
        write_json(root / "annotations" / f"instances_{part}{year}.json", coco_content(pictures))
    return root


def coco_2017(root: Path, parts=PARTS) -> Path:
    coco(root, parts, "2017")
    for other in ("captions", "person_keypoints"):
        for part, pictures in parts.items():
            write_json(root / "annotations" / f"{other}_{part}2017.json", coco_content(pictures))
    return root


def roboflow(root: Path, parts=PARTS) -> Path:
    for part, pictures in parts.items():
        folder = root / {"val": "valid"}.get(part, part)
        for picture in pictures:
            save(folder, picture)
        write_json(folder / "_annotations.coco.json", coco_content(pictures, project=True))
    (root / "README.roboflow.txt").write_text("of a project")
    return root


def yolo_label(path: Path, picture: Picture, end: str = "\n", head: str = "") -> None:
    height, width = picture.size
    lines = [
        f"{label} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} {(y2 - y1) / height}{end}"
        for x1, y1, x2, y2, label in picture.boxes
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((head + "".join(lines)).encode())


def yolo(root: Path, parts=PARTS, yaml: str | None = "") -> Path:
    """images/train, labels/train and so on. yaml: further lines of data.yaml; None: classes.txt in its place."""
    for part, pictures in parts.items():
        for number, picture in enumerate(pictures):
            save(root / "images" / part, picture)
            if picture.boxes or number % 2:  # a file that is missing or empty means the same
                label = (root / "labels" / part / picture.name).with_suffix(".txt")
                yolo_label(label, picture, *(("\r\n", "\ufeff") if number else ()))
    if yaml is None:
        (root / "classes.txt").write_text("".join(f"{name}\r\n" for name in CLASSES), encoding="utf-8-sig")
    else:
        names = "".join(f"  {i}: {json.dumps(name)}\n" for i, name in enumerate(CLASSES))
        text = f"{yaml}\ntrain: images/train\nval: images/val\nnc: {len(CLASSES)}\nnames:\n{names}"
        (root / "data.yaml").write_text(text, encoding="utf-8")
    return root


def voc_xml(path: Path, picture: Picture, size: bool = True) -> None:
    height, width = picture.size
    objects = "".join(
        f"<object><name>{escape(CLASSES[label])}</name><difficult>{int(i in picture.hard)}</difficult>"
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        f"<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for i, (x1, y1, x2, y2, label) in enumerate(picture.boxes)
    )
    shape = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>" if size else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"<annotation><filename>{picture.name}</filename>{shape}{objects}</annotation>"
    path.write_text(text, encoding="utf-8")


def voc(root: Path, parts=PARTS, lists: bool = True) -> Path:
    """As in VOC with lists; else the XML files beside the pictures of each part."""
    for part, pictures in parts.items():
        images, files = (root / "JPEGImages", root / "Annotations") if lists else (root / part, root / part)
        for picture in pictures:
            save(images, picture)
            voc_xml((files / picture.name).with_suffix(".xml"), picture)
        if lists:
            (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
            names = "".join(f"{Path(picture.name).stem}\n" for picture in pictures)
            (root / "ImageSets" / "Main" / f"{part}.txt").write_text(names, encoding="utf-8")
    return root
