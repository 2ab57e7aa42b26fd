"""Reads the arrays of PyTorch checkpoints without PyTorch, and without running anything that a file brings.

Three containers: the zip that `torch.save` writes since PyTorch 1.6, its older form (a row of pickles, then raw
storages), and a plain pickle of NumPy arrays, as in detectron2's model zoo. `torch_pickle` reads the pickles. The file
is mapped into memory, and the arrays of the first two forms are views of it: nothing is copied.
"""

import io
import mmap
import os
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from dyhead_jax.weights.torch_pickle import Array, Inert, Storage, Tensor, TorchFileError, Unpickler

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older form
INNER = ("state_dict", "model", "blobs")  # keys below which trainers put the parameters; the last is Caffe2's


class Checkpoint(NamedTuple):
    """arrays: by name, in the file's order. meta: what its entry "meta" says (mmdetection's), plain values of a
    stranger; {} where there is none. unread: the names of other objects that the file has beside the weights."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    unread: tuple[str, ...] = ()


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of `read_checkpoint`."""
    return read_checkpoint(path).arrays


def read_checkpoint(path: str | Path, key: str = "") -> Checkpoint:
    """All tensors of a checkpoint.

    They are the file's own, or those below its key "state_dict", "model" or "blobs", or below `key` where it is given;
    entries that are plain values (epochs, author, settings) are left out, and so is the prefix "module." (of
    DataParallel and of averaged models) where all names but counters have it. bfloat16 becomes float32, other dtypes
    stay. The arrays are read-only views of the file: it must not be changed in place while they are in use; to remove
    or to replace it does no harm.
    Raises TorchFileError, one line with the file's name, for anything that is not such a file, and for an object among
    the weights that is no tensor or array.
    """
    path = Path(path)
    unread: set[str] = set()
    try:
        with _open(path) as file:
            content = _content(file, unread)
        arrays = _arrays(content, key)
        meta = content.get("meta")
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {error}") from error
    except Exception as error:  # whatever a broken or hostile pickle leads to
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TorchFileError(f"{path} is broken or no PyTorch checkpoint ({reason})") from error
    if not arrays:
        where = f"below {key!r}" if key else f"neither at the top nor below {' or '.join(INNER)}"
        raise TorchFileError(f"{path} holds no arrays, {where}")
    return Checkpoint(without_module(arrays), meta if isinstance(meta, dict) else {}, tuple(sorted(unread)))


def without_module(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names without the prefix "module.", where all but the counters of averaging have it."""
    if not all(name.startswith("module.") or name in ("steps", "n_averaged") for name in arrays):
        return arrays
    return {name.removeprefix("module."): array for name, array in arrays.items()}


def _open(path: Path) -> BinaryIO:
    if path.is_fifo():
        raise TorchFileError("a pipe, not a file")
    try:
        return path.open("rb")
    except OSError as error:
        raise TorchFileError(error.strerror or str(error)) from error


def _content(file: BinaryIO, unread: set[str]) -> Any:
    """The unpickled object, its storages filled with views of the file. Adds to `unread` what `Unpickler.inert` has."""
    if not os.fstat(file.fileno()).st_size:
        raise TorchFileError("no PyTorch checkpoint: it is empty")
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if data[:4] == b"PK\x03\x04":
        return _from_zip(file, data, unread)
    if data[:1] != b"\x80":
        raise TorchFileError("no PyTorch checkpoint: it begins like neither a zip nor a pickle")
    first = _load(Unpickler(data), unread)
    return _from_pickles(data, unread) if isinstance(first, int) and first == MAGIC else first


def _load(unpickler: Unpickler, unread: set[str]) -> Any:
    content = unpickler.load()
    unread |= unpickler.inert
    return content


def _from_zip(file: BinaryIO, data: mmap.mmap, unread: set[str]) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) < len(archive.infolist()):
            raise TorchFileError("a zip with two entries of one name")
        roots = [name for name in entries if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(roots) != 1:
            raise TorchFileError("a zip without one data.pkl: no PyTorch checkpoint")
        # torch.save compresses nothing; so a bomb cannot be one, and the parts cannot be more than the whole
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise TorchFileError("a compressed zip, which torch.save does not write")
        if sum(entry.file_size for entry in entries.values()) > len(data):
            raise TorchFileError("a zip with overlapping entries")
        root = roots[0].removesuffix("data.pkl")
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in entries else b"little"
        if order != b"little":
            raise TorchFileError("a checkpoint of a big-endian machine")
        unpickler = Unpickler(io.BytesIO(archive.read(roots[0])))
        content = _load(unpickler, unread)
        for key, storage in unpickler.storages.items():
            if f"{root}data/{key}" not in entries:
                raise TorchFileError(f"storage {key} is missing")
            storage.fill(_stored(archive, entries[f"{root}data/{key}"], data))
        return content


def _stored(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, data: mmap.mmap) -> memoryview:
    """The bytes of an uncompressed entry where they lie in the file.

    It is read through once, piece by piece: `zipfile` then checks the entry's own header and its checksum.
    """
    size = 0
    with archive.open(entry) as stream:
        while piece := stream.read(2**20):
            size += len(piece)
    header = entry.header_offset  # of 30 bytes, the last four of them the lengths of a name and of extra fields
    lengths = (int.from_bytes(data[header + i : header + i + 2], "little") for i in (26, 28))
    start = header + 30 + sum(lengths)
    return memoryview(data)[start : start + size]


def _from_pickles(data: mmap.mmap, unread: set[str]) -> Any:
    Unpickler(data).load()  # protocol version
    machine = Unpickler(data).load()
    if machine.get("little_endian") is not True:
        raise TorchFileError("a checkpoint of a big-endian machine")
    unpickler = Unpickler(data)
    content = _load(unpickler, unread)
    keys = Unpickler(data).load()
    position = data.tell()
    for key in keys:
        if not isinstance(key, str) or key not in unpickler.storages:
            raise TorchFileError("a storage that no tensor names")
        storage: Storage = unpickler.storages[key]
        start, size = position + 8, storage.numel * storage.dtype.itemsize
        if int.from_bytes(data[position:start], "little") != storage.numel:
            raise TorchFileError(f"storage {key} has another size than its tensors say, or the file ends before it")
        storage.fill(memoryview(data)[start : start + size])
        position = start + size
    return content


def _arrays(content: Any, key: str) -> dict[str, np.ndarray]:
    if not isinstance(content, dict):
        kind = content.name if isinstance(content, Inert) else type(content).__name__
        raise TorchFileError(f"holds a {kind}, not a dict of tensors")
    if key:
        if not isinstance(content.get(key), dict):
            inside = ", ".join(
                name for name, value in content.items() if isinstance(value, dict) and isinstance(name, str)
            )
            raise TorchFileError(f"has no dict below the key {key!r}; its dicts are {(inside or 'none')[:200]}")
        content = content[key]
    else:
        content = next((content[name] for name in INNER if isinstance(content.get(name), dict)), content)
    arrays = {}
    for name, value in content.items():
        if isinstance(value, Inert):
            raise TorchFileError(
                f"refused: {str(name)[:80]!r} among the weights is a {value.name}, not a tensor or array"
            )
        if isinstance(value, Tensor | Array):
            if not isinstance(name, str | int):
                raise TorchFileError("a tensor whose name is no text")
            arrays[str(name)] = value.array()
    return arrays
