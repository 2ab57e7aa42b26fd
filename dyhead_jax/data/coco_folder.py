"""A data set of one's own: COCO instances JSON and a folder of images for each split.

By default the folder is read as it is, image by image: it already allows random access, nothing is copied, and an error
names the user's own file. With `prepared` the encoded images are first packed, unchanged, into array_record files with
the annotations in the schema of tfds `coco/2017` (see `builders`): for network disks, where many small files are slow.
Annotations come from the JSON in both cases, so both give the same examples.
"""

from pathlib import Path

from dyhead_jax.data import coco_json, images
from dyhead_jax.data.coco_split import CocoSplit
from dyhead_jax.data.encoded import FolderImages
from dyhead_jax.data.source import DataError


class CocoFolder:
    """The `source.Source` of a folder with COCO-JSON annotations.

    root: the folder; the four paths are relative to it. limit: only the first so many images of each split, 0 for
    all. prepared: pack the images into array_record files under <workdir>/data first.
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
        workdir: Path,
    ):
        if not root:
            raise DataError("config.data.root is empty; give the folder of the data set")
        self._root = Path(root)
        self._parts = {"train": (train_annotations, train_images), "val": (val_annotations, val_images)}
        self._limit = limit
        self._prepared = prepared
        self._workdir = workdir
        self._splits: dict[str, CocoSplit] = {}

    def split(self, name: str) -> CocoSplit:
        """The split "train" or "val". Every image's header is read, so that a missing file is found at the start.

        Raises DataError, which names the file, also when the two splits have different categories.
        """
        if name not in self._parts:
            raise DataError(f"there is no split {name!r}; there are {', '.join(self._parts)}")
        if name not in self._splits:
            self._splits[name] = self._open(name)
        first, *others = self._splits.values()
        for other in others:
            if (first.category_ids, first.class_names) != (other.category_ids, other.class_names):
                raise DataError(f"{first.index.path} and {other.index.path} have different categories")
        return self._splits[name]

    def _open(self, name: str) -> CocoSplit:
        if not self._root.is_dir():
            raise DataError(f"the data folder {self._root} does not exist")
        annotations, folder = (self._root / part for part in self._parts[name])

        def size_of(file_name: str) -> tuple[int, int]:
            path = folder / file_name
            try:
                with path.open("rb") as file:
                    return images.size(file, str(path))
            except OSError as error:
                raise DataError(f"{path}, named in {annotations}, cannot be read: {error.strerror}") from error

        index = coco_json.load(annotations, limit=self._limit, size_of=size_of)
        files = FolderImages(folder, index.file_names)
        if not self._prepared:
            return CocoSplit(index, files)
        from dyhead_jax.data.packing import tfds_builder

        return CocoSplit(index, tfds_builder.packed(index, files, self._workdir / "data", name))
