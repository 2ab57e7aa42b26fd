"""A small writer of PyTorch's zip format, for tests that run where PyTorch is absent."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage"}


def save(path: Path, state_dict: Mapping[str, np.ndarray], key: str = "", **others: Any) -> Path:
    """What `torch.save({key: state_dict, **others}, path)` writes; key "" puts the tensors at the top."""
    tensors = b"".join(plain(name) + tensor(i, array) for i, (name, array) in enumerate(state_dict.items()))
    tensors = b"}(" + tensors + b"u"
    if key:
        rest = b"".join(plain(name) + plain(value) for name, value in others.items())
        tensors = b"}(" + plain(key) + tensors + rest + b"u"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + tensors + b".")
        for i, array in enumerate(state_dict.values()):
            archive.writestr(f"archive/data/{i}", np.ascontiguousarray(array).tobytes())
    return path


def plain(value: Any) -> bytes:
    """The pickle of a plain value, as a part of another."""
    return pickle.dumps(value, protocol=2)[2:-1]  # without the protocol and the stop


def tensor(key: int, array: np.ndarray) -> bytes:
    """The pickle of a tensor that is the whole of the storage named `key`, as a part of another."""
    strides = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim))
    storage = plain("storage") + f"ctorch\n{STORAGES[array.dtype.name]}\n".encode()
    storage = b"(" + storage + plain(str(key)) + plain("cpu") + plain(array.size) + b"tQ"
    arguments = storage + plain(0) + plain(array.shape) + plain(strides) + plain(False)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"ccollections\nOrderedDict\n)RtR"
