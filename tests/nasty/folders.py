"""Nasty folders of runs: exported models, configs, logs, records of comparisons, dumps of failures."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dyhead_jax import failure
from dyhead_jax.compare import results
from dyhead_jax.compare.candidates import Candidate
from dyhead_jax.compare.runs import Run
from dyhead_jax.config import Config, load_file, to_json, validate
from dyhead_jax.evaluation import average_precision, exported_folder
from dyhead_jax.evaluation.trained_model import InferenceModel, load_for_inference
from dyhead_jax.export import hub_folder
from dyhead_jax.inference import inputs
from dyhead_jax.training import lock, metrics, trackers, workdir
from tests.inference import tiny_run
from tests.nasty import harness, mutations
from tests.tiny_detector import make_batch

Read = Callable[[Path], Any]


def exported(folder: Path, rng: random.Random, bases: Path) -> tuple[list[str], str | None]:
    """An exported model with a changed config.json; opened as every command does that takes one."""
    base = bases / "exported"
    if not base.is_dir():
        base.mkdir()
        config = tiny_run.make_config(Path("none"))
        model = InferenceModel(
            config=config,
            model=None,
            variables=tiny_run.variables(),
            class_names=tiny_run.NAMES,
            category_ids=tiny_run.IDS,
            step=3,
        )
        hub_folder.write(base, model)
    root, work = folder / "model", folder / "here"
    shutil.copytree(base, root)
    work.mkdir()
    said = _change(root / exported_folder.CONFIG, rng)
    ended = harness.run(lambda: _use(load_for_inference(root)), folder=work)
    return [said], ended.fault([root.name])


def _use(loaded: InferenceModel) -> None:
    """What commands print and compute with."""
    data = loaded.config.data
    print(loaded.class_names, loaded.category_ids, loaded.step, hub_folder.preprocessing(loaded.config))
    print(max(data.short_side) / 2, data.canvases[0][0] * data.canvases[0][1], len(loaded.class_names))


def configs(folder: Path, rng: random.Random) -> tuple[list[str], str | None]:
    """A changed config.json of a run, read and checked."""
    path, work = folder / "config.json", folder / "here"
    work.mkdir()
    path.write_text(to_json(rng.choice((Config(), tiny_run.make_config(Path("none"))))))
    said = [_change(path, rng) for _ in range(rng.choice((1, 1, 2)))]

    def read() -> None:
        config = load_file(path)
        try:
            validate(config)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        to_json(config)

    ended = harness.run(read, folder=work)
    return said, ended.fault([path.name])


def _run(folder: Path) -> Run:
    config = Config()
    config.run.steps = 4
    (folder / "a" / "seed0").mkdir(parents=True, exist_ok=True)
    return Run(Candidate("a", "a.py", (), config, "a", "a"), 0, folder / "a" / "seed0")


def _lines() -> str:
    scores = {f"eval/{key}": 0.1 for key in average_precision.KEYS}
    rows = [
        {"step": i, "train/loss": 1.0 / i, "train/images_per_second": 3.0, "train/device_bytes": 9}
        for i in (1, 2, 3, 4)
    ]
    return "".join(json.dumps(row) + "\n" for row in [*rows, {"step": 2, **scores}, {"step": 4, **scores}])


def _record() -> str:
    return json.dumps({"code": 0, "seconds": 3.5, "bytes": 10**8, "loads": [0.1], "machine": {"device": "cpu"}})


def _compared(folder: Path) -> None:
    run = _run(folder)
    found = results.read(run)
    print(run.is_finished, run.has_failed, found, sum(run.record.loads), *run.record.machine.items())
    if found is not None:
        print(f"{found.scores['AP']:.3f} {found.step_seconds:.3f} {found.seconds:.0f} {found.host_bytes / 1e6:.0f}")
        print(f"{found.device_bytes or 0:.1f}")


def _logged(folder: Path) -> None:
    rows = metrics.read_metrics(folder / "metrics.jsonl")
    scores = average_precision.scores_at(rows, 4)
    print(scores and average_precision.ap_line(scores))
    metrics.curves(rows, folder / "curves.png")


def _dumped(folder: Path) -> None:
    batch, ids = failure.load_batch(folder)
    print([value.shape for value in batch.ground_truth.__dict__.values() if value is not None], ids.tolist())
    assert batch.images.dtype == np.uint8
    assert batch.ground_truth.boxes.shape[-1] == 4


def _locked(folder: Path) -> None:
    with lock.held(folder / "other"):
        if (folder / lock.FILE).is_file():
            (folder / "other" / lock.FILE).write_bytes((folder / lock.FILE).read_bytes())
        with lock.held(folder / "other"):
            pass


def _dump(folder: Path) -> None:
    batch, truth = make_batch(2), make_batch(2).ground_truth
    arrays = {"images": batch.images, "image_ids": np.array([1, 2]), "boxes": truth.boxes, "labels": truth.labels}
    arrays |= {"mask": truth.mask, "crowd": truth.crowd, "sizes": truth.sizes}
    np.savez(folder / "batch_0-of-1.npz", **arrays)  # type: ignore[arg-type]


# name: the file that is changed, how it is made, and how it is read
RECORDS: dict[str, tuple[str, Callable[[Path], Any], Read]] = {
    "metrics": ("metrics.jsonl", lambda folder: (folder / "metrics.jsonl").write_text(_lines()), _logged),
    "record": ("a/seed0.json", lambda folder: (_run(folder), _write(folder, _record())), _compared),
    "curve": ("a/seed0/metrics.jsonl", lambda folder: (_run(folder), _write(folder, _record())), _compared),
    "trackers": (
        "trackers.json",
        lambda folder: (folder / "trackers.json").write_text('{"mlflow": "abc", "wandb": "abc"}'),
        lambda folder: [str(trackers._known(folder).get(name)) for name in ("mlflow", "wandb")],
    ),
    "listing": (
        inputs.LISTING,
        lambda folder: (folder / inputs.LISTING).write_text('{"images": [], "pictures": ["a.jpg", "b.jpg"]}'),
        inputs.drawn_before,
    ),
    "lock": (lock.FILE, lambda folder: (folder / lock.FILE).write_text('{"host": "a", "process": 3}'), _locked),
    "dump": ("batch_0-of-1.npz", _dump, _dumped),
    "claimed": (
        "config.json",
        lambda folder: (folder / "config.json").write_text(to_json(Config())),
        lambda folder: ((folder / "checkpoints" / "3").mkdir(parents=True), workdir.check(folder, Config())),
    ),
}


def _write(folder: Path, text: str) -> None:
    (folder / "a" / "seed0.json").write_text(text)
    (folder / "a" / "seed0" / "metrics.jsonl").write_text(_lines())


def records(folder: Path, rng: random.Random) -> tuple[list[str], str | None]:
    """A changed record of a run, read as the command reads it that goes on with it."""
    name = rng.choice(list(RECORDS))
    file, make, read = RECORDS[name]
    root, work = folder / "run", folder / "here"
    root.mkdir()
    work.mkdir()
    make(root)
    path = root / file
    said = _change(path, rng) if path.suffix != ".npz" else mutations.data(path.read_bytes(), rng)[1]
    if path.suffix == ".npz":
        said = _change_arrays(path, rng)
    ended = harness.run(lambda: read(root) and None, folder=work, allowed=[root])
    return [f"{name}: {said}"], ended.fault([path.name, root.name])


def _change_arrays(path: Path, rng: random.Random) -> str:
    content = path.read_bytes()
    if rng.random() < 0.3:
        content, said = mutations.data(content, rng)
        path.write_bytes(content)
        return said
    with np.load(path) as file:
        arrays = dict(file)
    name = rng.choice(list(arrays))
    array = arrays.pop(name)
    new = {
        "float": array.astype(np.float64),
        "text": np.array("a"),
        "cut": array[:1],
        "flat": array.reshape(-1),
        "wide": np.repeat(array, 2, axis=-1),
        "nan": np.full(array.shape, np.nan),
        "negative": -array.astype(np.int64) - 1,
        "half": array[..., : array.shape[-1] // 2],
        "complex": array.astype(complex),
    }
    kind = rng.choice((*new, "gone"))
    if kind != "gone":
        arrays[name] = new[kind]
    np.savez(path, **arrays)
    return f"{name} {kind}"


def _change(path: Path, rng: random.Random) -> str:
    """Changes a file of JSON, or of a JSON on each line."""
    if path.is_symlink() or not path.is_file():
        return "as before"
    content = path.read_bytes()
    how = rng.choice(("tree", "tree", "tree", "tree", "text", "bytes", "place"))
    if how == "place":
        path.unlink()
        kind = rng.choice(("folder", "pipe", "loop"))
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(path.name)
        return f"{path.name} is a {kind}"
    if how == "tree":
        lines = content.strip().split(b"\n") if path.suffix == ".jsonl" else [content]
        row = rng.randrange(len(lines))
        try:
            tree, said = mutations.tree(json.loads(lines[row]), rng)
            lines[row] = mutations.to_text(tree)
        except (ValueError, RecursionError):
            lines[row], said = mutations.data(lines[row] or b" ", rng)
        path.write_bytes(b"\n".join(lines) + b"\n")
        return f"{path.name}: {said}"
    content, said = (mutations.text if how == "text" else mutations.data)(content, rng)
    path.write_bytes(content)
    return f"{path.name}: {said}"
