"""The pickles of PyTorch checkpoints, read without running anything that they name.

The unpickler knows ordered dicts, tensors, storages and NumPy arrays by name and refuses every other name. What it
makes of them are the inert records of this file; a record checks sizes against the bytes that are there before it makes
an array.
"""

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class TorchFileError(ValueError):
    """A file that is no checkpoint, is broken or asks for more than arrays; the message names the file."""


class PickleFile(Protocol):
    """What an unpickler reads from: an open file, or a mapped one."""

    def read(self, n: int, /) -> bytes: ...

    def readline(self) -> bytes: ...


class Storage:
    """A one-dimensional buffer of `numel` values. `fill` gives it the file's bytes."""

    __slots__ = ("dtype", "key", "numel", "values")

    def __init__(self, dtype: np.dtype, key: str, numel: int):
        self.dtype, self.key, self.numel = dtype, key, numel
        self.values: np.ndarray | None = None

    def fill(self, raw: memoryview) -> None:
        """Makes `values` a view of the bytes `raw`. Raises TorchFileError when they are too few or too many."""
        if len(raw) != self.numel * self.dtype.itemsize:
            raise TorchFileError(f"storage {self.key} has {len(raw)} bytes for {self.numel} values: truncated?")
        self.values = np.frombuffer(raw, self.dtype)


class Tensor:
    """A strided view of a storage."""

    __slots__ = ("offset", "size", "storage", "stride")

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self) -> np.ndarray:
        """A read-only view of the storage; of bfloat16 a float32 copy. Raises TorchFileError when it is larger."""
        numbers = (self.offset, *self.size, *self.stride)
        if not isinstance(self.storage, Storage) or self.storage.values is None:
            raise TorchFileError("a tensor without storage")
        if any(not isinstance(n, int) or n < 0 for n in numbers) or len(self.size) != len(self.stride):
            raise TorchFileError(f"a tensor of size {self.size} and stride {self.stride}")
        values, count = self.storage.values, int(np.prod(self.size, dtype=object))
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        if count and (count > values.size or last >= values.size):
            raise TorchFileError(f"a tensor of size {tuple(self.size)} in a storage of {values.size} values")
        if not count:
            return np.zeros(self.size, values.dtype)
        strides = [s * values.itemsize for s in self.stride]
        array = np.lib.stride_tricks.as_strided(values[self.offset :], self.size, strides, writeable=False)
        return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


class _Dtype:
    """A pickled NumPy dtype: a plain number only."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any):
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?[fiub][1248]", code):
            raise TorchFileError(f"an array of dtype {code!r}, not of numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1] if state[1] in ("<", ">") else "=")


class Array:
    """A pickled NumPy array. `fill` gives it the bytes that follow in the pickle."""

    __slots__ = ("values",)

    def __init__(self):
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: Any) -> "Array":
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray) or order not in ("C", "F"):
            raise TorchFileError("an array that is not of numbers")
        self.values = np.frombuffer(bytes(raw), dtype.dtype).reshape(shape, order=order)
        return self

    def array(self) -> np.ndarray:
        if self.values is None:
            raise TorchFileError("an array without values")
        return self.values


class _Call:
    """What a name in the pickle stands for: it calls one function of this file, and the pickle cannot change it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise TorchFileError(f"a pickle that sets {name}")


class _Inert:
    """Stands for the objects that training loops save beside the weights: takes any arguments and keeps nothing."""

    __slots__ = ()

    def __new__(cls, *_: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


INERT = (
    ("mmengine.logging.history_buffer", "HistoryBuffer"),
    ("mmengine.config.config", "ConfigDict"),
    ("yacs.config", "CfgNode"),
    ("argparse", "Namespace"),
)


def _known() -> dict[tuple[str, str], Any]:
    """The names that a pickle may use. Of Python's and NumPy's own objects only OrderedDict is handed out."""
    known: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _Call(lambda s, o, size, stride, *_: Tensor(s, o, size, stride)),
        ("torch._utils", "_rebuild_tensor"): _Call(Tensor),
        ("torch._utils", "_rebuild_parameter"): _Call(lambda tensor, *_: tensor),
        ("torch", "Size"): _Call(tuple),
        ("_codecs", "encode"): _Call(lambda text, _="latin1": text.encode("latin1")),
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _Call(lambda code, *_: _Dtype(code)),
    }
    for core in ("numpy.core", "numpy._core"):
        known[f"{core}.multiarray", "_reconstruct"] = _Call(lambda *_: Array())
        known[f"{core}.multiarray", "scalar"] = _Call(lambda *_: None)
        known[f"{core}.numeric", "_frombuffer"] = _Call(lambda *arguments: Array().fill(*arguments))
    known |= dict.fromkeys(INERT, _Inert)
    return known | {("torch", name): name for name in STORAGES}


# The pure-Python unpickler: the one in C allocates as much memory for its memo as an opcode of the file asks for.
class Unpickler(pickle._Unpickler):
    """Loads one pickle of `file`; `storages` are those that its tensors name, to be filled."""

    def __init__(self, file: PickleFile):
        super().__init__(file, encoding="latin1")
        self.known = _known()
        self.storages: dict[str, Storage] = {}

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self.known[module_name, global_name]
        except KeyError:
            raise TorchFileError(f"refused: it uses {module_name}.{global_name}, which is no tensor or array") from None

    def persistent_load(self, pid: Any) -> Storage:
        kind, storage_type, key, _, numel, *view = pid
        if kind != "storage" or storage_type not in STORAGES or not isinstance(numel, int) or any(view):
            raise TorchFileError(f"an unknown kind of storage: {pid!r:.80}")
        if not re.fullmatch(r"\w{1,64}", str(key)):
            raise TorchFileError(f"a storage named {str(key)!r:.80}")
        return self.storages.setdefault(str(key), Storage(STORAGES[storage_type], str(key), numel))
