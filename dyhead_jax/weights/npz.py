"""Reads .npz files of strangers: nothing is unpickled, and a small file cannot fill the memory.

A few kilobytes can unpack to gigabytes. The sizes that the zip's directory declares are checked before anything is
unpacked, and `zipfile` unpacks no more than was declared; the shape in the header of each array must fit them.
"""

import math
import zipfile
from pathlib import Path

import numpy as np

MOST_BYTES = 2**31  # that a compressed file may unpack to; an uncompressed one is its own size, whatever that is


class WeightsFileError(ValueError):
    """A file of weights that cannot be read or written, or a package that is missing for it; the message names it."""


def read(path: Path, most: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """Name -> array, read-only. most: bytes that the file may unpack to, unless it is larger itself.

    Raises WeightsFileError, one line with the file's name, for a file that is missing, broken, or unpacks to more, and
    for arrays of other things than numbers.
    """
    if not path.is_file():
        raise WeightsFileError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            unpacked, most = sum(entry.file_size for entry in entries), max(most, path.stat().st_size)
            if unpacked > most:
                raise WeightsFileError(
                    f"{path} would unpack to {unpacked / 1e6:,.0f} MB, more than the limit of {most / 1e6:,.0f} MB"
                )
            arrays = {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in entries}
            if len(arrays) < len(entries):
                raise ValueError("two arrays have one name")
            return arrays
    except WeightsFileError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds for a broken file
        raise WeightsFileError(f"{path} is broken or no .npz of numbers ({' '.join(str(error).split())})") from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise ValueError(f"{entry.filename} has the format {version}")
        shape, fortran, dtype = read_header(stream)
        if dtype.kind not in "biufc":
            raise ValueError(f"{entry.filename} holds {dtype}, not numbers")
        raw = stream.read()
    if any(n < 0 for n in shape) or len(raw) != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{entry.filename} has {len(raw)} bytes for shape {shape} of {dtype}")
    array = np.frombuffer(raw, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
