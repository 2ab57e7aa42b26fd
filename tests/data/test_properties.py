"""Canvases and category ids for any sizes and numbers: pictures fit, boxes and ids come back."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dyhead_jax.data import classes, coco_json
from dyhead_jax.data.coco_split import CocoSplit
from dyhead_jax.data.schedule import choose_canvases
from dyhead_jax.data.transforms import resized_size
from dyhead_jax.evaluation.split import to_results
from dyhead_jax.types import Detections
from tests.properties import drawn

length = st.integers(1, 5000)
size = st.tuples(length, length)
canvases = st.lists(st.tuples(st.integers(1, 1400), st.integers(1, 1400)), min_size=1, max_size=4)


@drawn
@given(original=size, short=st.integers(1, 1200), long=st.integers(1, 2000), canvas=size)
def test_a_resized_picture_fits_and_keeps_its_form(original, short, long, canvas):
    rows, columns = resized_size(original, short, long, canvas)
    assert 1 <= rows <= canvas[0]
    assert 1 <= columns <= canvas[1]
    scale = min(short / min(original), long / max(original), canvas[0] / original[0], canvas[1] / original[1])
    for got, before in ((rows, original[0]), (columns, original[1])):
        assert abs(got - before * scale) <= 0.5 + 1e-6 or (got == 1 and before * scale < 1)


@drawn
@given(sizes=st.lists(size, min_size=1, max_size=5), offered=canvases, short=st.integers(1, 900))
def test_the_canvas_is_the_one_on_which_a_picture_is_largest(sizes, offered, short):
    chosen = choose_canvases(np.array(sizes), tuple(offered), short, 1400)
    for own, row in zip(sizes, chosen.tolist(), strict=True):
        areas = [np.prod(resized_size(own, short, 1400, canvas)) for canvas in offered]
        assert areas[row] == max(areas)
        equal = [i for i, area in enumerate(areas) if area == max(areas)]
        assert row == min(equal, key=lambda i: (np.prod(offered[i]), i))


@drawn
@given(
    boxes=st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 4), min_size=1, max_size=4),
    original=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    canvas=st.tuples(st.integers(1, 900), st.integers(1, 900)),
)
def test_boxes_come_back_to_the_original_picture(boxes, original, canvas):
    height, width = original
    rows, columns = resized_size(original, 800, 1300, canvas)
    corners = np.sort(np.array(boxes, np.float64).reshape(-1, 2, 2), axis=1)
    drawn_boxes = (corners * np.array([[[width, height]]])).reshape(-1, 4)
    scale = np.array([[rows / height, columns / width]], np.float32)
    resized = drawn_boxes * np.array([columns / width, rows / height] * 2)
    count = len(drawn_boxes)
    found = Detections(
        boxes=resized[None].astype(np.float32),  # type: ignore[arg-type]
        scores=np.full((1, count), 0.5),  # type: ignore[arg-type]
        labels=np.zeros((1, count), np.int32),  # type: ignore[arg-type]
    )
    results = to_results(found, np.array([5]), scale, (7,), np.array([original]))
    back = np.array([result["bbox"] for result in results])
    back[:, 2:] += back[:, :2]
    np.testing.assert_allclose(back, drawn_boxes, atol=1e-3 * max(original) / 100)


ids = st.lists(st.integers(0, 2**40), min_size=1, max_size=6, unique=True)


@drawn
@given(ids=ids, order=st.randoms(use_true_random=False), boxes=st.integers(1, 8))
def test_category_ids_come_back_in_whatever_order_a_file_lists_them(ids, order, boxes, tmp_path_factory):
    """File -> labels -> results, as the data has them and in the order of a model."""
    names = {number: f"name {place}" for place, number in enumerate(ids)}
    listed = order.sample(ids, len(ids))
    wanted = [order.choice(ids) for _ in range(boxes)]
    content = {
        "images": [{"id": 9, "file_name": "a.png", "height": 50, "width": 60}],
        "categories": [{"id": number, "name": names[number]} for number in listed],
        "annotations": [
            {"id": i + 1, "image_id": 9, "category_id": number, "bbox": [1, 2, 3 + i, 4], "area": 9, "iscrowd": 0}
            for i, number in enumerate(wanted)
        ],
    }
    path = tmp_path_factory.mktemp("ids") / "a.json"
    path.write_text(json.dumps(content))
    split = CocoSplit(coco_json.load(path), None)  # type: ignore[arg-type]
    model = order.sample([names[number] for number in ids], len(ids))
    for own in (split, classes.matched(split, model, "the model")[0]):
        rows, labels = own.box_labels()
        assert [own.category_ids[label] for label in labels] == wanted
        assert [own.class_names[label] for label in labels] == [names[number] for number in wanted]
        assert rows.tolist() == [0] * boxes
        found = Detections(
            boxes=np.tile(np.float32([1, 2, 3, 4]), (1, boxes, 1)),  # type: ignore[arg-type]
            scores=np.full((1, boxes), 0.5),  # type: ignore[arg-type]
            labels=labels[None],  # type: ignore[arg-type]
        )
        results = to_results(found, np.array([9]), np.ones((1, 2)), own.category_ids)
        assert [result["category_id"] for result in results] == wanted
    assert classes.matched(split, model, "the model")[0].class_names == tuple(model)
