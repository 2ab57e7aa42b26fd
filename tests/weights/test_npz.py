"""An .npz of a stranger: its declared sizes are checked first, objects are refused, every error is one line."""

import io
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

from dyhead_jax.weights import files, npz


def header(shape: tuple[int, ...], descr: str = "<f4", fortran: bool = False) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return stream.getvalue()


def archive(path, **members: bytes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_it_reads_what_numpy_writes(save, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(size=(2, 3, 4)), "f": np.asfortranarray(rng.normal(size=(3, 5)).astype(np.float32))}
    arrays |= {"scalar": np.array(7), "none": np.zeros((0, 4), np.int32), "mask": np.array([True, False])}
    save(tmp_path / "a.npz", **arrays)
    found = npz.read(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_one_that_unpacks_to_more_than_the_limit_is_refused_before_it_is_unpacked(tmp_path):
    path = archive(tmp_path / "bomb.npz", w=header((2**23,)) + bytes(2**25))
    assert path.stat().st_size < 3e5
    tracemalloc.start()
    try:
        with pytest.raises(
            files.WeightsFileError, match=r"bomb\.npz would unpack to 34 MB, more than the limit of 10 MB"
        ):
            npz.read(path, most=10**7)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert npz.MOST_BYTES < 6e9


def test_a_large_file_that_is_not_compressed_is_its_own_size(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(1000))
    assert npz.read(tmp_path / "a.npz", most=10)["a"].shape == (1000,)


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (header((2**40,)) + bytes(8), r"has 8 bytes for shape \(1099511627776,\)"),
        (header((3,)) + bytes(8), "has 8 bytes for shape"),
        (header((2,), "|O") + bytes(16), "holds object, not numbers"),
        (header((2,), "<U1") + bytes(8), "not numbers"),
        (b"\x93NUMPY\x09\x00" + bytes(20), "has the format"),
        (b"no array", "magic string"),
    ],
)
def test_arrays_that_are_not_what_they_say(member, message, tmp_path):
    path = archive(tmp_path / "w.npz", w=member)
    with pytest.raises(files.WeightsFileError, match=rf"w\.npz is broken or no \.npz of numbers .*{message}") as caught:
        files.read(path)
    assert "\n" not in str(caught.value)


def test_damage_is_named(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.random.default_rng(0).normal(size=1000))
    data = (tmp_path / "a.npz").read_bytes()
    for broken in (data[:1000], data[:500] + bytes([data[500] ^ 16]) + data[501:], b""):
        (tmp_path / "a.npz").write_bytes(broken)
        with pytest.raises(files.WeightsFileError, match=r"a\.npz is broken"):
            npz.read(tmp_path / "a.npz")


@pytest.mark.parametrize("names", [("a.npy", "a.npy"), ("a", "a.npy")])
def test_a_name_that_is_there_twice_is_refused(names, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Duplicate name")
        for name in names:
            file.writestr(name, header((1,)) + bytes(4))
    with pytest.raises(files.WeightsFileError, match=r"a\.npz is broken .*two arrays have one name"):
        npz.read(tmp_path / "a.npz")
