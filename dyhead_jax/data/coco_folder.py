"""A data set of one's own: COCO instances JSON and a folder of images for each split.

By default the images are read from the folder one by one: that is random access already, nothing is copied, and an
error names the user's own file. With `prepared` the encoded images are first packed, unchanged, into array_record files
(see `packing`), for network disks, where many small files are slow. Annotations come from the JSON in both cases, so
that both give the same examples.
"""

from pathlib import Path

from dyhead_jax import command
from dyhead_jax.data import coco_json, frames
from dyhead_jax.data.coco_source import CocoSource
from dyhead_jax.data.coco_split import CocoSplit
from dyhead_jax.data.encoded import FolderImages, header_of
from dyhead_jax.data.source import DataError


class CocoFolder(CocoSource):
    """The `source.Source` of a folder with COCO-JSON annotations.

    root: the folder; the four paths are relative to it. limit: only the first so many images of each split, 0 for
    all. prepared: pack the images into array_record files under <workdir>/data first. box_frame: as in `frames.find`.
    """

    def __init__(
        self,
        *,
        root: str,
        train_annotations: str,
        train_images: str,
        val_annotations: str,
        val_images: str,
        limit: int,
        prepared: bool,
        box_frame: str,
        workdir: Path,
    ):
        super().__init__()
        if not root:
            raise DataError("config.data.root is empty; give the folder of the data set")
        frames.check_choice(box_frame)
        self._root = command.path(root)
        self._parts = {"train": (train_annotations, train_images), "val": (val_annotations, val_images)}
        self._limit = limit
        self._prepared = prepared
        self._box_frame = box_frame
        self._workdir = workdir

    def _open(self, name: str) -> CocoSplit:
        """Reads the header of every image, so that a missing file is found at the start."""
        if not self._root.is_dir():
            raise DataError(f"the data folder {self._root} does not exist")
        annotations, folder = (self._root / part for part in self._parts[name])
        index = coco_json.load(
            annotations,
            limit=self._limit,
            header_of=lambda name: header_of(folder / name, annotations),
            box_frame=self._box_frame,
        )
        files = FolderImages(folder, index.file_names)
        if not self._prepared:
            return CocoSplit(index, files)
        from dyhead_jax.data.packing import packed_folder  # tfds takes a second to import

        return CocoSplit(index, packed_folder.packed(index, files, self._workdir / "data", name))
