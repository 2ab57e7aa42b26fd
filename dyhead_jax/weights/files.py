"""Weights by name in a file of any kind that is read here: .safetensors, .npz, and PyTorch's .pth, .pt, .pkl, .bin.

Prefer .safetensors: it holds a list of arrays and nothing that could be run. It needs the extra `safetensors`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dyhead_jax import command
from dyhead_jax.files import atomic
from dyhead_jax.weights import npz, torch_file
from dyhead_jax.weights.npz import WeightsFileError
from dyhead_jax.weights.torch_file import Checkpoint

WRITTEN = (".safetensors", ".npz")


def read(path: str | Path, key: str = "") -> Checkpoint:
    """Arrays by name, and what the file says of itself: mmdetection's "meta", a safetensors file's metadata, or {}.

    The ending of the name tells the kind: .safetensors, .npz, and PyTorch's for all others. key: the entry of a PyTorch
    file that holds the weights, where it is not "state_dict" or "model". bfloat16 becomes float32. The arrays of a
    PyTorch file are read-only (see `torch_file.read_checkpoint`).
    Raises WeightsFileError or TorchFileError, one line with the file's name.
    """
    path = command.path(path)
    kind = path.suffix.lower()
    if kind not in WRITTEN:
        return torch_file.read_checkpoint(path, key)
    if key:
        raise WeightsFileError(f"{path}: a {kind} file has no keys; {key!r} belongs to a PyTorch checkpoint")
    arrays, meta = _read_safetensors(path) if kind == ".safetensors" else (npz.read(path), {})
    if not arrays:
        raise WeightsFileError(f"{path} holds no arrays")
    return Checkpoint(torch_file.without_module(arrays), meta)


def write(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a .safetensors or .npz file, whole or not at all.

    Raises WeightsFileError for another ending and for a file that exists.
    """
    path = Path(path)
    check_writable(path)
    arrays = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    with atomic(path) as temporary:
        if path.suffix.lower() == ".npz":
            np.savez(temporary, **arrays)  # type: ignore[arg-type]
        else:
            _safetensors().save_file(arrays, temporary, metadata={"format": "pt"})


def check_writable(path: Path) -> None:
    """Raises WeightsFileError where `write` would."""
    if path.suffix.lower() not in WRITTEN:
        raise WeightsFileError(f"{path}: the name must end with {' or '.join(WRITTEN)}")
    if path.exists():
        raise WeightsFileError(f"{path} exists; it is not written over")
    if not path.parent.is_dir():
        raise WeightsFileError(f"{path}: the folder {path.parent} does not exist")
    if path.suffix.lower() == ".safetensors":
        _safetensors()


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise WeightsFileError(
            "a .safetensors file needs a package that is not installed: pip install 'dyhead-jax[safetensors]'"
        ) from error
    return safetensors.numpy


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    _safetensors()
    import safetensors

    if not path.is_file():
        raise WeightsFileError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            arrays = {name: _widened(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            return arrays, dict(file.metadata() or {})
    except Exception as error:  # the reader has an error class of its own, and others for numbers NumPy does not know
        raise WeightsFileError(f"{path} is broken or no safetensors file ({' '.join(str(error).split())})") from error


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
