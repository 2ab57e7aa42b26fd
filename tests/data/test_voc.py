"""Pascal VOC: lists, sizes, names and faults."""

from pathlib import Path

import pytest

from dyhead_jax.data.source import DataError
from tests.data import photo_sets
from tests.data.photo_sets import PARTS, Picture
from tests.data.test_photos import by_name, opened

BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'


def xml(root: Path, name: str = "a b") -> Path:
    return root / "Annotations" / f"{name}.xml"


def test_size_missing_wrong_or_zero(tmp_path: Path) -> None:
    photo_sets.voc(tmp_path)
    photo_sets.voc_xml(xml(tmp_path), PARTS["train"][0], size=False)
    assert tuple(opened(tmp_path).sizes[0]) == (30, 40)
    assert "declare" not in " ".join(opened(tmp_path).notes)
    text = xml(tmp_path, "ünï").read_text()
    xml(tmp_path, "ünï").write_text(text.replace("<width>20", "<width>0").replace("<height>25", "<height>0"))
    assert "declare" not in " ".join(opened(tmp_path).notes)
    xml(tmp_path, "ünï").write_text(text.replace("<width>20", "<width>25").replace("<height>25", "<height>20"))
    said = "1 images declare width and height in each other's place, as their boxes show; the file's size is used"
    assert said in opened(tmp_path).notes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<annotation>", "<annotations>", "is not XML: mismatched tag"),
        ("<annotation>", '<?xml version="1.0" encoding="nonsense"?><annotation>', "is not XML: unknown encoding"),
        ("<annotation>", '<?xml version="1.0" encoding="shift_jis"?><annotation>', "is not XML: multi-byte encodings"),
        ("<object>", "<objects><object>", "is not XML: mismatched tag"),
        ("annotation>", "other>", "its root is <other>"),
        ("<name>bolt</name>", "", "object 1 has no <name>"),
        ("bndbox><xmin>2<", "x><xmin>2<", "is not XML"),
        ("<xmin>2<", "<xmin>two<", "object 1: <xmin> is 'two'; it must be a finite number"),
        ("<xmin>2<", "<xmin>nan<", "object 1: <xmin> is 'nan'"),
        ("<xmin>2</xmin>", "", "object 1: <xmin> is ''"),
    ],
)
def test_faults_are_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    photo_sets.voc(tmp_path)
    text = xml(tmp_path).read_text()
    assert old in text
    xml(tmp_path).write_text(text.replace(old, new))
    with pytest.raises(DataError, match=f"Annotations/a b.xml.* {message}"):
        opened(tmp_path)


def test_xml_files_that_are_not_read_are_said(tmp_path: Path) -> None:
    photo_sets.voc(tmp_path, lists=False)
    path = tmp_path / "val" / "v.xml"
    path.write_text(path.read_text().replace("<annotation>", "<annotatiom>"))
    assert "XML files that are not read: val/v.xml" in opened(tmp_path).notes


def test_objects_in_another_place_are_named(tmp_path: Path) -> None:
    photo_sets.voc(tmp_path)
    text = xml(tmp_path).read_text()
    first = text.index("<object>")
    xml(tmp_path).write_text(
        f"{text[:first]}<objects>{text[first:].replace('</annotation>', '</objects></annotation>')}"
    )
    with pytest.raises(DataError, match=r"a b.xml: 2 <object> are not directly below <annotation>"):
        opened(tmp_path)


def test_entities_are_refused(tmp_path: Path) -> None:
    photo_sets.voc(tmp_path)
    for content in (BOMB.encode(), BOMB.replace("1.0", '1.0" encoding="utf-16').encode("utf-16")):
        xml(tmp_path).write_bytes(content)
        with pytest.raises(DataError, match=r"a b.xml declares a document type"):
            opened(tmp_path)


def test_classes_are_the_union_of_the_parts(tmp_path: Path) -> None:
    parts = {
        "train": [Picture("a.png", (20, 20), [(1, 1, 9, 9, 2)])],
        "val": [Picture("b.png", (20, 20), [(1, 1, 9, 9, 0)])],
    }
    photo_sets.voc(tmp_path, parts)
    train, val = opened(tmp_path), opened(tmp_path, "val")
    assert train.class_names == val.class_names == ("bolt", "螺丝")
    assert (train[0].labels.tolist(), val[0].labels.tolist()) == ([1], [0])


def test_trainval_and_test_and_flags_in_lists(tmp_path: Path) -> None:
    photo_sets.voc(tmp_path)
    lists = tmp_path / "ImageSets" / "Main"
    (lists / "val.txt").rename(lists / "test.txt")
    (lists / "train.txt").unlink()
    (lists / "trainval.txt").write_text("a b  1\r\nünï -1\r\n")
    (lists / "bolt_train.txt").write_text("a b -1\n")
    assert set(by_name(opened(tmp_path))) == {"a b.jpg", "ünï.JPG"}
    assert set(by_name(opened(tmp_path, "val"))) == {"v.jpeg"}
    assert "1 XML files are in no list and are not used" in opened(tmp_path).notes
    (lists / "trainval.txt").write_text("a b\nnothing\n")
    with pytest.raises(DataError, match=r"trainval.txt, line 2: 'nothing' has no XML"):
        opened(tmp_path)


def test_the_image_of_an_xml(tmp_path: Path) -> None:
    photo_sets.voc(tmp_path)
    xml(tmp_path).rename(xml(tmp_path, "001"))
    lists = tmp_path / "ImageSets" / "Main" / "train.txt"
    lists.write_text("001\nünï\n")
    assert set(by_name(opened(tmp_path))) == {"a b.jpg", "ünï.JPG"}  # by <filename>
    (tmp_path / "JPEGImages" / "a b.jpg").unlink()
    with pytest.raises(DataError, match=r"Annotations/001.xml: there is no image 001.jpg"):
        opened(tmp_path)


def test_images_without_xml_are_counted(tmp_path: Path) -> None:
    photo_sets.voc(tmp_path, lists=False)
    (tmp_path / "train" / "empty.xml").unlink()
    assert "1 images have no XML and are not used" in opened(tmp_path).notes


def test_what_other_tools_add_is_read(tmp_path: Path) -> None:
    parts = {"train": [Picture("a.jpg", (30, 40), [(10, 10, 20, 16, 0), (3, 3, 8, 8, 1), (5, 1, 9, 7, 2)])]}
    photo_sets.voc(tmp_path, parts)
    text = xml(tmp_path, "a").read_text()
    turned = "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>"
    text = text.replace("<difficult>0</difficult>", turned, 1)
    text = text.replace("<difficult>0</difficult>", "<difficult>True</difficult>", 1)
    text = text.replace("<difficult>0</difficult>", "<difficult>Unspecified</difficult><ignore>1</ignore>", 1)
    xml(tmp_path, "a").write_text(text)
    split = opened(tmp_path, val_fraction=0.0)
    assert split[0].crowd.tolist() == [False, True, True]
    assert split[0].boxes[0].tolist() == [12, 8, 18, 18]
    notes = " ".join(split.notes)
    for text in ("1 difficult boxes", "1 boxes marked <ignore>", "1 turned boxes", "3 parts of objects are not used"):
        assert text in notes
    xml(tmp_path, "a").write_text(xml(tmp_path, "a").read_text().replace("Unspecified", "perhaps"))
    with pytest.raises(DataError, match=r"a\.xml: object 3: <difficult> is 'perhaps'; it must be 0 or 1"):
        opened(tmp_path, val_fraction=0.0)
