"""Sparse matrices in the one form that everything works with; their arrays are checked: SciPy uses them unchecked.

NumPy only, and SciPy where one of its matrices is given or asked for: a service of exported models has no SciPy. Such
programs make their matrices as :class:`Rows`.
"""

import mmap
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recvae.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_array, sparray, spmatrix

_PIECE = 1 << 22  # entries that are looked at together

Matrix: TypeAlias = "sparray | spmatrix | NDArray[np.generic] | Rows"
"""A users x items matrix in any of the forms that :func:`as_csr` converts."""


class Rows:
    """A canonical CSR matrix without SciPy: the part of ``csr_array`` that queries and ranking use, by the same names.

    It is made as a ``csr_array`` is, ``Rows((data, indices, indptr), shape=(n, m))``, of arrays that are canonical
    already: the columns of row i are ``indices[indptr[i] : indptr[i + 1]]``, ascending. The arrays are not copied;
    :func:`canonical` checks them.
    """

    ndim = 2

    def __init__(
        self,
        arrays: tuple[NDArray[np.floating], NDArray[np.integer], NDArray[np.integer]],
        *,
        shape: tuple[int, int],
    ) -> None:
        self.data, self.indices, self.indptr = arrays
        self.shape = shape

    @classmethod
    def of_lists(cls, lists: Sequence[Sequence[int]], width: int, value: float = 1.0) -> "Rows":
        """Return lists of columns, each ascending, as rows of ``value``, float32 (len(lists), ``width``)."""
        indices = np.fromiter(chain.from_iterable(lists), dtype=np.int64)
        indptr = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in lists], out=indptr[1:])
        return cls((np.full(len(indices), value, np.float32), indices, indptr), shape=(len(lists), width))

    @classmethod
    def of_entries(
        cls,
        data: NDArray[np.floating],
        rows: NDArray[np.integer],
        columns: NDArray[np.integer],
        *,
        shape: tuple[int, int],
    ) -> "Rows":
        """Return the matrix of entries in any order, each place at most once; row numbers and columns (nnz,)."""
        key = rows.astype(np.int64) * shape[1] + columns
        order = np.argsort(key, kind="stable")  # fast where the rows are in order already, as in most files
        indptr = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.bincount(rows, minlength=shape[0]))))
        return cls((data[order], columns[order], indptr), shape=shape)

    @property
    def nnz(self) -> int:
        """Number of entries."""
        return len(self.indices)

    def __getitem__(self, rows: slice | Sequence[int] | NDArray[np.integer]) -> "Rows":
        """Return some rows: a slice of them without gaps, which shares memory, or row numbers (b,)."""
        n, width = self.shape
        if isinstance(rows, slice):
            start, stop, step = rows.indices(n)
            assert step == 1, "a slice of rows has no gaps"
            indptr = self.indptr[start : max(start, stop) + 1]
            entries = slice(int(indptr[0]), int(indptr[-1]))
            return Rows((self.data[entries], self.indices[entries], indptr - indptr[0]), shape=(len(indptr) - 1, width))
        chosen = np.asarray(rows, dtype=np.int64)
        starts, lengths = self.indptr[chosen], np.diff(self.indptr)[chosen]
        indptr = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
        places = np.repeat(starts - indptr[:-1], lengths) + np.arange(indptr[-1])
        return Rows((self.data[places], self.indices[places], indptr), shape=(len(chosen), width))

    def row_numbers(self) -> NDArray[np.int64]:
        """Return the row of each entry, int64 (nnz,), ascending."""
        return np.repeat(np.arange(self.shape[0]), np.diff(self.indptr))

    @cached_property
    def by_column(self) -> "Rows":
        """The transposed matrix."""
        order = np.argsort(self.indices, kind="stable")
        counts = np.bincount(self.indices, minlength=self.shape[1])
        indptr = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
        return Rows((self.data[order], self.row_numbers()[order], indptr), shape=self.shape[::-1])

    def in_scipy(self) -> "csr_array":
        """Return the same matrix as a ``csr_array`` that shares its memory."""
        from scipy.sparse import csr_array

        return csr_array((self.data, self.indices, self.indptr), shape=self.shape)


def canonical(matrix: Matrix) -> "csr_array":
    """Return ``matrix`` as a canonical csr_array: sorted, duplicates summed, no explicit zeros; :class:`Rows` stay.

    Duplicates of a type other than float32 and float64 are summed in float64: in eight bits 128 + 128 is 0. Raises
    :class:`DataError` where the matrix is not two-dimensional, its indices do not fit its shape, or an entry is
    negative, NaN or infinite.
    """
    if isinstance(matrix, Rows):
        return _checked(matrix)
    csr = as_csr(matrix)
    data = csr.data
    positive = not len(data) or (data.min() > 0 and data.max() < np.inf)  # the usual case, at the cost of two passes
    if not positive:
        refuse_weights(csr, ~(np.isfinite(data) & (data >= 0)))
    if not (positive and csr.has_canonical_format):
        csr = csr.astype(_wide(csr.dtype), copy=True)  # the caller's matrix is never changed
        csr.sum_duplicates()
        csr.eliminate_zeros()
    return csr


def _checked(rows: Rows) -> Rows:
    """Return rows; raise :class:`DataError` where they are not canonical or an entry is not a positive number."""
    check_indices(rows, "The matrix")
    refuse_weights(rows, ~(np.isfinite(rows.data) & (rows.data > 0)))
    falls = rows.indices[1:] <= rows.indices[:-1]
    starts = rows.indptr[1:-1]
    falls[starts[(starts > 0) & (starts < rows.nnz)] - 1] = False  # from a row's last column to the next row's first
    if falls.any():
        row = int(rows.row_numbers()[int(falls.argmax())])
        raise DataError(f"The columns of row {row} of the matrix do not ascend. Sort each row, and name a column once.")
    return rows


def as_csr(matrix: Matrix) -> "csr_array":
    """Return a matrix of numbers as a csr_array whose indices fit its shape: unchanged if it is one already.

    Raises :class:`DataError` for anything else.
    """
    from scipy.sparse import csr_array, issparse

    if isinstance(matrix, Rows):
        matrix = matrix.in_scipy()
    if not issparse(matrix) and not isinstance(matrix, np.ndarray):
        raise DataError(
            f"Expected a users x items scipy.sparse matrix, got {type(matrix).__name__}. "
            "Build a scipy.sparse.csr_array with one row per user."
        )
    if matrix.ndim != 2:
        raise DataError(f"Expected a users x items matrix, got {matrix.ndim} dimension(s).")
    if matrix.dtype.kind not in "biuf":
        raise DataError(f"The matrix holds values of type {matrix.dtype}; clicks are numbers.")
    if not isinstance(matrix, csr_array) or matrix.dtype == np.float16:  # SciPy cannot compute with float16
        matrix = _converted(matrix)
    check_indices(matrix, "The matrix")
    return matrix


def check_indices(matrix: "csr_array | Rows", name: str) -> None:
    """Raise :class:`DataError` for a CSR whose row pointers, columns and values do not fit one another and its shape.

    ``name`` begins the sentence, such as "The matrix". The arrays themselves are checked, in a few passes, whatever
    flags SciPy has set on the matrix.
    """
    indptr, indices, data = matrix.indptr, matrix.indices, matrix.data
    n_rows, n_columns = matrix.shape
    if any(getattr(part, "ndim", 0) != 1 for part in (indptr, indices, data)) or any(
        part.dtype.kind not in "iu" for part in (indptr, indices)
    ):
        problem = "its indptr, indices and data are not one-dimensional arrays, the first two of whole numbers"
    elif len(indptr) != n_rows + 1:
        problem = f"it has {len(indptr)} row pointers (indptr) for {n_rows} rows, which need one more than there are"
    elif len(indices) != len(data):
        problem = f"it has {len(indices)} columns (indices) for {len(data)} values"
    elif indptr[0] != 0 or indptr[-1] != len(indices):
        problem = f"its row pointers (indptr) go from {indptr[0]} to {indptr[-1]}, not from 0 to {len(indices)}"
    elif (falls := indptr[1:] < indptr[:-1]).any():
        problem = f"its row pointers (indptr) fall after row {int(falls.argmax())}"
    elif not within(indices, n_columns):
        place = int(((indices < 0) | (indices >= n_columns)).argmax())
        row = int(np.searchsorted(indptr, place, side="right")) - 1
        problem = f"row {row} names column {indices[place]}, and there are columns 0 to {n_columns - 1}"
    else:
        return
    raise DataError(f"{name} is inconsistent: {problem}. Build it again, for example with scipy.sparse.coo_array.")


def within(indices: "NDArray[np.integer]", n_columns: int) -> bool:
    """Return whether all columns are from 0 to ``n_columns`` - 1; a mapped file is read in pieces."""
    return all(part.min() >= 0 and part.max() < n_columns for part in (indices[piece] for piece in pieces_of(indices)))


def item_counts(matrix: "csr_array") -> NDArray[np.int64]:
    """Return the number of stored entries in each column, int64 (n_items,); a mapped file is read in pieces."""
    counts = np.zeros(matrix.shape[1], np.int64)
    for piece in pieces_of(matrix.indices):
        counts += np.bincount(matrix.indices[piece], minlength=len(counts))
    return counts


# --- arrays that are files


def pieces_of(array: "NDArray[np.generic]") -> Iterator[slice]:
    """Yield slices that cover a one-dimensional array, so that no copy of the whole is made.

    Where the array is a mapped file, the memory of a piece's pages is given back when the next piece is asked for.
    """
    for start in range(0, len(array), _PIECE):
        yield slice(start, start + _PIECE)
        release(array)


def mapping_of(array: object) -> mmap.mmap | None:
    """Return the mapped file in whose pages an array lies, None for an array in memory of its own."""
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, memoryview):
        array = array.obj
    return array if isinstance(array, mmap.mmap) else None


def release(array: "NDArray[np.generic]") -> None:
    """Give back the memory of a mapped file's pages; they come again when they are read. Other arrays stay as they are.

    A page that was read counts as the process's memory until the system wants it back. Given back at once, the memory
    that a process shows is the memory that it needs. Only for files that are mapped to be read.
    """
    mapping = mapping_of(array)
    if mapping is not None and hasattr(mapping, "madvise"):  # not on Windows
        mapping.madvise(mmap.MADV_DONTNEED)


def _converted(matrix: "sparray") -> "csr_array":
    """Return a matrix of another form as a csr_array; raise :class:`DataError` where its arrays do not fit."""
    from scipy.sparse import csr_array

    try:
        matrix = matrix.astype(_wide(matrix.dtype), copy=False)  # some formats sum duplicates in their own type
        form = getattr(matrix, "format", "dense")
        if form == "coo":
            if any((at < 0).any() or (at >= n).any() for at, n in zip(matrix.coords, matrix.shape, strict=True)):
                raise ValueError("it has an entry outside its shape")
        elif form in ("csc", "bsr"):
            matrix.copy().check_format(full_check=True)
        return csr_array(matrix)
    except (TypeError, ValueError, IndexError) as error:
        raise DataError(f"The matrix cannot be read as users x items: {error}.") from error


def _wide(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """Return the type in which weights of ``dtype`` are summed."""
    return dtype if dtype in (np.float32, np.float64) else np.dtype(np.float64)


def refuse_weights(matrix: "csr_array | Rows", wrong: NDArray[np.bool_]) -> None:
    """Raise :class:`DataError` naming the first click that ``wrong`` marks."""
    if wrong.any():
        place = int(wrong.argmax())
        row = int(np.searchsorted(matrix.indptr, place, side="right")) - 1
        raise DataError(
            f"The click of user row {row} on item {matrix.indices[place]} has weight {matrix.data[place]}; "
            "weights must be positive numbers of ordinary size. Remove or correct such entries."
        )


def entries_of(where: Matrix) -> "csr_array":
    """Return the entries that ``where`` stores, whatever their values, as a canonical CSR of positive numbers."""
    from scipy.sparse import csr_array

    where = as_csr(where)
    ones = np.ones(len(where.indices), np.float32)
    return canonical(csr_array((ones, where.indices, where.indptr), shape=where.shape))
