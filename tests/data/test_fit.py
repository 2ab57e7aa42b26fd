"""Numbers that follow from the data: each rule on sets that are made for it, and the config that uses them."""

import json

import numpy as np
import pytest
from PIL import Image

from dyhead_jax.config import (
    ATSSConfig,
    ConfigError,
    FasterRCNNConfig,
    FCOSConfig,
    RetinaNetConfig,
    flags,
    from_json,
    to_json,
)
from dyhead_jax.data.fit import LEAST_STEPS, fit
from dyhead_jax.data.source import DataError


def made(sizes, side, per_image=4):
    """Square boxes with this side on images of these sizes."""
    sizes = np.array(sizes, np.int64)
    image_of = np.repeat(np.arange(len(sizes)), per_image)
    boxes = np.tile(np.array([[0.0, 0.0, side, side]], np.float32), (len(image_of), 1))
    return sizes, boxes, image_of


def of(sizes, side, *, largest_side=640, memory=1e12, per_image=4):
    sizes, boxes, image_of = made(sizes, side, per_image)
    return fit(sizes, boxes, image_of, largest_side=largest_side, memory=memory, bytes_per_pixel=1000.0)


@pytest.mark.parametrize(
    ("size", "side", "canvas"),
    [
        ((480, 640), 40.0, (256, 320)),  # 20 of 320 pixels are as much of the image as 40 of 640
        ((640, 480), 40.0, (320, 256)),
        ((640, 640), 28.0, (448, 448)),
        ((480, 640), 400.0, (192, 256)),  # large objects: the least side
        ((480, 640), 4.0, (480, 640)),  # small ones: what the machine is good for
        ((150, 200), 4.0, (192, 224)),  # nothing is enlarged, but for the multiple of 32
    ],
)
def test_small_objects_get_a_larger_side(size, side, canvas):
    fitted = of([size] * 10, side)
    assert fitted.canvases == (canvas,)
    assert fitted.long_side == max(canvas)
    assert all(value % 32 == 0 for value in canvas)


def test_there_is_a_canvas_for_each_shape_that_is_common():
    wide, upright, square = (480, 640), (640, 480), (600, 600)
    assert of([wide] * 9 + [upright] * 9 + [square], 40.0).canvases == ((256, 320), (320, 256))
    assert of([wide] * 5 + [square] * 4, 40.0).canvases == ((256, 320), (320, 320))


def test_steps_follow_from_the_images_that_have_boxes():
    assert of([(100, 100)] * 20, 10.0).steps == LEAST_STEPS
    assert of([(100, 100)] * 4000, 10.0).steps == 5000
    sizes, boxes, image_of = made([(100, 100)] * 4000, 10.0)
    few = image_of < 2000
    fitted = fit(sizes, boxes[few], image_of[few], largest_side=640, memory=1e12, bytes_per_pixel=1.0)
    assert fitted.steps == 2500


def test_the_batch_fits_the_memory():
    assert of([(100, 100)] * 9, 10.0).batch_size == 8
    side = of([(100, 100)] * 9, 10.0).long_side
    assert side == 128
    assert of([(100, 100)] * 9, 10.0, memory=4 * 128 * 128 * 1000.0).batch_size == 4
    assert of([(100, 100)] * 9, 10.0, memory=1.0).batch_size == 1


def test_boxes_have_room():
    assert of([(100, 100)] * 9, 10.0, per_image=3).max_boxes == 16
    assert of([(100, 100)] * 9, 10.0, per_image=33).max_boxes == 48


def test_every_choice_has_its_reason():
    reasons = "\n".join(of([(480, 640)] * 30, 4.0).reasons)
    for text in ("longer side 640", "than the 640 that this machine", "30 wide", "batch 8", "400 steps", "up to 4"):
        assert text in reasons


def test_images_without_boxes_fit_nothing():
    with pytest.raises(DataError, match="have no box"):
        fit(np.array([[9, 9]]), np.zeros((0, 4)), np.zeros(0, int), largest_side=640, memory=1.0, bytes_per_pixel=1.0)


@pytest.fixture
def folder(tmp_path):
    """YOLO labels of six photographs with two classes, in a folder whose name has a comma."""
    root = tmp_path / "photos, mine"
    for part, count in (("train", 4), ("val", 2)):
        (root / "images" / part).mkdir(parents=True)
        (root / "labels" / part).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (160, 120), (9 * i, 0, 0)).save(root / "images" / part / f"{i}.jpg")
            (root / "labels" / part / f"{i}.txt").write_text(f"{i % 2} 0.5 0.5 0.25 0.25\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cup, pen]\n")
    return root


def test_the_config_has_plain_numbers_that_can_be_given_otherwise(folder, capsys):
    config = flags.load_file(f"photos:{folder}")
    out = capsys.readouterr().out
    assert "2 classes: cup, pen" in out
    assert "400 steps" in out
    assert config.model.num_classes == 2
    assert config.data.canvases == ((128, 160),)
    assert config.data.long_side == 160
    assert config.run.steps == LEAST_STEPS
    assert config.model.pretrained == "efficientnet-lite0"
    again = flags.override(config, ["--config.run.steps=7", "--config.data.batch_size=2"])
    assert (again.run.steps, again.data.batch_size) == (7, 2)
    assert from_json(to_json(again)) == again
    assert json.loads(to_json(again))["data"]["canvases"] == [[128, 160]]
    other = flags.load_file(f"photos:{folder},r50=some.pth")
    assert other.model.backbone.depth == 50
    assert other.model.pretrained == "some.pth"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "give the folder"),
        ("{},r50", "need a file of ImageNet weights"),
        ("{},lite0=x.pth", "lite0 has its own"),
        ("{},vgg", "'vgg' is no backbone here; it may be lite0, r50, swin"),
        ("absent", "absent"),
    ],
)
def test_wrong_words_are_named(text, message, folder):
    with pytest.raises(ConfigError, match=message):
        flags.load_file(f"photos:{text.format(folder)}")


def test_cells_of_the_grid_differ_in_the_model_alone(folder):
    towers = {"atss,towers": 2, "fcos,none,towers,1": 2, "retinanet": 2, "reppoints": 0}
    photos = flags.load_file(f"photos:{folder}")
    texts = ("atss", "fcos,plain", "atss,scale,4", "faster_rcnn", *towers)
    cells = {text: flags.load_file(f"photos_grid:{folder},{text}") for text in texts}
    for config in cells.values():
        assert (config.data, config.optim, config.run) == (photos.data, photos.optim, photos.run)
        assert config.model.num_classes == photos.model.num_classes
        assert config.model.backbone == photos.model.backbone
    assert cells["atss"].model.head == photos.model.head
    assert {text: cells[text].model.head.towers for text in towers} == towers
    assert cells["fcos,none,towers,1"].model.dyhead.num_blocks == 1
    # anchors of half the references' sides, for objects smaller than 8 strides
    anchors = {text: cells[text].model.head for text in ("atss", "retinanet", "faster_rcnn")}
    assert anchors["atss"].anchor_scale == ATSSConfig().anchor_scale / 2
    assert anchors["retinanet"].anchor_base == RetinaNetConfig().anchor_base / 2
    assert anchors["faster_rcnn"].anchor_scale == FasterRCNNConfig().anchor_scale / 2
    # the scale attention starts by halving a map
    scales = {
        text: (config.model.dyhead.norm_scale, config.model.dyhead.neighbour_scale) for text, config in cells.items()
    }
    assert scales["atss"] == scales["atss,scale,4"] == scales["retinanet"] == (14.0, 0.25)
    assert scales["fcos,none,towers,1"] == (7.0, 0.25)
    plain, four = cells["fcos,plain"].model, cells["atss,scale,4"].model
    assert isinstance(plain.head, FCOSConfig)
    assert (plain.dyhead.num_blocks, plain.head.towers) == (0, 2)
    assert four.dyhead.num_blocks == 4
    assert [part.module == "none" for part in (four.dyhead.spatial, four.dyhead.scale, four.dyhead.task)] == [1, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "give the folder of the photographs and a detector"),
        ("{}", "give the folder of the photographs and a detector"),
        ("{},yolo", ":yolo does not begin with a detector"),
        ("{},atss,towers,towers", "may be followed by plain, or by none or any of scale, spatial, task, and towers"),
        ("{},atss,plain,towers", "may be followed by plain"),
        ("{},faster_rcnn,towers", "faster_rcnn has no towers"),
        ("{},atss,0", "without DyHead it is"),
        ("{},atss,plain,2", "without DyHead it is"),
    ],
)
def test_wrong_cells_are_named(text, message, folder):
    with pytest.raises(ConfigError, match=message):
        flags.load_file(f"photos_grid:{text.format(folder)}")
