"""Matrices as NumPy files that are mapped, not read: the dataset folder's form since version 2.

A matrix NAME is a canonical CSR in ``NAME.indptr.npy`` and ``NAME.indices.npy``, both int32, or both int64 where 32
bits are too few; ratings also have ``NAME.data.npy``, float32. Clicks have no third file, since all are ones. A mapped
array takes memory for the pages that are read, and the system takes that memory back where it is short.
"""

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from data_prep.manifest import AGAIN, RATINGS, matrix_files
from data_prep.matrices import DAMAGE, check_matrix
from recvae.errors import FormatError

Array = npt.NDArray[np.generic]

HEADER = 128
"""Bytes of a header: NumPy leaves room in it, so that the length may grow."""

ONES = 1 << 24
"""The most clicks whose ones are held in memory, 64 MiB of them; of more there is a single one, read at every place."""


def save_matrix(folder: Path, name: str, matrix: csr_array) -> None:
    """Write a canonical CSR, of ratings where the name is one of ``RATINGS``, else of ones."""
    kind = index_type(matrix.shape, matrix.nnz)
    arrays = {"indptr": matrix.indptr.astype(kind, copy=False), "indices": matrix.indices.astype(kind, copy=False)}
    for file in matrix_files(name):
        save_array(folder / file, arrays.get(file.split(".")[1], matrix.data))


def save_array(path: Path, array: Array) -> None:
    """Write a one-dimensional array as ``np.save`` does, which for a file on a full disk may not raise an error.

    NumPy writes by C's buffered files, and does not look at the error of the last flush. Raises OSError.
    """
    with path.open("wb") as file:
        write_header(file, array.dtype, len(array))
        write_values(file, array)


def write_header(file: IO[bytes], kind: np.dtype[np.generic], length: int) -> None:
    """Write the header that ``np.save`` writes for an array of this length; its own length is ``HEADER``."""
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)
    assert file.tell() == HEADER, "NumPy's header of a row of numbers has another length"


def write_values(file: IO[bytes], array: Array) -> None:
    """Write the bytes of an array; raise OSError where they cannot be written."""
    file.write(np.ascontiguousarray(array).data)


def index_type(shape: tuple[int, int], entries: int) -> type[np.int32] | type[np.int64]:
    """Return the type of row pointers and columns of a matrix of ``shape`` with ``entries``."""
    return np.int32 if max(*shape, entries) <= np.iinfo(np.int32).max else np.int64


def read_mapped(folder: Path, files: Mapping[str, IO[bytes]], shape: tuple[int, int], entries: int) -> csr_array:
    """Map a matrix and check it; ``files`` are its opened files by name, in the order of :func:`matrix_files`.

    Raises :class:`FormatError` naming the file that holds no such array, before any memory is taken for it.
    """
    kinds = {"indptr": "<i4,<i8", "indices": "<i4,<i8", "data": "<f4"}
    lengths = {"indptr": shape[0] + 1, "indices": entries, "data": entries}
    arrays: dict[str, Array] = {}
    for name, file in files.items():
        part = name.split(".")[1]
        arrays[part] = _map(folder / name, file, kinds[part], lengths[part])
    if arrays["indptr"].dtype != arrays["indices"].dtype:
        raise FormatError(f"{folder / next(iter(files))} and the indices beside it are of two types. {AGAIN}")
    data = arrays.get("data")
    name = next(iter(files)).split(".")[0]
    paths = {part: folder / f"{name}.{part}.npy" for part in kinds}
    try:
        matrix = csr_array((ones(entries) if data is None else data, arrays["indices"], arrays["indptr"]), shape=shape)
    except ValueError as error:
        raise FormatError(f"{paths['indptr']} has row pointers that do not fit its clicks. {AGAIN}") from error
    check_matrix(name, matrix, ratings=name in RATINGS, files=paths)
    return matrix


def ones(entries: int) -> npt.NDArray[np.float32]:
    """Return float32 ones (entries,); of more than ``ONES`` a view of a single one, which takes no memory."""
    return np.ones(entries, np.float32) if entries <= ONES else np.broadcast_to(np.float32(1), entries)


def _map(path: Path, file: IO[bytes], kinds: str, length: int) -> Array:
    """Map a one-dimensional array of this length and one of these types; raise :class:`FormatError` for another."""
    wrong = FormatError(f"{path} is truncated, altered or no array of {length:,} values of {kinds}. {AGAIN}")
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise wrong
        shape, by_column, kind = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
        fits = shape == (length,) and not by_column and kind.str in kinds.split(",")
        if not fits or file.seek(0, 2) != start + length * kind.itemsize:
            raise wrong
        if not length:
            return np.empty(0, kind)
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapping, kind, length, start)
    except DAMAGE as error:
        raise wrong from error
