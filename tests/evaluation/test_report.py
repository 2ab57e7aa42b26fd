"""The report: a page that stands alone and is well formed, whatever the names; JSON with the numbers of `evaluate`."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from dyhead_jax.config import DataConfig
from dyhead_jax.data.source import DataError
from dyhead_jax.evaluation.average_precision import KEYS, coco_metrics
from dyhead_jax.evaluation.report import setting
from dyhead_jax.evaluation.report.analysis import analyse
from dyhead_jax.evaluation.report.charts import Axis, Line, chart
from dyhead_jax.evaluation.report.confusion import confusion
from dyhead_jax.evaluation.report.overlaps import overlaps
from dyhead_jax.evaluation.report.speed import TimedDetect
from dyhead_jax.evaluation.report.worst import picture, worst
from dyhead_jax.evaluation.report.write import write_report
from tests.evaluation.detection_sets import NAMES, found, hits, random_set, truth

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Fails on an element that is not closed or closed twice; collects what a page refers to."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.ids, self.links, self.pictures, self.text, self.scripts = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if "href" in attributes:
            self.links.append(attributes["href"])
        if "src" in attributes:
            self.pictures.append(attributes["src"])
        if tag == "script":
            self.scripts.append(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert self.open[self.open.index("svg")] == "svg"  # HTML has no <a/>; SVG has

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def about(**changes):
    lines = {"title": "<b>Ränge & 表</b>", "data": [("folder", "a<b")], "model": [("step", "7")]}
    return setting.Setting(**{**lines, "no_speed": "there is no model", **changes})


def report(folder, ground_truth, results, **options):
    """(page, JSON) of a written report, checked for what holds for all."""
    metrics = coco_metrics(ground_truth, results)
    changes = options.pop("about", {})
    write_report(folder, about(**changes), ground_truth, results, metrics, **options)
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "report.json"]
    text = (folder / "index.html").read_text()
    numbers = json.loads((folder / "report.json").read_text())
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    assert all(link == "data:," or link[1:] in page.ids for link in page.links)
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.pictures)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub('base64,[^"]*', "", text), re.IGNORECASE)
    assert len(page.scripts) == 2  # data, slider
    assert numbers["metrics"] == {key: metrics[key] for key in KEYS}
    assert {row["id"]: row["AP"] for row in numbers["classes"]} == metrics["per_class"]
    return page, numbers


def read(image_id, file_name):
    return np.full((40, 100, 3), 90, np.uint8)


CASES = {
    "random": random_set(20),
    "tied surplus": random_set(21, ties=True, crowded=True),
    "no detections": (random_set(22)[0], []),
    "no boxes": (truth([]), found((1, 10, 0.5, 1, 1, 9, 9))),
    "neither": (truth([]), []),
    "scores beyond one": (truth([(1, 10, 0, 0, 9, 9)]), found((1, 10, 70, 0, 0, 9, 9), (2, 20, -3, 0, 0, 9, 9))),
}


@pytest.mark.parametrize("name", CASES)
def test_numbers_and_page_agree_and_stand_alone(name, tmp_path):
    ground_truth, results = CASES[name]
    page, numbers = report(tmp_path, ground_truth, results, read=read)
    metrics = numbers["metrics"]
    for key, curve in (("AP50", "precision_at_iou_0.5"), ("AP75", "precision_at_iou_0.75")):
        mean = numbers["precision_recall"][curve]["mean"]
        assert (-1 if mean is None else np.mean(mean)) == pytest.approx(metrics[key], abs=1e-12)
    for row in numbers["classes"]:
        own = numbers["precision_recall"]["precision_at_iou_0.5"]
        assert (row["boxes"] == 0) == (row["AP50"] == -1) == (str(row["id"]) not in own)
    assert sum(row["boxes"] for row in numbers["classes"]) == numbers["boxes"]
    assert sum(numbers["boxes_by_size"].values()) == numbers["boxes"]
    cells = numbers["confusion"]["cells"]
    assert sum(c["count"] for c in cells if c["true"] is not None) == numbers["boxes"]
    used = sum(r["score"] >= numbers["confusion"]["score"] for r in results)
    if "surplus" not in name:
        counted = sum(c["count"] for c in cells if c["detected"] is not None)
        assert counted + numbers["confusion"]["on_crowd"] == used
    else:
        assert any("beyond the 100 best of their image and class" in note for note in numbers["left_out"])
    assert len(page.pictures) == 2 * len(numbers["pictures"])
    text = " ".join(page.text)
    assert "<b>Ränge & 表</b>" in text
    assert all(category["name"] in text for category in ground_truth["categories"])
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#image-"))
    best = numbers["by_score"]["suggested"]
    assert (best is None) == (max(numbers["by_score"]["f1"]) == 0)
    assert ("predict --score" in text) == (best is not None and best <= 1)
    assert best is None or f"{best:.2f}" in text


def test_the_suggested_score_is_that_of_the_highest_f1(tmp_path):
    boxes = [(1, 10, 0, 0, 9, 9), (1, 10, 20, 0, 9, 9), (2, 10, 40, 0, 9, 9)]
    results = found(
        (1, 10, 0.9, 0, 0, 9, 9), (1, 10, 0.6, 20, 0, 9, 9), (2, 10, 0.41, 60, 60, 9, 9), (2, 10, 0.2, 70, 0, 9, 9),
        (2, 10, 0.1, 40, 0, 9, 9),
    )  # fmt: skip
    _, numbers = report(tmp_path, truth(boxes), results)
    # From .42 to .60 two are right and none is false: F1 .8; with everything 3 of 5 for 3 boxes: .75.
    assert numbers["by_score"]["suggested"] == pytest.approx(0.51)
    assert max(numbers["by_score"]["f1"]) == pytest.approx(0.8)
    assert numbers["classes"][0]["precision"] == 1
    assert numbers["classes"][0]["recall"] == pytest.approx(2 / 3)


def test_perfect_detections(tmp_path):
    ground_truth, _ = random_set(23)
    page, numbers = report(tmp_path, ground_truth, hits(ground_truth), read=read)
    assert numbers["metrics"]["AP"] == pytest.approx(1)
    assert all(kind.get("count", 0) == 0 and abs(kind["dAP"]) < 1e-12 for kind in numbers["errors"]["kinds"].values())
    assert all(cell["true"] == cell["detected"] for cell in numbers["confusion"]["cells"])
    assert numbers["pictures"] == page.pictures == []
    assert "No image has an error" in " ".join(page.text)


def test_names_never_become_markup(tmp_path):
    ground_truth, results = random_set(24)
    for image in ground_truth["images"]:
        image["file_name"] = f'"><img src=x onerror=alert(1)>{image["id"]}&amp;\ud800.png'
    notes = ["3 <i>boxes</i> left out"]
    page, _ = report(tmp_path, ground_truth, results, read=read, about={"notes": notes})
    text = " ".join(page.text)
    assert set(NAMES) <= {name for name in NAMES if name in text}
    assert '"><img src=x onerror=alert(1)>' in text
    assert "3 <i>boxes</i> left out" in text
    assert "&amp;" in text


def test_many_classes_show_only_those_that_are_taken_for_another(tmp_path):
    boxes = [(1, 10 * k, 0, 3 * k, 50, 2) for k in range(1, 41)]
    ground_truth = truth(boxes, count=5, images=1)
    ground_truth["categories"] = [{"id": 10 * k, "name": f"class-{k:02}"} for k in range(1, 41)]
    results = hits(ground_truth)
    results[6]["category_id"] = 80
    results[30]["bbox"][1] = 300.0
    page, numbers = report(tmp_path, ground_truth, results)
    source = (tmp_path / "index.html").read_text()
    table = source[source.index('class="confusion"') : source.index("Not in the table")]
    assert sorted(set(re.findall(r"class-\d\d", table))) == ["class-07", "class-08"]
    text = " ".join("".join(page.text).split())
    assert "38 classes, 38 of them never taken for another" in text
    assert "together 37 boxes right, 1 missed, 1 false, 0 times mixed up" in text
    assert {"true": 70, "detected": 80, "count": 1} in numbers["confusion"]["cells"]
    assert "All 40 classes" in text


# The worst images

WORST = truth(
    [
        (1, 10, 0, 0, 20, 20), (2, 10, 0, 0, 20, 20), (2, 20, 50, 0, 20, 20), (2, 30, 0, 50, 30, 30),
        (3, 10, 0, 0, 20, 20), (4, 20, 50, 50, 40, 40, 1),
    ],
    images=5,
)  # fmt: skip
SEEN = found(
    (1, 10, 0.9, 0, 0, 20, 20), (2, 20, 0.8, 0, 0, 20, 20), (2, 20, 0.8, 70, 70, 20, 20), (2, 20, 0.9, 75, 10, 20, 20),
    (3, 10, 0.3, 0, 0, 20, 20), (4, 20, 0.9, 55, 55, 10, 10), (5, 30, 0.9, 0, 0, 8, 8), (5, 30, 0.9, 30, 0, 8, 8),
)  # fmt: skip


def test_worst_images_and_what_went_wrong_in_them():
    table = analyse(WORST, SEEN, coco_metrics(WORST, SEEN)).table
    result = confusion(table, overlaps(table), 0.5)
    rows = worst(table, result, 12)
    assert table.image_ids[rows].tolist() == [2, 5, 3]  # five, two and one errors
    assert table.image_ids[worst(table, result, 1)].tolist() == [2]
    first, second, third = (picture(table, result, int(row), None) for row in rows)
    names = NAMES
    assert first.errors == f"2 missed ({names[1]}, {names[2]}); 1 wrong class ({names[0]} taken for {names[1]});" + (
        f" 2 false (2 {names[1]})"
    )
    assert (first.right, first.missed, first.wrong_class, first.false) == (0, 2, 1, 2)
    assert second.errors == f"2 false (2 {names[2]})"
    assert third.errors == f"1 missed ({names[0]})"
    assert first.predicted is first.true is None


def test_pictures_show_boxes_and_stripes_where_they_are_wrong():
    table = analyse(WORST, SEEN, coco_metrics(WORST, SEEN)).table
    result = confusion(table, overlaps(table), 0.5)
    asked = []

    def gray(image_id, file_name):
        asked.append((image_id, file_name))
        return np.full((560, 560, 3), 120, np.uint8)  # the size of the page: one pixel is one pixel

    two = picture(table, result, 1, gray)
    three = picture(table, result, 2, gray)
    assert asked == [(2, "2.png"), (3, "3.png")]
    stripes = {(60, 60, 60), (120, 120, 120), (188, 188, 188)}

    def colors(image, x, y, size):
        return set(map(tuple, image[y : y + size, x : x + size].reshape(-1, 3).tolist()))

    assert colors(three.predicted, 0, 0, 560) == {(120, 120, 120)}  # its box has a low score
    assert stripes <= colors(three.true, 0, 0, 20)
    assert stripes <= colors(two.predicted, 70, 70, 20)
    assert stripes <= colors(two.true, 0, 50, 30)
    assert colors(two.true, 90, 90, 100) == {(120, 120, 120)}


def test_a_picture_that_cannot_be_read_is_told(tmp_path):
    def broken(image_id, file_name):
        if image_id == 2:
            raise DataError(f"{file_name}: the image is broken")
        raise FileNotFoundError(2, "No such file or directory", file_name)

    page, numbers = report(tmp_path, WORST, SEEN, read=broken)
    text = " ".join(page.text)
    assert "No picture: 2.png: the image is broken" in text
    assert "No picture: 5.png: No such file or directory" in text
    assert page.pictures == []
    assert len(numbers["pictures"]) == 2


def test_the_pictures_of_the_page_are_what_was_drawn(tmp_path):
    page, numbers = report(tmp_path, WORST, SEEN, read=read)
    opened = [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in page.pictures]
    assert {image.size for image in opened} == {(560, 224)}
    assert len(opened) == 2 * len(numbers["pictures"]) == 4


# Pieces


def test_charts_leave_out_what_is_straight_and_what_is_unknown():
    x = np.linspace(0, 1, 5)
    drawn = chart([Line(x, np.array([1, 1, 1, 0.5, np.nan]), "a", "<x>")], Axis("s"), "p", "d", 0.25)
    [points] = re.findall('points="([^"]*)"', drawn)
    assert len(points.split()) == 3
    assert "&lt;x&gt;" in drawn
    assert 'class="mark"' in drawn


def test_speed_leaves_out_the_first_batch_of_each_canvas(monkeypatch):
    clock = iter(np.cumsum([0, 9.0, 0, 1.0, 0, 8.0, 0, 0.5, 0, 1.5, 0, 7.0]))
    monkeypatch.setattr("dyhead_jax.evaluation.report.speed.time.perf_counter", lambda: next(clock))
    timed = TimedDetect(lambda images, sizes: {"boxes": images + sizes})
    for height in (10, 10, 20, 20, 20, 30):
        assert timed(np.zeros((4, height, 5, 3)), 1)["boxes"].max() == 1
    summary = timed.summary(2)
    assert summary is not None
    assert [(c["height"], c["batches"], c["ms_per_image"]) for c in summary["canvases"]] == [(10, 1, 250), (20, 2, 250)]
    assert summary["ms_per_image"] == 500  # twice 250
    assert summary["canvases_of_one_batch"] == 1
    assert TimedDetect(lambda *_: 1).summary(1) is None


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (DataConfig(root="mine"), {"folder": "mine", "source": "CocoFolder", "split": "train"}),
        (DataConfig(source="dyhead_jax.data.shapes:Shapes"), {"source": "Shapes", "split": "train"}),
    ],
)
def test_the_lines_on_data(data, names):
    lines = dict(setting.data_lines(data, "train"))
    assert lines.pop("annotations", "annotations/instances_train.json") == "annotations/instances_train.json"
    assert lines == names
