"""Reads the arrays of PyTorch checkpoints without PyTorch, and without running anything that a file brings.

Three containers: the zip that `torch.save` writes since PyTorch 1.6, its older form (a row of pickles, then raw
storages), and a plain pickle of NumPy arrays, as in detectron2's model zoo. The pickles are read by an unpickler that
knows ordered dicts, tensors, storages and arrays by name and refuses every other name. What it makes of them are inert
records; sizes are checked against the bytes that are there before an array is made.
"""

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older form
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
INNER = ("state_dict", "model", "blobs")  # keys below which trainers put the parameters; the last is Caffe2's


class TorchFileError(ValueError):
    """A file that is no checkpoint, is broken or wants more than arrays; the message names the file."""


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of `read_checkpoint`."""
    return read_checkpoint(path)[0]


def read_checkpoint(path: str | Path, key: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Name -> array of all tensors of a checkpoint, in the file's order, and what its entry "meta" says.

    The tensors are the file's own, or those below its key "state_dict", "model" or "blobs", or below `key` where it is
    given; entries that are no arrays (epochs, author, settings) are left out, and so is the prefix "module." (of
    DataParallel and of averaged models) where all names but counters have it. The arrays are read-only. bfloat16
    becomes float32, other dtypes stay. meta: mmdetection's, plain values of a stranger; {} where there is none.
    Raises TorchFileError, one line with the file's name, for anything that is not such a file.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TorchFileError(f"{path}: {error.strerror or error}") from error
    try:
        content = _content(data)
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
    return without_module(arrays), meta if isinstance(meta, dict) else {}


def without_module(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names without the prefix "module.", where all but the counters of averaging have it."""
    if not all(name.startswith("module.") or name in ("steps", "n_averaged") for name in arrays):
        return arrays
    return {name.removeprefix("module."): array for name, array in arrays.items()}


class _Storage:
    """A one-dimensional buffer; `values` follows when the file's bytes are at hand."""

    __slots__ = ("dtype", "key", "numel", "values")

    def __init__(self, dtype: np.dtype, key: str, numel: int):
        self.dtype, self.key, self.numel = dtype, key, numel
        self.values: np.ndarray | None = None


class _Tensor:
    """A strided view of a storage."""

    __slots__ = ("offset", "size", "storage", "stride")

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self) -> np.ndarray:
        numbers = (self.offset, *self.size, *self.stride)
        if not isinstance(self.storage, _Storage) or self.storage.values is None:
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


class _Array:
    """A pickled NumPy array, filled by the state that follows it."""

    __slots__ = ("values",)

    def __init__(self):
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: Any) -> "_Array":
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
    """What a name of the pickle stands for: calls one function of ours and cannot be changed from the pickle."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise TorchFileError(f"a pickle that sets {name}")


class _Inert:
    """Stands for the objects that training loops save beside the weights; takes whatever comes and keeps nothing."""

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
    """The names a pickle may use. Nothing of Python's or NumPy's own is handed out but OrderedDict."""
    known: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _Call(lambda s, o, size, stride, *_: _Tensor(s, o, size, stride)),
        ("torch._utils", "_rebuild_tensor"): _Call(_Tensor),
        ("torch._utils", "_rebuild_parameter"): _Call(lambda tensor, *_: tensor),
        ("torch", "Size"): _Call(tuple),
        ("_codecs", "encode"): _Call(lambda text, _="latin1": text.encode("latin1")),
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _Call(lambda code, *_: _Dtype(code)),
    }
    for core in ("numpy.core", "numpy._core"):
        known[f"{core}.multiarray", "_reconstruct"] = _Call(lambda *_: _Array())
        known[f"{core}.multiarray", "scalar"] = _Call(lambda *_: None)
        known[f"{core}.numeric", "_frombuffer"] = _Call(lambda *arguments: _Array().fill(*arguments))
    known |= dict.fromkeys(INERT, _Inert)
    return known | {("torch", name): name for name in STORAGES}


# The pure-Python unpickler: the one in C allocates as much memory for its memo as an opcode of the file asks for.
class _Unpickler(pickle._Unpickler):
    def __init__(self, file: io.BytesIO):
        super().__init__(file, encoding="latin1")
        self.known = _known()
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self.known[module_name, global_name]
        except KeyError:
            raise TorchFileError(f"refused: it uses {module_name}.{global_name}, which is no tensor or array") from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, numel, *view = pid
        if kind != "storage" or storage_type not in STORAGES or not isinstance(numel, int) or any(view):
            raise TorchFileError(f"an unknown kind of storage: {pid!r:.80}")
        if not re.fullmatch(r"\w{1,64}", str(key)):
            raise TorchFileError(f"a storage named {str(key)!r:.80}")
        return self.storages.setdefault(str(key), _Storage(STORAGES[storage_type], str(key), numel))


def _content(data: bytes) -> Any:
    """The unpickled object, its storages filled."""
    if data[:4] == b"PK\x03\x04":
        return _from_zip(data)
    if data[:1] != b"\x80":
        raise TorchFileError("no PyTorch checkpoint: it begins like neither a zip nor a pickle")
    file = io.BytesIO(data)
    first = _Unpickler(file).load()
    return _from_pickles(file, data) if first == MAGIC else first


def _from_zip(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
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
        unpickler = _Unpickler(io.BytesIO(archive.read(roots[0])))
        content = unpickler.load()
        for key, storage in unpickler.storages.items():
            if f"{root}data/{key}" not in entries:
                raise TorchFileError(f"storage {key} is missing")
            _fill(storage, archive.read(f"{root}data/{key}"))
        return content


def _from_pickles(file: io.BytesIO, data: bytes) -> Any:
    _Unpickler(file).load()  # protocol version
    machine = _Unpickler(file).load()
    if machine.get("little_endian") is not True:
        raise TorchFileError("a checkpoint of a big-endian machine")
    unpickler = _Unpickler(file)
    content = unpickler.load()
    keys = _Unpickler(file).load()
    position = file.tell()
    for key in keys:
        storage = unpickler.storages[key]
        start, size = position + 8, storage.numel * storage.dtype.itemsize
        if int.from_bytes(data[position:start], "little") != storage.numel:
            raise TorchFileError(f"storage {key} has another size than its tensors say, or the file ends before it")
        _fill(storage, data[start : start + size])
        position = start + size
    return content


def _fill(storage: _Storage, raw: bytes) -> None:
    if len(raw) != storage.numel * storage.dtype.itemsize:
        raise TorchFileError(f"storage {storage.key} has {len(raw)} bytes for {storage.numel} values: truncated?")
    storage.values = np.frombuffer(raw, storage.dtype)


def _arrays(content: Any, key: str) -> dict[str, np.ndarray]:
    if not isinstance(content, dict):
        raise TorchFileError(f"holds a {type(content).__name__}, not a dict of tensors")
    if key:
        if not isinstance(content.get(key), dict):
            inside = ", ".join(str(name) for name, value in content.items() if isinstance(value, dict)) or "none"
            raise TorchFileError(f"has no dict below the key {key!r}; its dicts are {inside[:200]}")
        content = content[key]
    else:
        content = next((content[name] for name in INNER if isinstance(content.get(name), dict)), content)
    return {str(k): v.array() for k, v in content.items() if isinstance(v, _Tensor | _Array)}
