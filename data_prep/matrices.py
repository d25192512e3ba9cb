"""Canonical CSR matrices of clicks: their check, and the npz files of dataset folders of version 1."""

import io
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, load_npz

from data_prep.manifest import AGAIN
from recvae.errors import FormatError
from recvae.matrices import pieces_of, within

_HEADERS = 1 << 16
_PACKED = 1 << 26  # most bytes that a compressed file may unpack to (such files were written uncompressed)

# The errors of zipfile, NumPy and SciPy for damaged archives, arrays and headers.
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, MemoryError, OverflowError),
    *(ValueError, KeyError, TypeError, IndexError, AttributeError, SyntaxError, NotImplementedError, RuntimeError),
    tokenize.TokenError,
)


def read_npz(path: Path, file: IO[bytes], shape: tuple[int, int], entries: int, *, ratings: bool) -> csr_array:
    """Read a CSR matrix of clicks, or of ratings, of this shape with this many entries, and check it.

    ``file`` is ``path``, opened. Raises :class:`FormatError` naming the file, before any memory is
    taken where the arrays would be too large for such a matrix.
    """
    try:
        _check_sizes(path, file, shape, entries)
        matrix = load_npz(file)
    except FormatError:
        raise
    except DAMAGE as error:
        raise FormatError(f"{path} is truncated, altered or not a sparse matrix. {AGAIN}") from error
    if matrix.format != "csr" or matrix.ndim != 2:
        raise FormatError(f"{path} holds a {matrix.format} matrix, not CSR. {AGAIN}")
    matrix = csr_array(matrix)
    if matrix.shape != shape or matrix.nnz != entries:
        raise FormatError(
            f"{path} is {matrix.shape[0]} x {matrix.shape[1]} with {matrix.nnz} entries, and manifest.json says"
            f" {shape[0]} x {shape[1]} with {entries}. {AGAIN}"
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
            f"{path} unpacks to {unpacked:,} bytes, too many for {entries:,} entries in a file of {on_disk:,}. {AGAIN}"
        )


def check_matrix(
    label: str, matrix: csr_array, *, ratings: bool = False, files: Mapping[str, Path] | None = None
) -> None:
    """Raise :class:`FormatError` unless ``matrix`` is a canonical CSR of float32 ones, or of positive ``ratings``.

    Canonical: row pointers from 0 to nnz that never fall, columns in range and strictly ascending within each row.
    ``label`` names the matrix in the sentence, or ``files`` the files of its indptr, indices and data. Arrays are
    looked at in pieces, so that the check of a mapped file takes no memory.
    """
    indptr, indices, data = matrix.indptr, matrix.indices, matrix.data
    rows, columns = matrix.shape
    part, problem = "indptr", ""
    if indptr.shape != (rows + 1,) or indptr[0] != 0 or indptr[-1] != indices.size or data.shape != indices.shape:
        problem = "has row pointers that do not fit its clicks"
    elif (np.diff(indptr) < 0).any():
        problem = "has row pointers that fall"
    elif not within(indices, columns):
        part, problem = "indices", f"has a column outside its {columns:,} items"
    elif not _strictly_ascending(matrix):
        part, problem = "indices", "has columns that are not sorted or are doubled"
    elif ratings and (data.dtype != np.float32 or not _lie_between(data, 0, np.inf)):
        part, problem = "data", "holds something other than ratings (float32, above 0)"
    elif not ratings and (data.dtype != np.float32 or not _are_ones(data)):
        part, problem = "data", "holds something other than clicks (float32 ones)"
    if problem:
        raise FormatError(f"{files[part] if files else label} {problem}. {AGAIN}")
    matrix.has_sorted_indices = True  # known now, so that SciPy need not check it again
    matrix.has_canonical_format = True


def merged_rows(parts: Sequence[tuple[npt.NDArray[np.int32], csr_array]], n: int) -> csr_array:
    """Return matrices of the same columns in one of ``n`` rows: row r of a part is added to row ``numbers[r]``.

    Columns are sorted, and the values of an item that is twice in a row are added.
    """
    rows = np.concatenate([np.repeat(numbers, np.diff(matrix.indptr)) for numbers, matrix in parts])
    columns = np.concatenate([matrix.indices for _, matrix in parts])
    values = np.concatenate([matrix.data for _, matrix in parts])
    return csr_array((values, (rows, columns)), shape=(n, parts[0][1].shape[1]))


def _strictly_ascending(matrix: csr_array) -> bool:
    indices, indptr = matrix.indices, matrix.indptr
    for piece in pieces_of(indices):
        first = max(piece.start, 1)
        rising = indices[first : piece.stop] > indices[first - 1 : piece.stop - 1][: max(len(indices) - first, 0)]
        # A fall is allowed where a new row starts.
        starts = indptr[np.searchsorted(indptr, first) : np.searchsorted(indptr, first + len(rising))]
        rising[starts - first] = True
        if not rising.all():
            return False
    return True


def _are_ones(data: npt.NDArray[np.float32]) -> bool:
    return all((data[piece] == 1).all() for piece in pieces_of(data))


def _lie_between(data: npt.NDArray[np.float32], low: float, high: float) -> bool:
    """Return whether all values are above ``low`` and below ``high``."""
    return all(((data[piece] > low) & (data[piece] < high)).all() for piece in pieces_of(data))
