"""Every command, with something nasty in each place where it takes a file or a folder: one line and no traceback."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dyhead_jax import benchmark, convert, detectors, evaluate, failure, predict, train
from dyhead_jax.compare import __main__ as compare
from dyhead_jax.config import Config, to_json
from dyhead_jax.contract import __main__ as contract
from dyhead_jax.data import __main__ as data
from dyhead_jax.demo import __main__ as demo
from dyhead_jax.export import __main__ as export
from dyhead_jax.look import __main__ as look
from tests.nasty import harness
from tests.tiny_detector import TinyDetector

Main = Callable[[], int | None]
TINY = """from dyhead_jax.config import *


def get_config():
    alone = {"parallel": "single", "compilation_cache": "off"}
    source = ShapesConfig(root="drawn", train_images=1, val_images=1, size=32)
    sizes = {"canvases": ((8, 8),), "short_side": (8,), "long_side": 8, "batch_size": 1, "eval_batch_size": 1}
    data = DataConfig(source=source, **sizes)
    return Config(model=ModelConfig(num_classes=6), data=data, run=RunConfig(steps=1, **alone))
"""
# {} stands for the nasty one; the other files are beside it
TAKES: dict[str, list[tuple[Main, str]]] = {
    "model": [
        (evaluate._main, "--workdir {}"),
        (predict._main, "--workdir {} --out out good.png"),
        (export._main, "--workdir {} --format safetensors --out out"),
        (look._main, "--workdir {} --image good.png --out out"),
        (demo._main, "--workdir {} --port 0"),
        (convert._main, "--to-torch --workdir {} --layout mmdet --out out.npz"),
        (failure._main, "{}"),
        (train.main, "--config=tiny.py --workdir=out --config.model.init={}"),
    ],
    "new folder": [
        (train.main, "--config=tiny.py --workdir={}"),
        (compare._main, "tiny.py --workdir {}"),
        (convert._main, "good.npz --config=tiny.py --workdir {}"),
        (predict._main, "--workdir none --out {} good.png"),
        (look._main, "--workdir none --image good.png --out {}"),
        (data._main, "show --config=absent --out {}"),
        (evaluate._main, "--annotations good.json --detections found.json --report {}"),
    ],
    "picture": [
        (predict._main, "--workdir none --out out {}"),
        (export._main, "--workdir none --format onnx --out out --check {}"),
        (look._main, "--workdir none --image {} --out out"),
    ],
    "data": [
        (data._main, "check {}"),
        (data._main, "show --config=photos:{} --out out"),
        (data._main, "prepare coco --source {} --out out"),
        (train.main, "--config=photos:{} --workdir=out"),
        (train.main, "--config=tiny.py --workdir=out --config.data.source=dyhead_jax.data.photos:Photos"
         " --config.data.root={}"),
        (compare._main, "photos:{} --workdir out"),
        (benchmark.main, "train --config=photos:{}"),
    ],
    "json": [
        (evaluate._main, "--annotations {} --detections found.json"),
        (evaluate._main, "--annotations good.json --detections {}"),
        (convert._main, "good.npz --config=tiny.py --workdir out --categories {}"),
    ],
    "weights": [
        (convert._main, "{} --config=tiny.py --workdir out"),
        (train.main, "--config=tiny.py --workdir=out --config.model.pretrained={}"),
        (train.main, "--config=tiny.py --workdir=out --config.model.init={}"),
    ],
    "config": [
        (train.main, "--config={} --workdir=out"),
        (convert._main, "good.npz --config={} --workdir out"),
        (data._main, "show --config={} --out out"),
        (compare._main, "{} --workdir out"),
        (benchmark.main, "infer --config={}"),
        (benchmark.main, "cost --config={}"),
    ],
    "import path": [
        (contract._main, "--spatial {}"),
        (contract._main, "--block {}"),
        (train.main, "--config=tiny.py --workdir=out --config.model.dyhead.task={}"),
    ],
}  # fmt: skip
# new folders in which a training would begin, or, of `compare`, the processes before it
RUNS: dict[Main, set[str]] = {
    train.main: {"missing", "an empty folder", "a config of bytes"},
    compare._main: {"missing", "an empty folder", "a config of bytes", "a log of bytes", "a link to itself"},
}


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _folder(path: Path) -> None:
    path.mkdir()


def _inside(name: str, content: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)

    return make


def _bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


DEEP = b"[" * 100_000
ANYWHERE: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: None,
    "a pipe": _pipe,
    "a link to itself": _loop,
    "an empty folder": _folder,
    "an empty file": _bytes(b""),
    "random bytes": _bytes(np.random.default_rng(0).bytes(3000)),
    "deep": _bytes(DEEP),
}
EXPORTED = b'{"model_type": "dyhead_jax", "dyhead_jax_format": 1, "id2label": {}, "category_ids": [], "step": 1, '
MORE: dict[str, dict[str, Callable[[Path], None]]] = {
    "model": {
        "a deep config": _inside("config.json", DEEP),
        "a checkpoint without anything": _inside("checkpoints/3/meta/metadata", b""),
        "a checkpoint of bytes": _inside("checkpoints/3/variables/manifest.ocdbt", b"\0" * 99),
        "an exported folder of bytes": _inside("model.safetensors", b"\xff" * 99),
        "an exported deep one": lambda path: (
            _inside("model.safetensors", b"")(path),
            _inside("config.json", EXPORTED + b'"dyhead_jax": ' + DEEP)(path),
        )[0],
        "a failure": _inside("batch_0-of-1.npz", b"PK\x03\x04" + bytes(99)),
    },
    "new folder": {
        "a config of bytes": _inside("config.json", b"\xff\xfe{"),
        "a log of bytes": lambda path: (
            _inside("metrics.jsonl", b"\xff\xfe{\n[]\n")(path),
            _inside("config.json", to_json(Config()).encode())(path),
            _inside("checkpoints/3000/meta/metadata", b"{")(path),
        )[0],
    },
    "data": {
        "a zip that is none": _inside("train2017.zip", b"PK\x03\x04" + bytes(99)),
        "an annotation file of bytes": _inside("annotations.json", b'"images" "annotations" "categories" \xff'),
    },
    "config": {
        "a syntax error": _bytes(b"def get_config(:\n"),
        "an error": _bytes(b"def get_config():\n    raise KeyError('a\\nb')\n"),
        "another thing": _bytes(b"def get_config():\n    return 3\n"),
        "not UTF-8": _bytes(b"# caf\xe9\n"),
        "null bytes": _bytes(b"a = 1\0\n"),
        "an exit": _bytes(b"raise SystemExit(3)\n"),
    },
}  # fmt: skip
PATHS = ("", ":", "a:b", "dyhead_jax.dyhead:absent", "dyhead_jax:__doc__", "builtins:dict", "a\nb:c", "\u00e9" * 300)
QUICK = {"missing", "a pipe", "random bytes", "a link to itself"}
CASES = [
    pytest.param(kind, name, make, id=f"{kind}: {name}", marks=[] if name in QUICK else [pytest.mark.long])
    for kind in TAKES
    if kind != "import path"
    for name, make in {**ANYWHERE, **MORE.get(kind, {})}.items()
]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the commands are called. Every detector is the tiny one."""
    monkeypatch.setattr(detectors, "build", lambda model, axis_name=None: TinyDetector(axis_name=axis_name))
    work = tmp_path / "here"
    work.mkdir()
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(work / "good.png")
    classes = [{"id": 1, "name": "a"}]
    (work / "good.json").write_text(json.dumps({"images": [], "annotations": [], "categories": classes}))
    (work / "found.json").write_text("[]")
    (work / "tiny.py").write_text(TINY)
    np.savez(work / "good.npz", a=np.zeros(3))
    return work


def _end(main: Main, line: str, nasty: str, work: Path, *names: str) -> None:
    arguments = [part.replace("{}", nasty) for part in line.split()]
    allowed = [work / name for name in ("out", "nasty", "drawn", ".incomplete", ".lock")]
    ended = harness.run(main, *arguments, folder=work, allowed=allowed)
    wrong = ended.fault([nasty, *names])
    assert wrong is None, f"{arguments}: {wrong}"


@pytest.mark.parametrize(("kind", "name", "make"), CASES)
def test_something_else_in_its_place(kind: str, name: str, make: Callable[[Path], None], work: Path) -> None:
    make(work / "nasty")
    for main, line in TAKES[kind]:
        if kind != "new folder" or name not in RUNS.get(main, ()):
            _end(main, line, "nasty", work, "none", "good.npz", "absent")


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_import_paths(path: str, work: Path) -> None:
    for main, line in TAKES["import path"]:
        _end(main, line, path, work, "import path", "--config.model.dyhead", "named parameters")
