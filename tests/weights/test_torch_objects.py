"""Training checkpoints as people have them: what lies beside the weights is not read, and nothing of it is run. Pickles
of a few hundred bytes cannot keep the reader busy."""

import collections
import datetime
import pickle
import sys
import time
import types
import zipfile

import numpy as np
import pytest

from dyhead_jax.weights import files
from dyhead_jax.weights.torch_file import TorchFileError, read, read_checkpoint
from tests.weights import torch_writer

WEIGHTS = {"neck.a": np.arange(6, dtype=np.float32).reshape(2, 3), "neck.b": np.ones(2, np.float32)}


@pytest.fixture
def mmengine(monkeypatch):
    """Stand-ins of the classes that mmdetection 3 pickles, importable until the file is written."""

    class HistoryBuffer:
        def __init__(self):
            self._log_history, self._count_history = np.ones(3), np.ones(3, np.int64)
            self._statistics_methods = {"mean": HistoryBuffer.mean, "min": HistoryBuffer.min}

        def mean(self): ...
        def min(self): ...

    class ConfigDict(dict):
        pass

    class Scheduler:
        def __init__(self):
            self.milestones, self.by_epoch = collections.Counter([8, 11]), True

    modules = {"mmengine.logging.history_buffer": HistoryBuffer, "mmengine.config.config": ConfigDict}
    modules["mmengine.optim.scheduler.lr_scheduler"] = Scheduler
    for name, cls in modules.items():
        cls.__module__, cls.__qualname__ = name, cls.__name__
        for method in (value for value in vars(cls).values() if isinstance(value, types.FunctionType)):
            method.__module__, method.__qualname__ = name, f"{cls.__name__}.{method.__name__}"
        module = types.ModuleType(name)
        setattr(module, cls.__name__, cls)
        parts = name.split(".")
        for i in range(1, len(parts)):
            monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
        monkeypatch.setitem(sys.modules, name, module)
    return HistoryBuffer, ConfigDict, Scheduler


class Runs:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return exec, (f"open({str(self.target)!r}, 'w').close()",)


def test_a_training_checkpoint_gives_its_weights_and_runs_nothing(mmengine, tmp_path, monkeypatch):
    buffer, config_dict, scheduler = mmengine
    others = {
        "meta": {
            "epoch": 12,
            "dataset_meta": {"classes": ("cat", "dog"), "palette": [(1, 2, 3)]},
            "cfg": "model=dict()",
        },
        "message_hub": {
            "log_scalars": collections.OrderedDict({"train/loss": buffer()}),
            "runtime_info": collections.OrderedDict(epoch=12, time=datetime.timedelta(3), text=np.array(["a"])),
        },
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
        "param_schedulers": [{"milestones": collections.Counter([8, 11]), "_global_step": 3}, scheduler()],
        "settings": config_dict(a=1, b={"c": {1, 2}}),
        "hostile": Runs(tmp_path / "ran"),
        "odd": {(1, (2, 3)): frozenset([1]), None: slice(1, 2)},
    }
    path = torch_writer.save(tmp_path / "epoch_12.pth", WEIGHTS, "state_dict", **others)
    for name in [name for name in sys.modules if name.startswith("mmengine")]:
        monkeypatch.delitem(sys.modules, name)
    found = files.read(path)
    assert found.arrays.keys() == WEIGHTS.keys()
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    assert found.meta["dataset_meta"]["classes"] == ("cat", "dog")
    assert {"collections.Counter", "__builtin__.getattr", "mmengine.config.config.ConfigDict"} <= set(found.unread)
    assert "__builtin__.exec" in found.unread
    assert not (tmp_path / "ran").exists()
    assert not any(name.startswith("mmengine") for name in sys.modules)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_protocol(protocol, tmp_path):
    path = tmp_path / "a.pkl"
    others = {"scheduler": collections.Counter("ab"), "set": {1, frozenset([2])}, "hostile": Runs(tmp_path / "ran")}
    path.write_bytes(pickle.dumps({"model": WEIGHTS, **others}, protocol=protocol))
    assert read_checkpoint(path).arrays.keys() == WEIGHTS.keys()
    assert not (tmp_path / "ran").exists()


def test_what_is_no_array_among_the_weights_is_named(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": {**WEIGHTS, "neck.c": collections.Counter("a")}}, protocol=2))
    with pytest.raises(TorchFileError, match=r"'neck.c' among the weights is a collections.Counter"):
        read(path)


# t = (); t = (t, t); ... 40 times, by the memo: 2 ** 40 tuples to hash or to print
NESTED = b")q\x01" + b"".join(
    b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) + b"0" for i in range(1, 40)
)
NESTED = NESTED.replace(b")q\x01", b")q\x010", 1) + b"h\x28"
W = b"}X\x01\x00\x00\x00w"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n("
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"


@pytest.mark.parametrize(
    "body",
    {
        "key of a dict": b"}" + NESTED + b"Ns",
        "keys of a dict": b"}(" + NESTED + b"Nu",
        "protocol 0": b"(" + NESTED + b"Nd",
        "ordered dict": b"ccollections\nOrderedDict\n((" + NESTED + b"N\x86ltR",
        "set": b"\x8f(" + NESTED + b"\x90",
        "frozen set": b"(" + NESTED + b"\x91",
        "size": W + TENSOR + STORAGE + b"K\x00" + NESTED + b"K\x01\x85NtRs",
        "stride": W + TENSOR + STORAGE + b"K\x00K\x01\x85" + NESTED + b"NtRs",
        "offset": W + TENSOR + STORAGE + NESTED + b"K\x01\x85K\x01\x85NtRs",
        "dtype": W + b"cnumpy\ndtype\n" + NESTED + b"\x85Rs",
        "kind of storage": W + TENSOR + b"(" + NESTED + b"NNNNtQK\x00))NtRs",
        "type of storage": W + TENSOR + b"(X\x07\x00\x00\x00storage" + NESTED + b"NNK\x01tQK\x00))NtRs",
        "name of storage": W + TENSOR + STORAGE.replace(b"X\x01\x00\x00\x000", NESTED) + b"K\x00))NtRs",
        "key of the checkpoint": b"}" + NESTED + TENSOR + STORAGE + b"K\x00K\x01\x85K\x01\x85NtRs",
    }.items(),
    ids=lambda item: item[0],
)
def test_nested_tuples_take_no_time(body, tmp_path):
    data = b"\x80\x04" + body[1] + b"."
    assert len(data) < 700
    path = tmp_path / "a.pkl"
    path.write_bytes(data)
    start = time.monotonic()
    for key in ("", "other"):
        with pytest.raises(TorchFileError, match=r"a\.pkl") as caught:
            read_checkpoint(path, key)
        assert len(str(caught.value)) < 600
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("where", ["size", "stride", "offset"])
def test_nested_sizes_of_a_stored_tensor_take_no_time(where, tmp_path):
    """Whose storage is there, so that they are looked at."""
    plain = {"offset": b"K\x00", "size": b"K\x01\x85", "stride": b"K\x01\x85"} | {where: NESTED}
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x04" + W + TENSOR + STORAGE + b"".join(plain.values()) + b"NtRs.")
        archive.writestr("archive/data/0", bytes(4))
    start = time.monotonic()
    with pytest.raises(TorchFileError, match=r"a\.pth: a tensor whose size or stride is no row of numbers"):
        read_checkpoint(path)
    assert time.monotonic() - start < 2


def test_a_tuple_of_200_000_pieces_is_not_hashed_either(tmp_path):
    """A deep one would overflow the stack of the C code that hashes it."""
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.")
    with pytest.raises(TorchFileError, match="holds no arrays"):
        read(path)
