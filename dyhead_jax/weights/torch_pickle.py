"""The pickles of PyTorch checkpoints, read without running anything that they name.

The unpickler knows dicts, tensors, storages and NumPy arrays by name. Of them it makes the inert records of this file;
a record checks sizes against the bytes that are there before it makes an array. Whatever else a pickle names, such as
the schedulers and message hubs that training loops save beside the weights, becomes an `Inert`: it runs nothing and
keeps nothing. A key that is no plain value becomes one too, because to hash or print a nested tuple may take forever.
"""

import math
import pickle
import re
from collections.abc import Callable
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

MOST_AXES = 64  # of a NumPy array
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
        if not isinstance(self.storage, Storage) or self.storage.values is None:
            raise TorchFileError("a tensor without storage")
        if not (_are_sizes(self.size) and _are_sizes(self.stride) and _are_sizes((self.offset,))):
            raise TorchFileError("a tensor whose size or stride is no row of numbers")
        if len(self.size) != len(self.stride):
            raise TorchFileError(f"a tensor of size {tuple(self.size)} and stride {tuple(self.stride)}")
        values, count = self.storage.values, math.prod(self.size)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        if count and (count > values.size or last >= values.size):
            raise TorchFileError(f"a tensor of size {tuple(self.size)} in a storage of {values.size} values")
        if not count:
            return np.zeros(self.size, values.dtype)
        strides = [s * values.itemsize for s in self.stride]
        array = np.lib.stride_tricks.as_strided(values[self.offset :], self.size, strides, writeable=False)
        return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def _are_sizes(value: Any) -> bool:
    """Whether it is a short tuple or list of numbers from 0 to 2^63."""
    if not isinstance(value, tuple | list) or len(value) > MOST_AXES:
        return False
    return all(isinstance(n, int) and 0 <= n < 2**63 for n in value)


class Inert:
    """Stands for an object that is not read: it takes whatever a pickle does to it and keeps nothing but its name."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        object.__setattr__(self, "name", name)

    def __new__(cls, *_: Any, **__: Any) -> Any:  # a pickle may ask an Inert for a new object of its kind
        return object.__new__(cls) if isinstance(cls, type) else cls  # type: ignore[arg-type]

    def __call__(self, *_: Any, **__: Any) -> "Inert":
        return self

    def _ignore(self, *_: Any) -> None:
        pass

    __setattr__ = __setitem__ = __setstate__ = append = extend = add = _ignore


class _Dtype:
    """A pickled NumPy dtype: a plain number only."""

    __slots__ = ("dtype",)

    def __init__(self, code: str):
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1] if state[1] in ("<", ">") else "=")


def _dtype(code: Any, *_: Any) -> Any:
    plain = isinstance(code, str) and re.fullmatch(r"[<>|=]?[fiub][1248]", code)
    return _Dtype(code) if plain else Inert("numpy.dtype of no number")


class Array:
    """A pickled NumPy array. Its values are made when they are asked for: beside the weights there may be any kind."""

    __slots__ = ("_state",)

    def __init__(self, raw: Any = None, dtype: Any = None, shape: Any = (), order: Any = "C"):
        self._state = (raw, dtype, shape, order)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self._state = (raw, dtype, shape, "F" if fortran else "C")

    def array(self) -> np.ndarray:
        """Raises TorchFileError for an array that is not of numbers, and ValueError where its bytes do not fit."""
        raw, dtype, shape, order = self._state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray):
            raise TorchFileError("an array that is not of numbers")
        if not _are_sizes(shape) or not isinstance(order, str):
            raise TorchFileError("an array whose shape is no row of numbers")
        return np.frombuffer(bytes(raw), dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


class _Dict(dict):
    """A dict whose keys are plain values; any other key becomes an `Inert`."""

    __slots__ = ()

    def __init__(self, pairs: Any = ()):
        super().__init__()
        for key, value in pairs:
            self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        plain = key is None or isinstance(key, str | bytes | float) or (isinstance(key, int) and abs(key) < 2**63)
        super().__setitem__(key if plain else Inert("a key"), value)

    def __setstate__(self, state: Any) -> None:
        pass  # attributes that PyTorch adds, such as the versions of its modules


class _Call:
    """What a name in the pickle stands for: it calls one function of this file, and the pickle cannot change it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise TorchFileError(f"a pickle that sets {name}")


def _known() -> dict[tuple[str, str], Any]:
    """What the names stand for that make up weights; none of it is an object of Python's or NumPy's own."""
    known: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): _Call(_Dict),
        ("torch._utils", "_rebuild_tensor_v2"): _Call(lambda s, o, size, stride, *_: Tensor(s, o, size, stride)),
        ("torch._utils", "_rebuild_tensor"): _Call(Tensor),
        ("torch._utils", "_rebuild_parameter"): _Call(lambda tensor, *_: tensor),
        ("torch", "Size"): _Call(tuple),
        ("_codecs", "encode"): _Call(lambda text, _="latin1": text.encode("latin1")),
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _Call(_dtype),
    }
    for core in ("numpy.core", "numpy._core"):
        known[f"{core}.multiarray", "_reconstruct"] = _Call(lambda *_: Array())
        known[f"{core}.multiarray", "scalar"] = _Call(lambda *_: None)
        known[f"{core}.numeric", "_frombuffer"] = _Call(Array)
    return known | {("torch", name): name for name in STORAGES}


# The pure-Python unpickler: the one in C allocates as much memory for its memo as an opcode of the file asks for.
class Unpickler(pickle._Unpickler):
    """Loads one pickle of `file`; `storages` are those that its tensors name, to be filled. inert: the names of all
    that was not read."""

    def __init__(self, file: PickleFile):
        super().__init__(file, encoding="latin1")
        self.known = _known()
        self.storages: dict[str, Storage] = {}
        self.inert: set[str] = set()

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self.known[module_name, global_name]
        except KeyError:
            name = f"{module_name}.{global_name}"[:100]
            self.inert.add(name)
            return Inert(name)

    def persistent_load(self, pid: Any) -> Any:
        """A storage, or an Inert for one of a kind that is not known."""
        if isinstance(pid, tuple) and len(pid) >= 5:
            kind, storage_type, key, _, numel, *view = pid
            known = isinstance(storage_type, str) and storage_type in STORAGES and not any(view)
            if known and isinstance(kind, str) and kind == "storage" and _are_sizes((numel,)):
                if not isinstance(key, str | int) or not re.fullmatch(r"\w{1,64}", str(key)):
                    raise TorchFileError("a storage without a plain name")
                return self.storages.setdefault(str(key), Storage(STORAGES[storage_type], str(key), numel))
        self.inert.add("an unknown kind of storage")
        return Inert("an unknown kind of storage")

    # Dicts and sets hash what a pickle puts into them: those that it makes by opcodes are replaced too.

    def _load_dict(self: Any) -> None:
        items = self.pop_mark()
        self.append(_Dict(zip(items[::2], items[1::2], strict=False)))

    def _load_frozenset(self: Any) -> None:
        self.pop_mark()
        self.append(Inert("a set"))

    dispatch = dict(pickle._Unpickler.dispatch) | {
        pickle.EMPTY_DICT[0]: lambda self: self.append(_Dict()),
        pickle.DICT[0]: _load_dict,
        pickle.EMPTY_SET[0]: lambda self: self.append(Inert("a set")),
        pickle.FROZENSET[0]: _load_frozenset,
    }
