"""A run goes on with the classes of its checkpoint, by name, whatever order the data lists them in."""

import json
import signal

import jax
import pytest

from dyhead_jax import convert, detectors, train
from dyhead_jax.data import classes, pipeline
from dyhead_jax.training import steps
from tests.data.folders import rewrite
from tests.inference import tiny_run
from tests.tiny_detector import CANVAS, TinyDetector


class Reached(Exception):
    pass


@pytest.fixture
def run(tmp_path, monkeypatch):
    """(workdir, data) of a model of the classes a and b; training stops where it would read its first batch."""
    monkeypatch.setattr(detectors, "build", lambda model, axis_name=None: TinyDetector(axis_name=axis_name))
    data = tiny_run.write_data(tmp_path / "data")
    config, folder = tiny_run.make_config(data), tmp_path / "run"
    variables = steps.init_variables(TinyDetector(), jax.random.key(0), CANVAS)
    convert.write_workdir(folder, config, jax.device_get(variables), tiny_run.NAMES, tiny_run.IDS)

    def stop(split, *_, **__):
        raise Reached(split)

    monkeypatch.setattr(pipeline, "train_batches", stop)
    monkeypatch.setattr(train.parallel, "make", lambda *_: train.parallel.Single())
    monkeypatch.setattr(train, "use_compilation_cache", lambda *_: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the handler of SIGTERM stays pytest's
    return folder, data


def rename(data, names):
    for part in ("train", "val"):
        content = json.loads((data / "annotations" / f"instances_{part}.json").read_text())
        for category in content["categories"]:
            category["name"] = names[category["id"]]
        rewrite(data, part, content)


def resumed(folder, data, **options):
    with pytest.raises(Reached) as reached:
        train.train(tiny_run.make_config(data), folder, **options)
    return reached.value.args[0]


def test_a_run_goes_on_by_name(run, capsys):
    folder, data = run
    assert not isinstance(resumed(folder, data), classes.Relabelled)
    assert "classes" not in capsys.readouterr().out.replace("2 classes", "")
    rename(data, {3: "b", 7: "a"})
    split = resumed(folder, data)
    assert split.class_names == ("a", "b")
    assert split.category_ids == (7, 3)
    assert "classes matched by name: the data has them in another order than the model in" in capsys.readouterr().out
    rename(data, {3: "a", 7: "c"})
    with pytest.raises(classes.ClassesError, match=rf"the model in {folder} has 2 classes.* 2 b \| c; --classes-by-n"):
        train.train(tiny_run.make_config(data), folder)
    assert resumed(folder, data, by_number=True).class_names == ("a", "c")
