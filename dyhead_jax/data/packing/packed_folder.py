"""The image files of a COCO-JSON split, packed once into a folder whose name says what it holds."""

import hashlib
import json
import sys
from pathlib import Path

from dyhead_jax.data.encoded import FolderImages
from dyhead_jax.data.index import Index
from dyhead_jax.data.packing import shards
from dyhead_jax.data.packing.records import PackedImages, SplitRecords
from dyhead_jax.files import write_atomic


def packed(index: Index, images: FolderImages, root: Path, split: str) -> PackedImages:
    """The images of a split out of a packed copy under `root`, which is made when it is not there yet.

    The copy's name carries a digest of the annotations and of every image file's name, size and times of change: after
    an annotation or a picture was changed, another copy is made. Raises DataError.
    """
    *earlier, files = _digests(index, images)
    target = root / f"{split}-{files}"
    if not target.is_dir():
        for folder in (root / f"{split}-{digest}" for digest in earlier):
            if folder.is_dir() and _holds(folder, files, index, images, split):
                target = folder
                break
        else:
            print(f"packing {len(index.file_names)} {split} images into {target}", file=sys.stderr)
            with shards.whole(target) as folder:
                shards.pack(folder, "coco", {split: SplitRecords(index, images)}, index.class_names)
    return PackedImages(target, split, index.image_ids)


def _digests(index: Index, images: FolderImages) -> list[str]:
    """Digests of the annotations alone and with the files' sizes and first times of change, which named the copies of
    earlier versions, and with all of their stamps."""
    described = json.dumps([str(index.path), index.image_ids.tolist(), index.file_names, index.sizes.tolist()])
    annotations = index.path.read_bytes() + described.encode()
    stamps = images.stamps()
    contents = ("", json.dumps([stamp[:2] for stamp in stamps]), json.dumps(stamps))
    return [hashlib.sha256(annotations + content.encode()).hexdigest()[:12] for content in contents]


def _holds(earlier: Path, files: str, index: Index, images: FolderImages, split: str) -> bool:
    """Whether a copy of an earlier version has the image files as they are now; once they were compared, byte for
    byte, a file `same-<files>` in it says so."""
    compared = earlier / f"same-{files}"
    if not compared.exists():
        print(f"comparing the {split} images with {earlier}", file=sys.stderr)
        copies = PackedImages(earlier, split, index.image_ids)
        if any(copies.read(row) != images.read(row) for row in range(len(index.file_names))):
            return False
        write_atomic(compared, b"")
    return True
