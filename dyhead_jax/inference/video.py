"""Videos frame by frame, by OpenCV, and back into a video of the pictures with boxes."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np

from dyhead_jax.files import atomic
from dyhead_jax.inference.inputs import PredictError


class Video:
    """The frames of a video file, (h, w, 3) uint8 RGB each, turned as the file says.

    count: how many frames the file claims to have, 0 if it does not say; rate: frames a second. Use it as a context
    manager. Raises PredictError for a file that OpenCV cannot read.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise PredictError(f"{path}: no such file")
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise PredictError(f"{path}: OpenCV cannot read this video")
        self.path = path
        self.count = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.rate = rate if 0 < rate < 1000 else 25.0

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            good, frame = self._capture.read()
            if not good:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()


class VideoWriter:
    """Writes frames of one size, (h, w, 3) uint8 RGB. works: whether OpenCV here can write this kind of file."""

    def __init__(self, path: Path, rate: float):
        self._path, self._rate = path, rate
        self._writer: cv2.VideoWriter | None = None
        self.works = True

    def add(self, frame: np.ndarray) -> None:
        if self._writer is None:
            height, width = frame.shape[:2]
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), fourcc, self._rate, (width, height))
            self.works = self._writer.isOpened()
        if self.works:
            self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
        self.works = self._path.is_file() and self._path.stat().st_size > 0


@contextmanager
def write_video(path: Path, rate: float) -> Iterator[VideoWriter]:
    """A writer of the .mp4 file `path`. When the block ends, that is there whole, or not at all: see its `works`."""
    with suppress(_NotWritten), atomic(path) as temporary:
        writer = VideoWriter(temporary, rate)
        try:
            yield writer
        finally:
            writer.close()
        if not writer.works:
            raise _NotWritten


class _NotWritten(Exception):
    """Leaves `atomic` without a file."""
