"""A pipe in the place of a file is refused by name: reading one would wait for ever."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dyhead_jax.config import CocoFolderConfig, DataConfig
from dyhead_jax.data import images
from dyhead_jax.data.json_file import read_json
from dyhead_jax.data.layouts import coco, parts, voc, yolo
from dyhead_jax.data.source import DataError, make_source
from dyhead_jax.inference import inputs, pictures
from tests.data.folders import write_split


def test_a_named_pipe_in_the_place_of_json_and_one_of_a_shell(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match=r"pipe\.json is a pipe, not a file"):
        read_json(tmp_path / "pipe.json")
    reads, writes = os.pipe()  # as of --detections <(zcat found.json.gz)
    os.write(writes, b"[1]")
    os.close(writes)
    assert read_json(Path(f"/dev/fd/{reads}")) == [1]
    os.close(reads)


@pytest.mark.parametrize(
    "read",
    [images.read_file, pictures.read, yolo.read_lines, voc.read],
    ids=["image", "picture", "label", "xml"],
)
def test_a_pipe_is_refused_by_name(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match=r"pipe\.jpg is a pipe, socket or device, not a file"):
        read(tmp_path / "pipe.jpg")


def test_a_pipe_among_the_images_of_a_data_set(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [(8, 8)], [[]])
    (tmp_path / "train" / "0.png").unlink()
    os.mkfifo(tmp_path / "train" / "0.png")
    with pytest.raises(DataError, match=r"0\.png is a pipe"):
        make_source(DataConfig(source=CocoFolderConfig(root=str(tmp_path))), "unused").split("train")


def test_pipes_among_other_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    os.mkfifo(tmp_path / "clip.mp4")
    os.mkfifo(tmp_path / inputs.LISTING)
    assert coco.candidates(parts.walk(tmp_path)) == []
    assert inputs.drawn_before(tmp_path) == set()
    with pytest.raises(inputs.PredictError, match=r"clip\.mp4: is no file"):
        inputs.find([tmp_path / "clip.mp4"])


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read every folder
    with pytest.raises(DataError, match="closed cannot be read: Permission denied"):
        parts.walk(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    assert inputs.find([tmp_path]).left_out == {f"folders that cannot be read ({tmp_path / 'closed'})": 1}
