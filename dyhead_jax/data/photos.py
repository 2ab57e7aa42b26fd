"""A folder of photographs as people have them: COCO JSON, YOLO or Pascal VOC, found by looking.

Nothing is copied: images are read where they are. What was found is the first of a split's notes.
"""

from pathlib import Path
from typing import Any

from dyhead_jax import command
from dyhead_jax.data import frames, index
from dyhead_jax.data.coco_source import CocoSource
from dyhead_jax.data.coco_split import CocoSplit
from dyhead_jax.data.encoded import FolderImages
from dyhead_jax.data.layouts.find import Options, find
from dyhead_jax.data.layouts.parts import Layout, Part
from dyhead_jax.data.source import DataError


class Photos(CocoSource):
    """The `source.Source` of a folder of photographs.

    root: the folder. annotations, images, val_annotations, val_images: where to look, relative to root or absolute; ""
    looks. val_fraction: of the images of a folder without a validation part, chosen by the hash of their names. 0 has
    none. class_names: of YOLO labels without a file that names the classes. limit: only the first so many images of
    each split, 0 for all. box_frame: as in `frames.find`.
    """

    def __init__(
        self,
        *,
        root: str,
        annotations: str,
        images: str,
        val_annotations: str,
        val_images: str,
        val_fraction: float,
        class_names: tuple[str, ...],
        limit: int,
        box_frame: str,
        workdir: Path,
    ):
        super().__init__()
        if not root:
            raise DataError("config.data.root is empty; give the folder of the photographs")
        if not 0 <= val_fraction < 1:
            raise DataError(f"config.data.source.val_fraction is {val_fraction}; it must be at least 0 and below 1")
        frames.check_choice(box_frame)
        self._root = command.path(root)
        self._options = Options(annotations, images, val_annotations, val_images, val_fraction, tuple(class_names))
        self._limit = limit
        self._box_frame = box_frame
        self._layout: Layout | None = None

    def layout(self) -> Layout:
        """What was found, looked for once. Raises DataError."""
        if self._layout is None:
            if not self._root.is_dir():
                raise DataError(f"the data folder {self._root} does not exist")
            self._layout = find(self._root, self._options)
        return self._layout

    def _open(self, name: str) -> CocoSplit:
        """Reads the header of every image, so that a missing file is found at the start."""
        layout = self.layout()
        if name not in layout.parts:
            raise DataError(f"{self._root} has no validation part, and config.data.source.val_fraction is 0")
        split = PhotoSplit(layout.parts[name], self._limit, self._box_frame)
        found = f"found {layout.kind} ({layout.where}): {len(split)} {name} images, {len(split.class_names)} classes"
        split.notes[:0] = [found, *layout.notes]
        return split


class PhotoSplit(CocoSplit):
    """A part of such a folder. Its annotations are read again for the ground truth."""

    def __init__(self, part: Part, limit: int, box_frame: str = ""):
        found = part.read(limit)
        files = FolderImages(found.folder, [image.file_name for image in found.images])
        headers = [header for header in files.headers(found.records.path) if header is not None]
        frame = frames.find(found.records, found.images, headers, box_frame)
        super().__init__(index.make_index(found.records, found.images, frame, judged=not box_frame), files)
        self._part = part

    def coco(self) -> dict[str, Any]:
        """See `source.Split.coco`."""
        return index.ground_truth(self.index, self._part.read(len(self)).records)
