"""Files of PyTorch 2.13 are read; hostile, truncated and foreign ones give one clear error and run nothing."""

import base64
import contextlib
import io
import os
import pickle
import tracemalloc
import warnings
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.weights.torch_file import MAGIC, TorchFileError, read
from tests.weights import torch_writer

# torch.save({"state_dict": {"a": arange(6.).reshape(2, 3).T, "b.num": tensor(3), "h": ones(2, dtype=bfloat16)},
#             "epoch": 3, "meta": {"x": [1, "y"]}}), compressed
ZIP = (
    "c-o~^OK%cE93OVemaeu`t8GzR-w7B?d6h@B(rgTu)s*5R#Kdg2u)@ZL<-ZKo*3^)gHmN850>+ys&wdMy#)Br_JgD*D)q@9TmPdEDp=di{m@q"
    "rP2m60aR%8bd@_5jW;YDMp9F^A8+H6tAa<Fz^%Lra{$3B|OIv{_ZCxAMZu_6`K0tVMQF#f!YY|6kEux=E}L8*aNt<Fn^vfNO$qJ))dT{ona2"
    "oD2(e}2$p&<(kyfV&0ZGny{r8?8+qIFm30gL#&$g<1nVB8OpUNkk$mGMm7QE|J}Y16zfHu4zgEt9rH0FB(O~P>NTHFCGpCaxjcxBnRHSo3Jb"
    "gtBnebmWhLMNA;RsEp<f?nWAAhT=s}A3}Zwr5ZEeHo+B8J=3v}BP=*N`hhSO{$Gbd}=CKI)2oHnd7&Xmoz;V&F0Vi5~Qy8XmaI#?<Q)+sl45"
    "vgkPr`#L3YOvYI-D_C9>UqXaLzBf%wMZ;Ua2>NS#i+gzxnF=7TKdS+cU7^DB1~Z@Sbi|WGt;HMxDH@j4<nrZ@&?yx^I4cc|xtw*<06#l3m?)"
    "q$OEXOVx@}#Tg;?ztZN2$Ebny1NgxZ31(LVqiCUHV0jfQI!%m>aCuL<ouR21YYO$SG5^)a5fyG%55p*Jt*Y5jM!2*e11;8OntUyg51CCeUoK"
    "Eb6VJXqpCk_^`#74hISOZlz`r|U+bmS?>8IB}seq@C-n>mOk`YpSe*?{QGflPsJbqWDl`^oa_Q-YybW?tR@sILU{r!v5t^WBpWhp%Kuh$hrB"
    "^9tH(@rI+#XZztC>cw|lF4K&k&4fSV#!2wE)<T>MZ%F}Din#w646j75lyD3%SUf7Ec%HLzv<FN&31iSTZeatbH_d41Y7HW+y?yYLOptolfzo"
    "VJ{!jpgL?N3CyliVM{P78wrRT6??hWGX4r<l%_4i<I-%C&w?n@>pkXJ}n!9!=ZT_}eaYC($H)4Z++=lje<JNSTvSD*>w0ojvMUK1JK0M9Nbb"
    "&*T^$OEkf4e(ff}{65inlGaE(|x<!VH<`TW9|QTm#^G"
)
# torch.save({"model": BatchNorm2d(3).state_dict(), "p": BatchNorm2d(3).weight},
#            _use_new_zipfile_serialization=False), compressed
OLD = (
    "c-oDU*>2N76o$QIq3%MVY-KIG!xFMO30t{9y)mn~nHyv|_9!+ucFxQ=2&724sVF=H55TMO2uNHoV>?v=SHhAl&&)aBf95}Du6)(PU*C3qZoT"
    "{dYO_99p8rt!cLtJ<)+I@rkeJ189NJS%Xb?vr^8mEUPr`t)5ZgHN0w)4x4{3apeVkyM2A?nmbp|CJmH8(1W5S?pDoEw4AYxE4OQ<9maWsOeS"
    "xS<HridTM9u7fvxon7C##O2Il6aV4?`hyN4V0P%s*Wl=_5%(^K7*3WV&eLBJ7GacHJjjJ5`>=3a71HbPg@$4bsbejH9XQ8VW?y&+D;fd>`k_"
    "*K^3j>m_eu0Z8!VfL8IF>`fwyI+?^z_WU4P1Xs=DlRCi(7ly_m}i!bU~Ww2(!(ezrwz@f12b49=6|4r<71_m7SGt%*#v>`|*GSW!~rz|*)R("
    "Kjoq9}+)_84=I&lC}jX1m$xwO}(Rp3RBp1o3=Eyuje11((qB0pipluvG|bw2XG!fXg}XN)Eg#fY&nMbp|&qxQRA+T9l0Kp~GAsQ=1XTeUClR"
    "GjQ(kGv4KWgKK}-(c^Bk`f!VD$z1C;*Q(VrjXMnPT2N1Ba1Sl<6z&0YJcl{ZNY9&yZ%WXbK|Ag1Vn92lLMa_0Sxhf<4;hS!LmUpoL<8fHMy0"
    "Lq<u3Gd7Y4$G`&oq#7(BG#(O$ZE{28__cp?V*tr+BjTgpWOO3`?zMGYwxwY`k%;-Uv1b^mX^y?9mW-{*hheglR228s"
)


def _unpack(text: str) -> bytes:
    return zlib.decompress(base64.b85decode(text))


@pytest.fixture
def write(tmp_path):
    def write(data: bytes) -> str:
        path = tmp_path / "weights.pth"
        path.write_bytes(data)
        return str(path)

    return write


def test_zip_file(write):
    arrays = read(write(_unpack(ZIP)))
    assert list(arrays) == ["a", "b.num", "h"]
    np.testing.assert_array_equal(arrays["a"], np.arange(6.0).reshape(2, 3).T)
    assert arrays["b.num"].dtype == np.int64
    assert arrays["b.num"] == 3
    assert arrays["h"].dtype == np.float32
    np.testing.assert_array_equal(arrays["h"], [1, 1])


def test_an_entry_that_is_there_twice_is_refused(tmp_path):
    (tmp_path / "a.pth").write_bytes(_unpack(ZIP))
    with zipfile.ZipFile(tmp_path / "a.pth", "a") as archive, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Duplicate name")
        name = next(name for name in archive.namelist() if name.endswith("data/0"))
        archive.writestr(name, bytes(24))
    with pytest.raises(TorchFileError, match=r"a\.pth.*a zip with two entries of one name"):
        read(str(tmp_path / "a.pth"))


def test_older_file(write):
    arrays = read(write(_unpack(OLD)))
    assert list(arrays) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    np.testing.assert_array_equal(arrays["running_var"], [1, 1, 1])


def _older(arrays: dict[str, np.ndarray]) -> bytes:
    """The form before PyTorch 1.6: pickles of a number, a version, a machine, the tensors and the keys; storages."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    items = [torch_writer.plain(name) + torch_writer.tensor(i, array) for i, (name, array) in enumerate(arrays.items())]
    pickles = [pickle.dumps(value, protocol=2) for value in (MAGIC, 1001, machine)]
    pickles += [b"\x80\x02}(" + b"".join(items) + b"u.", pickle.dumps([str(i) for i in range(len(arrays))], protocol=2)]
    storages = [array.size.to_bytes(8, "little") + array.tobytes() for array in arrays.values()]
    return b"".join(pickles + storages)


@pytest.mark.parametrize("form", ["zip", "older"])
def test_arrays_are_read_only_views_of_the_file(write, tmp_path, form):
    values = {f"w{i}": np.full((256, 1024), i, np.float32) for i in range(8)}  # 1 MB each
    path = torch_writer.save(tmp_path / "a.pth", values) if form == "zip" else write(_older(values))
    tracemalloc.start()
    arrays = read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5e6  # a piece of 1 MB at a time while checksums are made; the file has 8 MB
    Path(path).unlink()
    for name, value in values.items():
        np.testing.assert_array_equal(arrays[name], value)
        with pytest.raises(ValueError, match="read-only"):
            arrays[name][0, 0] = 1


@pytest.mark.parametrize("shift", range(4))
def test_views_need_not_be_aligned(write, shift):
    values = {"a" * (shift + 1): np.arange(5, dtype=np.float64), "b": np.arange(3, dtype=np.int64)}
    for name, array in read(write(_older(values))).items():
        np.testing.assert_array_equal(array, values[name])
        np.testing.assert_array_equal(jnp.asarray(array.astype(np.float32)), values[name])


def test_a_wrong_checksum_is_refused(write):
    data = _archive(_tensor(4, "(I2\nI2\nt", "(I2\nI1\nt"), **{"0": np.arange(4, dtype="<f4").tobytes()})
    place = data.index(np.arange(4, dtype="<f4").tobytes())
    with pytest.raises(TorchFileError, match="Bad CRC-32"):
        read(write(data[: place + 4] + b"\1" + data[place + 5 :]))


def test_a_local_header_with_extra_fields_is_skipped(write):
    """As PyTorch pads, so that storages begin at multiples of 64 bytes."""
    raw, file = np.arange(4, dtype="<f4").tobytes(), io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", _tensor(4, "(I2\nI2\nt", "(I2\nI1\nt"))
        entry = zipfile.ZipInfo("archive/data/0")
        entry.extra = b"FB" + (9).to_bytes(2, "little") + b"Z" * 9
        archive.writestr(entry, raw)
    np.testing.assert_array_equal(read(write(file.getvalue()))["w"], [[0, 1], [2, 3]])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickle_of_numpy_arrays(write, protocol):
    model = OrderedDict(w=np.arange(6.0, dtype=np.float32).reshape(2, 3), f=np.asfortranarray(np.eye(2)))
    data = {"model": model, "__author__": "someone", "matching_heuristics": True, "scalar": np.float32(2)}
    arrays = read(write(pickle.dumps(data, protocol=protocol)))
    assert set(arrays) == {"w", "f"}
    np.testing.assert_array_equal(arrays["w"], model["w"])
    np.testing.assert_array_equal(arrays["f"], model["f"])


def test_prefix_of_data_parallel_goes(write):
    assert list(read(write(pickle.dumps({"module.a": np.ones(1), "module.b": np.ones(1)}, 2)))) == ["a", "b"]
    assert list(read(write(pickle.dumps({"module.a": np.ones(1), "b": np.ones(1)}, 2)))) == ["module.a", "b"]


class _Runs:
    """A pickle that calls something when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def _archive(pickled: bytes, compression=zipfile.ZIP_STORED, **records: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in records.items():
            archive.writestr(f"archive/data/{name}", data)
    return file.getvalue()


def _tensor(numel: int, size: str, stride: str, storage: str = "FloatStorage") -> bytes:
    """Protocol-0 pickle of {'w': tensor} over storage '0'; size and stride as pickled tuples."""
    persistent = f"(S'storage'\nctorch\n{storage}\nS'0'\nS'cpu'\nI{numel}\ntQ"
    rebuild = f"ctorch._utils\n_rebuild_tensor_v2\n({persistent}I0\n{size}{stride}I00\n(dtR"
    return f"\x80\x02(S'w'\n{rebuild}d.".encode("latin1")


def test_handmade_tensor_is_read(write):
    data = _archive(_tensor(4, "(I2\nI2\nt", "(I2\nI1\nt"), **{"0": np.arange(4, dtype="<f4").tobytes()})
    np.testing.assert_array_equal(read(write(data))["w"], [[0, 1], [2, 3]])


def test_nothing_is_run(write, tmp_path):
    target = tmp_path / "ran"
    for function, arguments in ((target.write_text, ("x",)), (eval, ("1 / 0",)), (np.save, (str(target), 1))):
        for protocol in (0, 2, 4):
            pickled = pickle.dumps({"w": _Runs(function, *arguments)}, protocol=protocol)
            for data in (pickled, _archive(pickled), _unpack(OLD)[:137] + pickled):
                with pytest.raises(TorchFileError):
                    read(write(data))
    assert not target.exists()


@pytest.mark.parametrize(
    ("module_name", "name"),
    [
        ("builtins", "eval"),
        ("os", "system"),
        ("numpy", "load"),
        ("collections", "Counter"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch", "load"),
        ("torch.nn.modules.linear", "Linear"),
    ],
)
def test_other_names_are_no_weights_and_are_named(write, module_name, name):
    pickled = pickle.PROTO + b"\x04"
    for text in (module_name, name):
        pickled += pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode()
    pickled += pickle.STACK_GLOBAL
    with pytest.raises(TorchFileError, match=rf"weights.pth: holds a {module_name}.{name}, not a dict of tensors"):
        read(write(pickled + pickle.STOP))
    whole = b"\x80\x04}(X\x01\x00\x00\x00w" + pickled[2:] + b"u."
    with pytest.raises(TorchFileError, match=rf"refused: 'w' among the weights is a {module_name}.{name}"):
        read(write(whole))


def test_objects_cannot_be_changed_from_the_pickle(write):
    """BUILD with a state for slots sets attributes on whatever is there."""
    for name in ("ctorch._utils\n_rebuild_tensor\n", "ccollections\nOrderedDict\n", "cnumpy\ndtype\n"):
        data = f"\x80\x02{name}(N(S'_function'\nI1\ndtb.".encode("latin1")
        with pytest.raises(TorchFileError):
            read(write(data))


@pytest.mark.parametrize(
    "data",
    {
        "storage shorter than it says": _archive(_tensor(4, "(I2\nI2\nt", "(I2\nI1\nt"), **{"0": bytes(12)}),
        "no storage": _archive(_tensor(4, "(I2\nI2\nt", "(I2\nI1\nt")),
        "view beyond its storage": _archive(_tensor(4, "(I2\nI2\nt", "(I9\nI1\nt"), **{"0": bytes(16)}),
        "huge expanded view": _archive(_tensor(1, "(L9999999999L\nI9\nt", "(I0\nI0\nt"), **{"0": bytes(4)}),
        "negative size": _archive(_tensor(1, "(I-1\nt", "(I1\nt"), **{"0": bytes(4)}),
        "negative stride": _archive(_tensor(4, "(I2\nt", "(I-1\nt"), **{"0": bytes(16)}),
        "unlike lengths": _archive(_tensor(4, "(I2\nt", "(I1\nI1\nt"), **{"0": bytes(16)}),
        "unknown storage": _archive(_tensor(4, "(I2\nt", "(I1\nt", "ComplexFloatStorage"), **{"0": bytes(16)}),
        "compressed": _archive(_tensor(4, "(I2\nt", "(I1\nt"), zipfile.ZIP_DEFLATED, **{"0": bytes(16)}),
        "another zip": _archive(b"")[:0] or b"PK\x05\x06" + bytes(18),
        "object array": pickle.dumps({"w": np.array([{}], dtype=object)}, 2),
        "text array": pickle.dumps({"w": np.array(["a"])}, 2),
        "huge memo": b"\x80\x02}r\xff\xff\xff\xff.",
        "huge frame": b"\x80\x04\x95" + b"\xff" * 8 + b"}.",
        "deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "contains itself": b"\x80\x02}q\x00(X\x05\x00\x00\x00modelh\x00u.",
        "empty dict": pickle.dumps({}, 2),
        "list": pickle.dumps([1], 2),
        "text": b"hello",
        "nothing": b"",
        "pickle without an end": b"\x80\x02}",
    }.items(),
    ids=lambda item: item[0],
)
def test_broken_and_hostile_files(write, data):
    with pytest.raises(TorchFileError, match=r"weights\.pth") as caught:
        read(write(data[1]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [ZIP, OLD], ids=["zip", "old"])
def test_truncation_anywhere_is_an_error(write, text):
    data = _unpack(text)
    for end in range(0, len(data) - 1, 29):
        with pytest.raises(TorchFileError):
            read(write(data[:end]))


@pytest.mark.parametrize("text", [ZIP, OLD], ids=["zip", "old"])
def test_flipped_bytes_give_arrays_or_the_error(write, text):
    data, rng = _unpack(text), np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(data)
        broken[rng.integers(len(data))] = rng.integers(256)
        with contextlib.suppress(TorchFileError):
            found = read(write(bytes(broken)))
            assert all(isinstance(array, np.ndarray) for array in found.values())


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(TorchFileError, match="No such file"):
        read(tmp_path / "no.pth")
    with pytest.raises(TorchFileError, match="directory"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(TorchFileError, match=r"pipe\.pth: a pipe, not a file"):
        read(tmp_path / "pipe.pth")
