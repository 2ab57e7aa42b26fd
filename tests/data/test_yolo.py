"""YOLO labels: what people's folders look like, and one clear line for each fault."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dyhead_jax.data.source import DataError
from tests.data import photo_sets
from tests.data.photo_sets import CLASSES, PARTS, Picture
from tests.data.test_photos import by_name, opened

ONE = {"train": [Picture("a.png", (20, 40), [(4, 2, 20, 12, 1)])], "val": [Picture("b.png", (20, 40), [])]}
# each anchor is two of the one before: as text it would fill terabytes
ALIASES = "names: [&a0 [x, x], " + ", ".join(f"&a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)) + "]"


def names(root: Path, part: str = "train", **options: object) -> set[str]:
    return set(by_name(opened(root, part, **options)))


def test_polygons_become_boxes_and_are_counted(tmp_path: Path) -> None:
    photo_sets.yolo(tmp_path, ONE)
    (tmp_path / "labels/train/a.txt").write_text("2 0.1 0.2 0.5 0.9 0.25 0.1\n\n0 .5 .5 .5 .5\n")
    split = opened(tmp_path)
    np.testing.assert_allclose(split[0].boxes, [[4, 2, 20, 18], [10, 5, 30, 15]], atol=1e-5)
    assert split[0].labels.tolist() == [2, 0]
    assert "1 polygons became their boxes" in split.notes


def test_keypoints_are_left_out_and_said(tmp_path: Path) -> None:
    photo_sets.yolo(tmp_path, ONE, yaml="kpt_shape: [2, 3]")
    (tmp_path / "labels/train/a.txt").write_text("0 .5 .5 .5 .5 .1 .1 2 .2 .2 2\n")
    split = opened(tmp_path)
    np.testing.assert_allclose(split[0].boxes, [[10, 5, 30, 15]], atol=1e-5)
    assert "keypoints are not used" in split.notes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", "has 4 values"),
        ("0 0.5 0.5 0.1 0.1 0.9", "has 6 values"),
        ("0 0.5 0.5 0.1 x", "is not all numbers"),
        ("bolt 0.5 0.5 0.1 0.1", "is not all numbers"),
        ("3 0.5 0.5 0.1 0.1", "there is no class 3, but 3, numbered 0 to 2"),
        ("-1 0.5 0.5 0.1 0.1", "there is no class -1"),
        ("0.5 0.5 0.5 0.1 0.1", "there is no class 0.5"),
        ("nan 0.5 0.5 0.1 0.1", "there is no class nan"),
        ("0 20 10 4 4", "is not in fractions of the image"),
        ("0 nan 0.5 0.1 0.1", "is not in fractions"),
        ("0 inf 0.5 0.1 0.1", "is not in fractions"),
    ],
)
def test_a_faulty_line_is_named_by_file_and_line(line: str, message: str, tmp_path: Path) -> None:
    photo_sets.yolo(tmp_path, ONE)
    (tmp_path / "labels/train/a.txt").write_text(f"\ufeff0 .5 .5 .5 .5\r\n{line}\r\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"labels/train/a.txt, line 2.* {message}"):
        opened(tmp_path)


def test_odd_boxes_are_counted_as_in_coco(tmp_path: Path) -> None:
    photo_sets.yolo(tmp_path, ONE)
    lines = "0 .5 .5 0 .5\n1 1.3 .5 .2 .2\n2 .9 .5 .4 .5\n0 .5 .5 .2 .2\n"
    (tmp_path / "labels/train/a.txt").write_text(lines)
    split = opened(tmp_path)
    assert split[0].labels.tolist() == [2, 0]
    assert split[0].boxes[0, 2] == 40
    notes = " ".join(split.notes)
    for text in ("1 boxes without width", "1 boxes wholly outside", "1 boxes that reach more than a pixel"):
        assert text in notes
    assert len(split.coco()["annotations"]) == 4


def test_text_that_is_no_text(tmp_path: Path) -> None:
    photo_sets.yolo(tmp_path, ONE)
    (tmp_path / "labels/train/a.txt").write_bytes(b"\xff\xfe0\x00")
    with pytest.raises(DataError, match=r"a.txt is not UTF-8 text"):
        opened(tmp_path)


def test_images_without_label_files_are_counted(tmp_path: Path) -> None:
    photo_sets.yolo(tmp_path)
    (tmp_path / "labels/train/a b.txt").unlink()
    assert "2 images have no label file: taken as images without boxes" in opened(tmp_path).notes
    shutil.rmtree(tmp_path / "labels/train")
    with pytest.raises(DataError, match=r"not one of 3 images has a label file, such as .*labels/train/a b.txt"):
        opened(tmp_path)


@pytest.mark.parametrize("base", ["path: .", "path: ''", "path:", "path: mine", "path: /content/elsewhere"])
def test_path_of_data_yaml(base: str, tmp_path: Path) -> None:
    root = photo_sets.yolo(tmp_path / "mine", yaml=base)
    split = opened(root)
    assert len(split) == 3
    said = "path: /content/elsewhere is not followed: the images are below the folder of data.yaml" in split.notes
    assert said == ("content" in base)


@pytest.mark.parametrize(
    ("entries", "there"),
    [
        ("train: images/train\nval: images/val", True),
        ("train: [images/train]\nval: images/val", True),
        ("train: ../images/train\nval: ../images/val", True),  # Roboflow
        ("train: ROOT/images/train\nval: ROOT/images/val", True),
        ("train: list.txt\nval: ./images/val", True),
        ("train: images\nval: images/val", True),
        ("train: ../outside\nval: images/val", False),
        ("train: /\nval: images/val", False),
        ("train: ..\nval: images/val", False),
        ("train: images/nothing\nval: images/val", False),
    ],
)
def test_entries_of_data_yaml(entries: str, there: bool, tmp_path: Path) -> None:
    root = photo_sets.yolo(tmp_path / "set")
    shutil.copytree(root / "images" / "train", tmp_path / "outside")
    lines = ["./images/train/a b.jpg", f"{root}/images/train/ünï.JPG", "images/train/empty.png", ""]
    (root / "list.txt").write_text("\r\n".join(lines), encoding="utf-8-sig")
    (root / "data.yaml").write_text(entries.replace("ROOT", str(root)) + "\nnames: [a, b, c]\n")
    if there:
        assert {"a b.jpg", "ünï.JPG", "empty.png"} <= names(root)
        assert ("v.jpeg" in names(root)) == ("train: images\n" in entries)
    else:
        with pytest.raises(DataError, match=r"data.yaml: train: .* has no images in .*; write it relative"):
            opened(root)


@pytest.mark.parametrize("line", ["../secret.png", "/etc/passwd", "images/train/none.png"])
def test_a_list_does_not_lead_out(line: str, tmp_path: Path) -> None:
    root = photo_sets.yolo(tmp_path / "set")
    photo_sets.save(tmp_path, Picture("secret.png", (4, 4), []))
    (root / "list.txt").write_text(f"images/train/empty.png\n{line}\n")
    (root / "data.yaml").write_text("train: list.txt\nval: images/val\nnames: [a, b, c]")
    with pytest.raises(DataError, match=r"list.txt, line 2: .* is not an image in .*set config.data.root"):
        opened(root)


def test_images_of_both_parts_are_counted(tmp_path: Path) -> None:
    photo_sets.yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images\nval: images/val\nnames: [a, b, c]")
    assert "1 images are both to train on and to validate with" in opened(tmp_path).notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names: {0: a, x: b}", "names has the key 'x'"),
        ("names: {0: a, 00: b}", "names has a class number twice"),
        ("names: {0: a, 0: b}", "is not YAML: the key '0' is there twice"),
        ("names: [a]\nnames: [b]", "is not YAML: the key 'names' is there twice"),
        (ALIASES, "it must be a list of class names"),
        (f"{ALIASES}\nnames: [a]", "is there twice"),
        (f"x: {ALIASES.removeprefix('names: ')}\nnames: [a]\nval: *a39", "val is .* it must be a folder"),
        ("names: a", "names is 'a'; it must be a list"),
        ("names: []", "it must be a list of class names"),
        ("names: [a, b]\nnc: 3", "nc is 3, but there are 2 names"),
        ("names: [[a], b]", "it must be a list of class names"),
        ("names: [a, b", "is not YAML"),
        ("names: [a]\ntest: {a: b}", "test is .* it must be a folder"),
    ],
)
def test_faulty_data_yaml(content: str, message: str, tmp_path: Path) -> None:
    root = photo_sets.yolo(tmp_path)
    (root / "data.yaml").write_text(f"train: images/train\n{content}\n")
    with pytest.raises(DataError, match=f"data.yaml.* {message}"):
        opened(root)


def test_only_line_ends_end_a_line(tmp_path: Path) -> None:
    """A name may have what `str.splitlines` takes for the end of a line: it must not count as two classes."""
    root = photo_sets.yolo(tmp_path, ONE, yaml=None)
    (root / "classes.txt").write_bytes("a\u2028a\r\nb\x0bb\rc\x85c\n".encode())
    assert opened(root).class_names == ("a\u2028a", "b\x0bb", "c\x85c")


def test_names_stay_text_and_tags_do_nothing(tmp_path: Path) -> None:
    root = photo_sets.yolo(tmp_path, ONE)
    parts = "train: images/train\nval: images/val"
    (root / "data.yaml").write_text(f"{parts}\nnames: [no, 1e3, ~, !!python/object/apply:os.system ['echo x']]")
    with pytest.raises(DataError, match="it must be a list of class names"):
        opened(root)
    (root / "data.yaml").write_text(f"{parts}\nnames:\n  7: no\n  1: 1e3\n  4: null\n")
    split = opened(root)
    assert split.class_names == ("1e3", "null", "no")
    assert split.category_ids == (1, 4, 7)


def test_without_names_of_classes(tmp_path: Path) -> None:
    photo_sets.yolo(tmp_path, yaml=None)
    (tmp_path / "classes.txt").rename(tmp_path / "labels" / "classes.txt")
    assert opened(tmp_path).class_names == CLASSES
    (tmp_path / "obj.names").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match="name different classes"):
        opened(tmp_path)
    assert opened(tmp_path, class_names=("x", "y", "z")).class_names == ("x", "y", "z")
    (tmp_path / "obj.names").unlink()
    (tmp_path / "labels" / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"no data.yaml, classes.txt, obj.names that names the classes; add"):
        opened(tmp_path)


def test_darknet_as_cvat_writes_it(tmp_path: Path) -> None:
    for picture in PARTS["train"]:
        photo_sets.save(tmp_path / "obj_train_data", picture)
        photo_sets.yolo_label((tmp_path / "obj_train_data" / picture.name).with_suffix(".txt"), picture)
    (tmp_path / "obj.data").write_text("classes = 3\ntrain = data/train.txt\nnames = data/obj.names\n")
    (tmp_path / "obj.names").write_text("\n".join(CLASSES))
    (tmp_path / "train.txt").write_text("".join(f"data/obj_train_data/{p.name}\n" for p in PARTS["train"]))
    assert names(tmp_path, val_fraction=0.0) == {picture.name for picture in PARTS["train"]}
    assert opened(tmp_path, val_fraction=0.0).class_names == CLASSES


def test_labels_and_images_apart(tmp_path: Path) -> None:
    photo_sets.yolo(tmp_path / "set", yaml=None)
    (tmp_path / "set" / "images").rename(tmp_path / "pictures")
    (tmp_path / "set" / "classes.txt").rename(tmp_path / "set" / "labels" / "classes.txt")
    options = {"annotations": "labels", "images": "../pictures"}
    assert names(tmp_path / "set", **options) == {picture.name for picture in PARTS["train"]}
    assert len(opened(tmp_path / "set", "val", **options)[0].boxes) == 2


def test_labels_without_an_image_are_counted(tmp_path: Path) -> None:
    photo_sets.yolo(tmp_path)
    photo_sets.yolo_label(tmp_path / "labels/train/gone.txt", PARTS["val"][0], head="\ufeff")
    (tmp_path / "labels/train/notes.txt").write_text("of mine")
    assert "1 label files have no image and are not used" in opened(tmp_path).notes
    (tmp_path / "labels/train/gone.txt").unlink()
    assert not any("no image" in note for note in opened(tmp_path).notes)


@pytest.mark.parametrize("root", [".", "../set", "link"])
def test_a_root_that_is_relative_or_a_link(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo_sets.yolo(tmp_path / "set")
    (tmp_path / "set" / "link").symlink_to(photo_sets.yolo(tmp_path / "other"))
    monkeypatch.chdir(tmp_path / "set")
    if root == "link":
        assert len(opened(Path("link"))) == 3
    else:
        (tmp_path / "set" / "link").unlink()
        assert len(opened(Path(root))) == 3


def test_a_part_of_another_name_is_divided(tmp_path: Path) -> None:
    two = [Picture(f"{i}.png", (20, 40), [(4, 2, 20, 12, 1)]) for i in range(2)]
    photo_sets.yolo(tmp_path, {"val": two}, yaml=None)
    assert [len(opened(tmp_path, part)) for part in PARTS] == [1, 1]


def test_other_pictures_beside_are_not_used_and_counted(tmp_path: Path) -> None:
    photo_sets.yolo(tmp_path, yaml=None)
    photo_sets.save(tmp_path / "figures", Picture("plot.png", (8, 8), []))
    split = opened(tmp_path)
    assert len(split) == 3
    assert "1 images in folders without any label are not used" in split.notes


def test_a_mixture_of_parts_and_none(tmp_path: Path) -> None:
    photo_sets.yolo(tmp_path, yaml=None)
    photo_sets.save(tmp_path / "images", ONE["train"][0])
    photo_sets.yolo_label(tmp_path / "labels" / "a.txt", ONE["train"][0])
    with pytest.raises(DataError, match=r"images/train/.* named for training or validation, but images/a.png does not"):
        opened(tmp_path)


def test_two_data_yaml(tmp_path: Path) -> None:
    photo_sets.yolo(tmp_path)
    shutil.copy(tmp_path / "data.yaml", tmp_path / "other.yml")
    with pytest.raises(DataError, match=r"has data.yaml and other.yml; set config.data.source.annotations"):
        opened(tmp_path)
    assert len(opened(tmp_path, annotations="other.yml")) == 3
