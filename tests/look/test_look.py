"""The command: one page that needs nothing else, pictures on the original, errors of one line, nothing else written."""

import base64
import html
import io
import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from dyhead_jax import command
from dyhead_jax.evaluation import trained_model
from dyhead_jax.inference.objects import FoundObjects
from dyhead_jax.look import __main__ as look
from dyhead_jax.look import overlays, report, write
from dyhead_jax.look.page import Picture, Section, render
from dyhead_jax.look.record import Recorder
from dyhead_jax.look.taps import Taps
from tests.look import trained


@pytest.fixture(scope="module")
def loaded():
    return trained.loaded(trained=False)


@pytest.fixture
def folder(tmp_path, monkeypatch, loaded):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trained_model, "load_for_inference", lambda workdir, step, trust: loaded)
    found(monkeypatch, [[10, 20, 40, 60], [0, 0, 5, 5]])
    pixels = np.random.default_rng(0).integers(0, 256, (90, 50, 3), np.uint8)
    Image.fromarray(pixels).save("a <b> photo.png")
    return tmp_path


def found(monkeypatch, boxes):
    """Lets the model find these, best first."""

    def call(image, score):
        scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
        labels = np.ones(len(boxes), np.int32)
        names = ("cat", "<b>dog</b>")
        return FoundObjects(np.array(boxes, np.float32).reshape(-1, 4), scores, labels, image, names, (1, 2))

    monkeypatch.setattr(write, "Model", lambda loaded: call)


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["look", "--workdir", "w", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command.run(look._main)
    out = capsys.readouterr()
    return ended.value.code, out.out, out.err


def test_the_page_has_everything_in_it(folder, monkeypatch, capsys):
    code, text, err = run(monkeypatch, capsys, "--image", "a <b> photo.png", "--out", "new/out", "--level", 1)
    assert (code, err) == (0, "")
    assert text == "new/out/index.html and 7 pictures; centre of the best detection, <b>dog</b> scored 0.90\n"
    page = (folder / "new/out/index.html").read_text()
    assert "a &lt;b&gt; photo.png" in page
    assert "<b>" not in page
    assert "50 x 90 pixels; the network sees 53 x 96. Model of 2 blocks, step 7." in page
    assert "Point (25, 40): centre of the best detection" in page
    assert "Level 1, stride 16." in page
    assert re.search('https?:|src="(?!data:)|<script|<link|url\\(', page) is None
    files = {path.name: path.read_bytes() for path in (folder / "new/out").iterdir()}
    files.pop("index.html")
    assert set(files) == {
        "point.png",
        "taps_block_1.png",
        "taps_block_2.png",
        "taps_composed.png",
        "scale_weights.png",
        "task_coefficients.png",
        "maps.png",
    }
    embedded = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert sorted(embedded) == sorted(files.values())
    for data in files.values():
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "PNG"
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 10
    assert len(re.findall("<h2>", page)) == page.count("<section>") == 4


def test_the_point_given_is_looked_at(folder, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(write, "sections", lambda _, point, level, box: asked.append((level, point, box)) or ([], []))
    code, text, _ = run(
        monkeypatch, capsys, "--image", "a <b> photo.png", "--out", "out", "--point", "12.5,70", "--level", 2
    )
    assert code == 0
    assert "the point given" in text
    assert asked == [(2, (12.5, 70.0), None)]


def test_without_a_detection_the_centre_is_looked_at(folder, monkeypatch, capsys):
    found(monkeypatch, [])
    monkeypatch.setattr(write, "sections", lambda record, point, level, box: ([], [f"{point} {level} {box}"]))
    code, text, _ = run(monkeypatch, capsys, "--image", "a <b> photo.png", "--out", "out")
    assert code == 0
    assert text == (
        "out/index.html and 0 pictures; centre of the picture, in which nothing was detected\n"
        "not shown: (25.0, 45.0) 0 None\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--point", "50,3"], 1, "point 50,3 is not in the picture of 50x90 pixels"),
        (["--point", "3"], 2, "--point 3: give two numbers, as in 320,200"),
        (["--level", "3"], 1, "level 3: the model has levels 0 to 2 (strides 8, 16, 32)"),
        (["--image", "text.png"], 1, "text.png: empty, or not an image"),
        (["--image", "absent.png"], 1, "absent.png: No such file or directory"),
        (["--out", "text.png"], 2, "--out text.png: is a file; give a folder"),
        (["--image", "maps.png", "--out", "."], 1, "maps.png: is the input and would be overwritten"),
        (["--config.x=1"], 2, "'--config.x=1' is not an option"),
    ],
)
def test_errors_are_one_line_and_write_nothing(arguments, code, message, folder, monkeypatch, capsys):
    (folder / "text.png").write_text("hello")
    (folder / "a <b> photo.png").rename(folder / "maps.png")
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    # the last of an option given twice counts
    given = run(monkeypatch, capsys, "--image", "maps.png", "--out", "out", *arguments)
    assert given[:2] == (code, "")
    assert given[2].startswith(f"error: {message}")
    assert given[2].count("\n") == 1
    assert {path: path.read_bytes() for path in folder.rglob("*")} == before


class Own(nn.Module):
    """A task attention that records a map, a vector, numbers and what has no picture."""

    @nn.compact
    def __call__(self, x):
        gate = nn.sigmoid(nn.Dense(x.shape[-1])(x.mean((1, 2))))
        self.sow("intermediates", "gate", gate)
        self.sow("intermediates", "focus", jnp.abs(x[..., :3]))
        self.sow("intermediates", "temperature", jnp.float32(1.5))
        self.sow("intermediates", "cube", jnp.zeros((1, 2, 3, 5)))
        return x * gate[:, None, None]


@pytest.fixture(scope="module", params=[False, True], ids=["loop", "scan"])
def own(request):
    loaded = trained.loaded(trained=False, task=Own, spatial="none", scale="none", scan=request.param)
    return Recorder(loaded)(np.random.default_rng(0).integers(0, 256, (90, 50, 3), np.uint8))


@pytest.mark.long
def test_attentions_of_ones_own_take_part(own):
    found, notes = report.sections(own, (20.0, 30.0), 0, None)
    pictures = {picture.shows: picture.name for section in found for picture in section.pictures}
    assert pictures == {
        "Features by level, before and after each block": "maps.png",
        **{f"task/{name}/{i}": f"recorded_task_{name}_{i}.png" for name in ("gate", "focus") for i in range(3)},
    }
    assert notes[:3] == [
        "Samples of deformable kernels: the spatial attention records none at level 0",
        "Weights of the levels: the scale attention records none",
        "Coefficients of the channels: the task attention records none",
    ]
    assert sorted(notes[3:]) == sorted(
        [f"task/temperature/{i}: 1.5, 1.5 (by block)" for i in range(3)]
        + [f"task/cube/{i}: recorded [2, 3, 5], neither a map of a level nor a vector" for i in range(3)]
    )


def test_the_region_holds_all_taps_of_the_picture(own):
    taps = Taps(np.zeros(3, int), np.array([0.0, 5, -9]), np.array([0.0, 4, 2]), np.ones(3), np.ones(3, bool))
    x1, y1, x2, y2 = overlays.region_of(own, [taps], (20.0, 30.0), 8)
    assert 0 <= x1 < x2 <= 50
    assert 0 <= y1 < y2 <= 90
    assert x1 <= 0.5 * 8 / own.scale[1]
    assert y2 >= 5.5 * 8 / own.scale[0]


def test_strength_is_the_root_mean_square():
    array = np.random.default_rng(0).normal(size=(3, 4, 2, 5))
    for i, j in np.ndindex(3, 4):
        expected = (sum(v * v for v in array[i, j].ravel().tolist()) / 10) ** 0.5
        assert overlays.strength(array)[i, j] == pytest.approx(expected)


def test_texts_are_escaped():
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1"
    evil = '"><script>&'
    page = render(evil, [evil], [Section(evil, evil, evil, [Picture("x.png", png, evil)])], [evil])
    assert "<script>" not in page
    assert page.count(html.escape(evil)) == 9
