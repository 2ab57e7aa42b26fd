"""Classes are matched by name: labels, ids and images go together in whatever order a file lists them."""

import pickle

import numpy as np
import pytest

from dyhead_jax.data import classes
from dyhead_jax.data.source import make_source
from tests.data.folders import data_config, write_split


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Two classes, a (id 3) and b (id 7)."""
    root = tmp_path_factory.mktemp("data")
    write_split(root, "train", [(20, 30), (30, 20)], [[[1, 1, 5, 5], [2, 2, 6, 6]], [[3, 3, 4, 4]]])
    return make_source(data_config(root), "unused").split("train")


def names_of(split):
    """Of every box the image and the name of its class."""
    rows, labels = split.box_labels()
    return [(int(row), split.class_names[label]) for row, label in zip(rows, labels, strict=True)]


def test_labels_follow_the_order_of_the_model(split):
    for names, line in ((["b", "a"], 1), (["B ", " a"], 1), (["a", "b"], 0), (["A", "b"], 0)):
        found, lines = classes.matched(split, names, "W")
        assert classes.plain(found.class_names) == classes.plain(names)
        assert len(lines) == line
        assert names_of(found) == names_of(split)
        assert dict(zip(found.class_names, found.category_ids, strict=True)) == {"a": 3, "b": 7}
        for row in range(len(split)):
            ours, theirs = found[row], split[row]
            assert [found.class_names[i] for i in ours.labels] == [split.class_names[i] for i in theirs.labels]
            assert ours.labels.dtype == np.int32
            np.testing.assert_array_equal(ours.image, theirs.image)
        assert found.coco() == split.coco()
        assert found.index is split.index  # what only some splits have
        copy = pickle.loads(pickle.dumps(found))  # for worker processes
        assert names_of(copy) == names_of(split)
        assert len(copy) == 2


def test_the_same_order_is_the_split_itself(split):
    assert classes.matched(split, ("a", "b"), "W") == (split, [])
    found, (line,) = classes.matched(split, classes.numbered(2), "W")  # the model's names are not known
    assert found is split
    assert line == "classes of W and of the data taken by their numbers, the names of one side are not known"
    found, (line,) = classes.matched(split, ("x", "y"), "W", by_number=True)
    assert found is split
    assert line.endswith("taken by their numbers, as asked")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (("a", "c"), r"W has 2 classes, the data 2, .*: 2 c \| b; --classes-by-number takes them by number$"),
        (("a",), r"W has 1 classes, the data 2, .*: 2 - \| b$"),
        (("a", "b", "c"), r"3 c \| -$"),
        (("b", "b"), r"1 b \| a; --classes"),
        (classes.numbered(3), r"W has 3 classes, the data 2"),
    ],
)
def test_other_classes_are_shown_side_by_side(split, model, message):
    with pytest.raises(classes.ClassesError, match=message):
        classes.matched(split, model, "W")


def test_any_order_is_found():
    """Against a plain reference: the class of each number is the same before and after."""
    rng = np.random.default_rng(0)
    names = [f"n{i}" for i in range(9)]
    for _ in range(50):
        model, data = rng.permutation(names).tolist(), rng.permutation(names).tolist()
        assert [data[label] for label in classes.order(model, data, "W")] == model
    with pytest.raises(classes.ClassesError, match="and 188 more"):
        classes.order([f"x{i}" for i in range(200)], [f"y{i}" for i in range(200)], "W")
