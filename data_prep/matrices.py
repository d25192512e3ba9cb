"""Canonical CSR matrices of clicks on disk: saved without pickle, and checked in full when loaded."""

import zipfile
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, load_npz, save_npz

from recvae.errors import FormatError

_AGAIN = "Prepare the dataset again."


def save_matrix(path: Path, matrix: csr_array) -> None:
    """Write a CSR matrix as SciPy's npz, not compressed: ones and sorted columns load several times faster so."""
    save_npz(path, matrix, compressed=False)


def load_matrix(path: Path, *, ratings: bool = False) -> csr_array:
    """Read a CSR matrix of clicks, or of ratings, and check it; raise :class:`FormatError` naming the file."""
    try:
        with path.open("rb") as file:  # opened here, because NumPy leaves a damaged file open
            matrix = load_npz(file)
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing. {_AGAIN}") from error
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError, MemoryError, TypeError, IndexError) as error:
        raise FormatError(f"{path} is truncated, altered or not a sparse matrix. {_AGAIN}") from error
    except (AttributeError, SyntaxError, NotImplementedError, RuntimeError) as error:  # what odd headers raise
        raise FormatError(f"{path} is not a sparse matrix that can be read. {_AGAIN}") from error
    if matrix.format != "csr" or matrix.ndim != 2:
        raise FormatError(f"{path} holds a {matrix.format} matrix, not CSR. {_AGAIN}")
    matrix = csr_array(matrix)
    check_matrix(str(path), matrix, ratings=ratings)
    return matrix


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
    matrix.has_sorted_indices = True  # known now: spares SciPy a second look
    matrix.has_canonical_format = True


def _strictly_ascending(matrix: csr_array) -> bool:
    if matrix.nnz < 2:
        return True
    rising = matrix.indices[1:] > matrix.indices[:-1]
    starts = matrix.indptr[1:-1]  # a fall is allowed where a new row starts
    starts = starts[(starts > 0) & (starts < matrix.nnz)]
    rising[starts - 1] = True
    return bool(rising.all())
