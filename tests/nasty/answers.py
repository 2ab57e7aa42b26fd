"""Nasty files of detections and of ground truth for `evaluate`, and of weights for `convert` and for training."""

import io
import json
import os
import pickle
import random
import warnings
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import numpy as safetensors

from dyhead_jax import convert, evaluate
from dyhead_jax.config import flags
from dyhead_jax.weights import files, layouts, state_dict
from tests.inference import tiny_run
from tests.nasty import harness, mutations
from tests.weights import torch_writer

KEPT = 16  # pixels of a side of the pictures of `results`


def results(folder: Path, rng: random.Random) -> tuple[list[str], str | None]:
    """Detections and ground truth, either or both changed; what is nasty, and what is wrong with the reaction."""
    work, report = folder / "here", folder / "report"
    work.mkdir()
    truth, found = _truth(), _found()
    words = []
    contents = {"truth.json": truth, "found.json": found}
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(("truth.json", "found.json", "found.json"))
        content = contents[name]
        if isinstance(content, bytes) or rng.random() < 0.1:
            content = content if isinstance(content, bytes) else mutations.to_text(content)
            contents[name], said = rng.choice((mutations.data, mutations.text))(content, rng)
        else:
            contents[name], said = mutations.tree(content, rng)
        words.append(f"{name}: {said}")
    for name, content in contents.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else mutations.to_text(content))
    if rng.random() < 0.03:
        (folder / "found.json").unlink()
        os.mkfifo(folder / "found.json")
        words = ["found.json is a pipe"]
    more = ["--classes"] if rng.random() < 0.5 else []
    more += ["--report", report] if rng.random() < 0.15 else []
    files_of = ["--annotations", folder / "truth.json", "--detections", folder / "found.json"]
    ended = harness.run(evaluate._main, *files_of, *more, folder=work, allowed=[report])
    wrong = ended.fault(["truth.json", "found.json"])
    if wrong is None and ended.code == 0:
        line = ended.out.splitlines()[-1].split()
        values = [float(value) for value in line[1::2]]
        if line[::2] != ["AP", "AP50", "AP75", "APs", "APm", "APl"] or not all(-1 <= value <= 1 for value in values):
            wrong = f"last line {line}"
    return words, wrong


def _truth() -> dict[str, Any]:
    pictures = [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 50} for i in (1, 5)]
    boxes = [[1, 2, 20, 30], [30, 10, 20, 20.5], [5, 5, 6, 9]]
    annotations = [
        {"id": i + 1, "image_id": (1, 5, 5)[i], "category_id": (1, 2, 2)[i], "bbox": box, "area": 100, "iscrowd": 0}
        for i, box in enumerate(boxes)
    ]
    classes = [{"id": 1, "name": "a"}, {"id": 2, "name": "\u87ba\u4e1d"}]
    return {"images": pictures, "annotations": annotations, "categories": classes}


def _found() -> list[dict[str, Any]]:
    boxes = [[1, 2, 20, 30], [29, 11, 20, 20], [5, 5, 7, 9.5], [0, 0, 3, 3]]
    return [
        {"image_id": (1, 5, 5, 1)[i], "category_id": (1, 2, 2, 1)[i], "bbox": box, "score": 0.9 - 0.2 * i}
        for i, box in enumerate(boxes)
    ]


KINDS = ("npz", "npz packed", "safetensors", "zip", "pickle", "zip key")


@cache
def arrays() -> dict[str, np.ndarray]:
    """The weights of a tiny detector under the names of DynamicHead."""
    table = layouts.detector(tiny_run.make_config(Path("none")).model, "official")
    return state_dict.save(table, tiny_run.variables())


@cache
def stored(kind: str) -> bytes:
    """A valid file of weights."""
    stream = io.BytesIO()
    if kind.startswith("npz"):
        (np.savez if kind == "npz" else np.savez_compressed)(stream, **arrays())  # type: ignore[arg-type]
    elif kind == "safetensors":
        return safetensors.save(arrays())
    elif kind == "pickle":
        return pickle.dumps({"state_dict": arrays(), "meta": {"classes": ("a", "b")}, "epoch": 3}, 2)
    else:
        key = {"key": "state_dict", "meta": {"CLASSES": ("a", "b")}} if kind == "zip key" else {}
        torch_writer.save(stream, arrays(), **key)  # type: ignore[arg-type]
    return stream.getvalue()


def weights(folder: Path, rng: random.Random) -> tuple[list[str], str | None]:
    """A file of weights, changed in its bytes, its records or its arrays."""
    kind = rng.choice(KINDS)
    ending = {"npz": "npz", "npz packed": "npz", "safetensors": "safetensors"}.get(kind, "pth")
    path = folder / f"weights.{ending}"
    content, said = stored(kind), "whole"
    how = rng.choice(("bytes", "bytes", "members", "arrays", "head"))
    if how == "members" and content[:2] == b"PK":
        content, said = _members(content, rng)
    elif how == "arrays":
        content, said = _arrays(kind, rng)
    elif how == "head" and kind == "safetensors":
        content, said = _head(content, rng)
    else:
        head = content[: rng.choice((300, 9000))] if rng.random() < 0.5 else content
        changed, said = mutations.data(head, rng)
        content = changed + content[len(head) :]
    path.write_bytes(content)
    work, run = folder / "here", folder / "run"
    work.mkdir()
    if rng.random() < 0.1:
        ended = harness.run(lambda: _convert(path, run), folder=work, allowed=[run])
    else:
        ended = harness.run(lambda: _read(path), folder=work)
    return [f"{kind}: {said}"], ended.fault([path.name])


def _read(path: Path) -> None:
    """Reads a file and finds its layout, as `convert` does."""
    found, meta, _ = files.read(path)
    for name, array in found.items():
        assert isinstance(name, str)
        np.isfinite(array).all()
    try:
        layouts.detect(found)
    except layouts.LayoutError as error:
        raise convert.ConvertError(f"{path}: {error}") from error
    convert.provenance.class_names(meta)


def _convert(path: Path, run: Path) -> None:
    """`python -m dyhead_jax.convert` with a tiny detector, but for the writing."""

    class Options:
        file, key, layout, categories, backbone_only, classes_by_number, list = path, "", "", None, False, False, True

    config = flags.override(tiny_run.make_config(Path("none")), [])
    written: list[Any] = []
    before, convert.write_workdir = convert.write_workdir, lambda *all: written.append(all)  # type: ignore[assignment]
    try:
        convert._from_torch(Options(), config, run)
    finally:
        convert.write_workdir = before


def _members(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A zip with a member dropped, doubled, renamed, compressed, changed or exchanged."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(entry.filename, archive.read(entry), entry.compress_type) for entry in archive.infolist()]
    place = rng.randrange(len(members))
    name, body, packed = members[place]
    kind = rng.choice(("drop", "double", "rename", "pack", "data", "exchange", "bomb", "folder"))
    if kind == "drop":
        del members[place]
    elif kind == "double":
        members.insert(0, (name, rng.choice(members)[1], packed))
    elif kind == "rename":
        members[place] = (
            rng.choice(("../x.npy", "/abs.npy", "a\\b", "", "x" * 400, "\u87ba.npy", f"{name}/")),
            body,
            packed,
        )
    elif kind == "pack":
        members = [(own, data, rng.choice((0, 8, 12, 14))) for own, data, _ in members]
    elif kind == "data":
        members[place] = (name, mutations.data(body, rng)[0], packed)
    elif kind == "exchange":
        other = rng.randrange(len(members))
        members[place], members[other] = (name, members[other][1], packed), (members[other][0], body, packed)
    elif kind == "bomb":
        members[place] = (name, body + bytes(10**7), 8)
    else:
        members.append((f"folder{place}/", b"", 0))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Duplicate name")  # that is what is nasty in some
        for own, data, how in members:
            archive.writestr(zipfile.ZipInfo(own or "none"), data, compress_type=how)
    return stream.getvalue(), f"{kind} {name}"


def _arrays(kind: str, rng: random.Random) -> tuple[bytes, str]:
    """The same file with one of its arrays of another kind, shape, value or name."""
    changed = dict(arrays())
    name = rng.choice(list(changed))
    array = changed[name]
    options: dict[str, Any] = {
        "nan": np.where(np.arange(array.size).reshape(array.shape) == 0, np.nan, array).astype(array.dtype),
        "float64": array.astype(np.float64),
        "int64": (array * 100).astype(np.int64),
        "empty": array[..., :0] if array.ndim else array,
        "flat": array.reshape(-1),
        "turned": array.T,
        "huge": array + np.float32(3e38),
        "scalar": np.float32(1),
        "cut": array[:-1] if array.ndim else array,
    }
    if kind.startswith("npz"):
        options |= {"complex": array.astype(complex), "bool": array > 0, "half": array.astype(np.float16)}
        options |= {"text": np.array(["a"]), "records": np.zeros(2, "f4,i4"), "dates": np.zeros(2, "M8[s]")}
        options |= {
            "big": array.astype(">f4"),
            "objects": np.array([{}], object),
            "axes": array.reshape((1,) * 30 + (-1,)),
        }
    how = rng.choice(list(options))
    changed[rng.choice((name, name, name, name.upper(), "a" * 300, f"{name}\n", ""))] = options[how]
    stream = io.BytesIO()
    said = f"{name} {how}"
    if kind.startswith("npz"):
        np.savez(stream, **{own or "_": value for own, value in changed.items()})  # type: ignore[arg-type]
    elif kind == "safetensors":
        return safetensors.save({own: np.ascontiguousarray(value) for own, value in changed.items()}), said
    elif kind == "pickle":
        pickle.dump(rng.choice((changed, {"model": changed}, [changed], {"model": {"a": changed}})), stream, 2)
    else:
        known = {own: np.asarray(value) for own, value in changed.items() if value.dtype.name in torch_writer.STORAGES}
        torch_writer.save(stream, known)  # type: ignore[arg-type]
    return stream.getvalue(), said


def _head(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A safetensors file with a changed header."""
    size = int.from_bytes(content[:8], "little")
    tree, said = mutations.tree(json.loads(content[8 : 8 + size]), rng)
    head = mutations.to_text(tree)
    return len(head).to_bytes(8, "little") + head + content[8 + size :], said
