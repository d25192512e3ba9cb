"""Canonical CSR matrices of clicks on disk: saved without pickle, and checked in full when loaded."""

import io
import lzma
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from scipy.sparse import csr_array, load_npz, save_npz

from recvae.errors import FormatError

_AGAIN = "Prepare the dataset again."
_HEADERS = 1 << 16
_PACKED = 1 << 26  # most bytes that a compressed file may unpack to (files made here are not compressed)

# The errors of zipfile, NumPy and SciPy for damaged archives, arrays and headers.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, MemoryError, OverflowError),
    *(ValueError, KeyError, TypeError, IndexError, AttributeError, SyntaxError, NotImplementedError, RuntimeError),
)


def save_matrix(path: Path, matrix: csr_array) -> None:
    """Write a CSR matrix as SciPy's npz, not compressed, as it then loads several times faster."""
    save_npz(path, matrix, compressed=False)


def read_matrix(path: Path, file: IO[bytes], shape: tuple[int, int], entries: int, *, ratings: bool) -> csr_array:
    """Read a CSR matrix of clicks, or of ratings, of this shape with this many entries, and check it.

    ``file`` is ``path``, opened. Raises :class:`FormatError` naming the file, before any memory is
    taken where the arrays would be too large for such a matrix.
    """
    try:
        _check_sizes(path, file, shape, entries)
        matrix = load_npz(file)
    except FormatError:
        raise
    except _DAMAGE as error:
        raise FormatError(f"{path} is truncated, altered or not a sparse matrix. {_AGAIN}") from error
    if matrix.format != "csr" or matrix.ndim != 2:
        raise FormatError(f"{path} holds a {matrix.format} matrix, not CSR. {_AGAIN}")
    matrix = csr_array(matrix)
    if matrix.shape != shape or matrix.nnz != entries:
        raise FormatError(
            f"{path} is {matrix.shape[0]} x {matrix.shape[1]} with {matrix.nnz} entries, and manifest.json says"
            f" {shape[0]} x {shape[1]} with {entries}. {_AGAIN}"
        )
    check_matrix(str(path), matrix, ratings=ratings)
    return matrix


def _check_sizes(path: Path, file: IO[bytes], shape: tuple[int, int], entries: int) -> None:
    """Raise :class:`FormatError` where the archive's table lists larger arrays than the matrix or the file can hold."""
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    on_disk = file.seek(0, io.SEEK_END)
    file.seek(0)
    # Values, columns and row pointers of at most eight bytes each, and the headers.
    if unpacked > min(16 * entries + 8 * (shape[0] + 1) + _HEADERS, max(on_disk, _PACKED)):
        raise FormatError(
            f"{path} unpacks to {unpacked:,} bytes, too many for {entries:,} entries in a file of {on_disk:,}. {_AGAIN}"
        )


def check_matrix(label: str, matrix: csr_array, *, ratings: bool = False) -> None:
    """Raise :class:`FormatError` unless ``matrix`` is a canonical CSR of float32 ones, or of positive ``ratings``.

    Canonical: row pointers from 0 to nnz that never fall, columns in range and strictly ascending within each row.
    """
    indptr, indices, data = matrix.indptr, matrix.indices, matrix.data
    rows, columns = matrix.shape
    problem = ""
    if indptr.shape != (rows + 1,) or indptr[0] != 0 or indptr[-1] != indices.size or data.shape != indices.shape:
        problem = "has row pointers that do not fit its clicks"
    elif (np.diff(indptr) < 0).any():
        problem = "has row pointers that fall"
    elif indices.size and (indices.min() < 0 or indices.max() >= columns):
        problem = f"has a column outside its {columns:,} items"
    elif not _strictly_ascending(matrix):
        problem = "has columns that are not sorted or are doubled"
    elif ratings and (data.dtype != np.float32 or not ((data > 0) & (data < np.inf)).all()):
        problem = "holds something other than ratings (float32, above 0)"
    elif not ratings and (data.dtype != np.float32 or not (data == 1).all()):
        problem = "holds something other than clicks (float32 ones)"
    if problem:
        raise FormatError(f"{label} {problem}. {_AGAIN}")
    matrix.has_sorted_indices = True  # known now, so that SciPy need not check it again
    matrix.has_canonical_format = True


def _strictly_ascending(matrix: csr_array) -> bool:
    if matrix.nnz < 2:
        return True
    rising = matrix.indices[1:] > matrix.indices[:-1]
    starts = matrix.indptr[1:-1]  # a fall is allowed where a new row starts
    starts = starts[(starts > 0) & (starts < matrix.nnz)]
    rising[starts - 1] = True
    return bool(rising.all())
