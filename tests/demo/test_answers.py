"""Answers are those of the Python API and of `look`, for one request and for many at once."""

import dataclasses
import io
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dyhead_jax.data.pictures import color
from dyhead_jax.data.source import DataError
from dyhead_jax.demo.answers import LOWEST_SCORE, Answers
from dyhead_jax.inference.model import Model
from dyhead_jax.look.record import Recorder, RecordError
from dyhead_jax.look.taps import at_cell, cell_at, compose, to_picture
from tests.detectors.kinds import KINDS
from tests.look import trained

SIZES = [(40, 50), (90, 50)]
PIXELS = [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i, size in enumerate(SIZES)]


def encoded(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def loaded():
    loaded = trained.loaded(*KINDS["fcos"])
    # class biases start at -log(99), so that an untrained detector would find nothing
    variables = jax.tree.map(lambda x: jnp.where(x < -4, x + 3, x), loaded.variables)
    return dataclasses.replace(loaded, variables=variables)


@pytest.fixture(scope="module")
def answers(loaded):
    return Answers(loaded)


def test_about(answers):
    classes = [{"name": name, "color": list(color(i))} for i, name in enumerate(("cat", "<b>dog</b>", "bird"))]
    assert answers.about() == {"classes": classes, "step": 7, "lowest_score": LOWEST_SCORE}


@pytest.mark.long
def test_objects_are_those_of_the_model_also_when_asked_at_once(answers, loaded):
    model = Model(loaded)
    expected = [model(pixels, LOWEST_SCORE) for pixels in PIXELS]
    assert all(len(found) for found in expected)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(answers.detect, [encoded(pixels) for pixels in PIXELS] * 3))
    for answer, found in zip(got, expected * 3, strict=True):
        assert (answer["height"], answer["width"]) == found.image.shape[:2]
        np.testing.assert_allclose(answer["boxes"], found.boxes, atol=0.006)
        np.testing.assert_allclose(answer["scores"], found.scores, atol=6e-5)
        np.testing.assert_array_equal(answer["labels"], found.labels)
        assert answer["milliseconds"] > 0


def test_a_photograph_is_turned_upright(answers):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    turned = answers.detect(encoded(np.ascontiguousarray(np.rot90(PIXELS[1])), exif=exif))
    plain = answers.detect(encoded(PIXELS[1]))
    assert {**turned, "milliseconds": 0} == {**plain, "milliseconds": 0}


@pytest.mark.long
def test_samples_are_those_of_look(answers, loaded):
    record = Recorder(loaded)(PIXELS[1])
    answer = answers.taps(encoded(PIXELS[1]), (22.0, 41.0), 1, None)
    assert (answer["level"], answer["strides"]) == (1, [8, 16, 32])
    cell = cell_at(record, 1, (22.0, 41.0))

    def check(group, taps):
        points = to_picture(taps, record)
        rows = [
            (x, y, weight)
            for (x, y), weight, inside in zip(points, taps.weight, taps.inside, strict=True)
            if inside and 0 <= x < 50 and 0 <= y < 90
        ]
        np.testing.assert_allclose(group["samples"], rows, atol=6e-4)
        return len(points) - len(rows)

    for block, got in zip(record.blocks, answer["blocks"], strict=True):
        assert list(got) == ["mid", "low", "high"]
        for kind, group in got.items():
            assert group["beside"] == check(group, at_cell(block, kind, 1, cell, record.sizes))
    last = compose(record.blocks, ["mid"], 1, cell, record.sizes)[-1]
    assert answer["composed"]["beside"] == check(answer["composed"], last.taps) + last.outside
    assert answer["composed"]["left_out"] == 0


def test_the_level_is_that_of_the_box(answers):
    data = encoded(PIXELS[0])
    assert answers.taps(data, (5, 5), None, [0, 0, 40, 40])["level"] == 0
    assert answers.taps(data, (5, 5), None, [0, 0, 400, 400])["level"] == 2
    assert set(answers.taps(data, (5, 5), 0, None)["blocks"][0]) == {"mid", "high"}


def test_what_is_not_there_is_named(answers):
    with pytest.raises(DataError, match="the picture: the image file is empty"):
        answers.detect(b"")
    with pytest.raises(DataError, match="the picture: empty, or not an image"):
        answers.taps(b"text", (1, 1), None, None)
    with pytest.raises(RecordError, match="point 50,1 is not in the picture"):
        answers.taps(encoded(PIXELS[0]), (50, 1), None, None)
    with pytest.raises(RecordError, match="level -1"):
        answers.taps(encoded(PIXELS[0]), (5, 1), -1, None)
