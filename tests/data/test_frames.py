"""Boxes lie on their objects, whichever pixels their file refers to; what contradicts is an error.

The reference is the picture: a white rectangle on black, found by looking at the pixels that the network would get.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from dyhead_jax.config import CocoFolderConfig, DataConfig, PhotosConfig
from dyhead_jax.data import box_format, frames, images
from dyhead_jax.data.source import DataError, Split, make_source
from dyhead_jax.inference import pictures
from tests.data.folders import rewrite

UPRIGHT, BOX = (96, 64), (16, 24, 24, 40)  # height, width; x, y, width, height of the white rectangle
BACK = {  # makes the stored picture of the upright one, by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def photo(path: Path, orientation: int = 1, size: tuple[int, int] = UPRIGHT) -> None:
    """A photograph that a viewer shows as the white rectangle at BOX, at the scale of `size`."""
    pixels = np.zeros((*UPRIGHT, 3), np.uint8)
    x, y, width, height = BOX
    pixels[y : y + height, x : x + width] = 255
    image = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BOX)
    exif = Image.Exif()
    if orientation > 1:
        image, exif[0x0112] = image.transpose(BACK[orientation]), orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=100, subsampling=0, exif=exif)


def coco(root: Path, records: list[tuple[dict[str, Any], tuple]], **source: Any) -> Split:
    """The split of a COCO folder; records: an image's keys and its box each."""
    (root / "annotations").mkdir(exist_ok=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    for number, (keys, box) in enumerate(records, 1):
        content["images"].append({"id": number, **keys})
        content["annotations"].append(
            {"id": number, "image_id": number, "category_id": 1, "bbox": list(box), "area": box[2] * box[3]}
        )
    rewrite(root, "train", content)
    config = DataConfig(source=CocoFolderConfig(root=str(root), **source))
    return make_source(config, root / "workdir").split("train")


def one(root: Path, declared: tuple[int, int] | None, box: tuple = BOX, **source: Any) -> Split:
    """The split of the one picture train/a.jpg, declared as (height, width)."""
    size = {} if declared is None else {"height": declared[0], "width": declared[1]}
    return coco(root, [({"file_name": "a.jpg", **size}, box)], **source)


def assert_on_white(split: Split, row: int = 0, atol: float = 0.51) -> None:
    example = split[row]
    white = example.image[:, :, 0] > 127
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(example.boxes, [seen], atol=atol)
    [truth] = [a for a in split.coco()["annotations"] if a["image_id"] == example.image_id]
    x, y, width, height = truth["bbox"]
    np.testing.assert_allclose([x, y, x + width, y + height], seen, atol=atol)
    assert truth["area"] == pytest.approx(width * height)
    assert example.image.shape[:2] == tuple(split.sizes[row])


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_declared_size_of_the_upright_picture_turns_it(orientation: int, prepared: bool, tmp_path: Path) -> None:
    photo(tmp_path / "train" / "a.jpg", orientation)
    split = one(tmp_path, UPRIGHT, prepared=prepared)
    assert_on_white(split)
    assert split[0].image.shape[:2] == UPRIGHT
    assert split.notes == ["1 images turned upright by their EXIF orientation, as they were annotated"]


@pytest.mark.parametrize("size", [(48, 32), (192, 128), (31, 21)])
def test_boxes_follow_a_picture_that_was_scaled(size: tuple[int, int], tmp_path: Path) -> None:
    photo(tmp_path / "train" / "a.jpg", size=size)
    split = one(tmp_path, UPRIGHT)
    assert_on_white(split, atol=1)
    assert split.notes[0].startswith("1 images are of another size than when they were annotated; their boxes are sca")


def test_turned_and_scaled_at_once(tmp_path: Path) -> None:
    photo(tmp_path / "train" / "a.jpg", 6, (48, 32))
    assert_on_white(one(tmp_path, UPRIGHT))


@pytest.mark.parametrize(("orientation", "size"), [(1, (64, 96)), (1, (80, 80)), (6, (80, 60)), (1, (95, 60))], ids=str)
def test_what_is_neither_turned_nor_scaled_is_an_error(orientation: int, size: tuple, tmp_path: Path) -> None:
    photo(tmp_path / "train" / "a.jpg", orientation, size)
    stored = size[::-1] if orientation == 6 else size
    with pytest.raises(DataError) as error:
        one(tmp_path, UPRIGHT)
    for text in ("instances_train.json", "a.jpg", f"{stored[1]}x{stored[0]}", "64x96", frames.OPTION):
        assert text in str(error.value)
    for choice in ("stored", "declared"):
        one(tmp_path, UPRIGHT, box_frame=choice)


def test_declared_stretches_and_stored_takes_boxes_as_they_are(tmp_path: Path) -> None:
    photo(tmp_path / "train" / "a.jpg", size=(48, 48))
    assert_on_white(one(tmp_path, UPRIGHT, box_frame="declared"), atol=1)
    split = one(tmp_path, UPRIGHT, (1, 2, 3, 4), box_frame="stored")
    np.testing.assert_array_equal(split[0].boxes, [[1, 2, 4, 6]])
    photo(tmp_path / "train" / "a.jpg", 6)
    assert_on_white(one(tmp_path, None, box_frame="upright"))
    with pytest.raises(DataError, match=r"box_frame is 'sideways'; it may be '', 'stored', 'upright', 'declared'"):
        one(tmp_path, UPRIGHT, box_frame="sideways")


def test_width_and_height_in_each_others_place(tmp_path: Path) -> None:
    photo(tmp_path / "train" / "a.jpg")
    split = coco(tmp_path, [({"file_name": "a.jpg", "height": 64, "width": 96}, (20, 60, 20, 20))])
    np.testing.assert_array_equal(split[0].boxes, [[20, 60, 40, 80]])
    assert split.notes == [
        "1 images declare width and height in each other's place, as their boxes show; the file's size is used"
    ]
    with pytest.raises(DataError, match="neither"):  # this box does not say which of the two is wrong
        coco(tmp_path, [({"file_name": "a.jpg", "height": 64, "width": 96}, (1, 1, 20, 20))])


@pytest.mark.parametrize("orientation", [3, 6])
def test_upside_down_is_as_the_others_of_the_set_are(orientation: int, tmp_path: Path) -> None:
    """Its size is the same either way. Orientation 6 of the second: of a square picture."""
    square = orientation == 6
    photo(tmp_path / "train" / "a.jpg", 8)
    photo(tmp_path / "train" / "b.jpg", orientation, (64, 64) if square else UPRIGHT)
    box = (16, 16, 24, 80 / 3) if square else BOX
    second = {"file_name": "b.jpg", "height": 64 if square else 96, "width": 64}
    split = coco(tmp_path, [({"file_name": "a.jpg", "height": 96, "width": 64}, BOX), (second, box)])
    assert_on_white(split, 1, atol=1)
    alone = coco(tmp_path, [(second, box)])
    np.testing.assert_allclose(alone[0].boxes[0, :2], box[:2])
    assert alone[0].image[:, :, 0].tobytes() != split[1].image[:, :, 0].tobytes()
    assert "nothing tells whether they were annotated with it; it is not applied" in alone.notes[0]
    stored = {"file_name": "a.jpg", "height": 64, "width": 96}
    split = coco(tmp_path, [(stored, (24, 24, 40, 24)), (second, box)])
    assert split.notes == ["2 images have an EXIF orientation that is not applied, as they were annotated without it"]
    assert split[0].image.shape == (64, 96, 3)


def test_yolo_is_of_the_upright_picture_and_voc_as_declared(tmp_path: Path) -> None:
    x, y, width, height = BOX
    for kind in ("yolo", "voc"):
        photo(tmp_path / kind / "a.jpg", 6)
    fractions = (x + width / 2) / 64, (y + height / 2) / 96, width / 64, height / 96
    (tmp_path / "yolo" / "a.txt").write_text("0 " + " ".join(map(str, fractions)))
    (tmp_path / "yolo" / "classes.txt").write_text("a")
    (tmp_path / "voc" / "a.xml").write_text(
        "<annotation><size><width>64</width><height>96</height></size><object><name>a</name><bndbox>"
        f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + width}</xmax><ymax>{y + height}</ymax></bndbox></object>"
        "</annotation>"
    )
    for kind in ("yolo", "voc"):
        source = PhotosConfig(root=str(tmp_path / kind), val_fraction=0.0)
        split = make_source(DataConfig(source=source), "unused").split("train")
        assert_on_white(split)
        assert any("turned upright" in note for note in split.notes)


def test_predictions_and_reports_see_the_same_pixels(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", 6)
    upright = np.array(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")).convert("RGB"))
    np.testing.assert_array_equal(pictures.read(tmp_path / "a.jpg"), upright)
    np.testing.assert_array_equal(frames.declared_picture(tmp_path / "a.jpg", UPRIGHT), upright)
    assert frames.declared_picture(tmp_path / "a.jpg", (64, 96)).shape == (64, 96, 3)
    assert frames.declared_picture(tmp_path / "a.jpg", (192, 128)).shape == (192, 128, 3)
    with pytest.raises(DataError, match=r"a\.jpg is 96x64 pixels .* declared as 50x64"):
        frames.declared_picture(tmp_path / "a.jpg", (64, 50))


@pytest.mark.parametrize("scale", [0.1, 0.37, 0.5, 0.999, 1.5, 3.0])
def test_any_rounding_of_one_scale_is_one_scale_and_a_turn_is_not(scale: float) -> None:
    rng = np.random.default_rng(0)
    for height, width in rng.integers(50, 3000, (200, 2)).tolist():
        for rounded in (np.floor, np.ceil, np.rint):
            size = tuple(int(max(1, rounded(side * scale))) for side in (height, width))
            assert frames._one_scale((height, width), size)  # type: ignore[arg-type]
        if abs(height - width) > 1:
            assert not frames._one_scale((height, width), (width, height))


def test_the_header_knows_the_orientation_and_a_tiff_is_turned_already() -> None:
    for kind, orientation, size in (("JPEG", 6, (4, 6)), ("WEBP", 6, (4, 6)), ("TIFF", 1, (6, 4)), ("PNG", 1, (4, 6))):
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x0112] = 6
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(file, kind, **({} if kind == "PNG" else {"exif": exif}))
        header = images.header(io.BytesIO(file.getvalue()), "x")
        assert (header.size, header.orientation) == (size, orientation), kind
        assert images.decode(file.getvalue(), "x", upright=True).shape[:2] == header.upright


def test_formats_of_boxes_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    sizes = np.tile([[480.0, 640.0]], (200, 1))
    first = rng.uniform(0, [600, 440], (200, 2))
    boxes = np.concatenate([first, rng.uniform(5, [640, 480] - first)], axis=1)
    assert box_format.mistake(boxes, sizes) is None
    fractions = boxes / np.tile([640, 480], 2)
    assert "200 of 200 boxes lie within the first pixel" in str(box_format.mistake(fractions, sizes))
    assert "fractions" in str(box_format.mistake(fractions, np.full((200, 2), np.nan)))
    corners = np.concatenate([first, first + boxes[:, 2:]], axis=1)
    assert "corners" in str(box_format.mistake(corners, sizes))
    assert box_format.mistake(corners, np.full((200, 2), np.nan)) is None
    assert box_format.mistake(np.array([[0.0, 0, 1, 1]]), np.array([[1.0, 1]])) is None  # a picture of one pixel
    assert box_format.mistake(np.zeros((0, 4)), np.zeros((0, 2))) is None
    large = np.array([[10.0, 10, 600, 460]])  # a single box that nearly fills its picture
    assert box_format.mistake(large, np.array([[480.0, 640]])) is None


@pytest.mark.parametrize(
    ("box", "message"),
    [((0.2, 0.3, 0.1, 0.1), "fractions of the picture"), ((40, 60, 60, 90), r"corners x1, y1, x2, y2")],
)
def test_annotations_in_another_format_are_refused(box: tuple, message: str, tmp_path: Path) -> None:
    photo(tmp_path / "train" / "a.jpg")
    with pytest.raises(DataError, match=f"instances_train.json: 1 of 1 boxes .*{message}.*box_frame=stored"):
        one(tmp_path, UPRIGHT, box)
    assert len(one(tmp_path, UPRIGHT, box, box_frame="stored")[0].boxes) == 1


def test_tiny_boxes_are_said(tmp_path: Path) -> None:
    photo(tmp_path / "train" / "a.jpg")
    split = coco(tmp_path, [({"file_name": "a.jpg"}, (10.2, 11.3, 0.3, 0.2)), ({"file_name": "a.jpg"}, BOX)])
    assert "1 boxes have a side under one pixel" in split.notes[0]
    assert json.loads((tmp_path / "annotations" / "instances_train.json").read_text())["images"][0].get("width") is None
