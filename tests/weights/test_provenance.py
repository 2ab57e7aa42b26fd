"""What a checkpoint tells of its pixels and classes."""

import numpy as np
import pytest

from dyhead_jax.data import coco_categories
from dyhead_jax.weights import provenance
from tests.converting import SMALL

BGR = "img_norm_cfg = dict(\n    mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)\n"


RGB = "bgr_to_rgb=True,\n mean=[\n 123.675, 116.28, 103.53,\n ],\n std=[58.395, 57.12, 57.375]"


def test_pixels_are_told_where_the_file_knows():
    caffe = provenance.Pixels(provenance.MEAN, (1.0, 1.0, 1.0), True)
    imagenet = provenance.Pixels(provenance.MEAN, provenance.STD, False)
    assert provenance.configured(SMALL) == imagenet
    told = lambda arrays, meta, layout="mmdet": provenance.pixels(arrays, meta, layout, SMALL)[0]  # noqa: E731
    assert told({}, {"config": BGR}) == caffe
    assert told({}, {"cfg": RGB}) == imagenet
    assert told({}, {"cfg": RGB + BGR}) is None  # two opinions
    assert told({}, {}) is None
    assert told({}, {}, "resnet-caffe2") == caffe
    buffers = {"pixel_mean": np.array(provenance.MEAN[::-1]).reshape(3, 1, 1), "pixel_std": np.ones((3, 1, 1))}
    found = told(buffers, {}, "official")
    assert found is not None
    assert provenance.same(found, caffe)
    assert not provenance.same(caffe, imagenet)
    assert caffe.options() == (
        "--config.model.bgr=True --config.model.pixel_mean=123.675,116.28,103.53 --config.model.pixel_std=1,1,1"
    )


def test_categories():
    of = provenance.categories
    assert of(None, 80, None)[1][-1] == 90
    assert of(coco_categories.NAMES, 80, None)[:2] == (coco_categories.NAMES, coco_categories.IDS)
    assert of(("a", "b"), 2, None)[:2] == (("a", "b"), (1, 2))
    assert of(("a", "b"), 2, [("b", 3), ("a", 7)])[:2] == (("a", "b"), (7, 3))
    assert "matched by name" in of(("a", "b"), 2, [("b", 3), ("a", 7)])[2]
    assert of(("a", "b"), 2, [("b", 3), ("a", 7)], by_number=True)[:2] == (("b", "a"), (3, 7))
    assert of(None, 80, None, backbone=True)[0][:2] == ("class 1", "class 2")  # it knows no classes, not even COCO's
    assert of(None, 2, [("b", 3), ("a", 7)])[:2] == (("b", "a"), (3, 7))
    assert of(("x",), 2, None)[0] == ("class 1", "class 2")
    with pytest.raises(ValueError, match="has 1 categories"):
        of(None, 2, [("a", 1)])
    with pytest.raises(ValueError, match=r"differ .*: 2 c \| b; --classes-by-number takes them by number"):
        of(("a", "c"), 2, [("a", 1), ("b", 2)])
