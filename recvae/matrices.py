"""A check that the arrays of a sparse matrix fit one another: SciPy reads and writes memory wherever they point.

NumPy only: the evaluation needs it too.
"""

from typing import TYPE_CHECKING

import numpy as np

from recvae.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def check_indices(matrix: "csr_array", name: str) -> None:
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
    elif len(indices) and not 0 <= indices.min() <= indices.max() < n_columns:
        place = int(((indices < 0) | (indices >= n_columns)).argmax())
        row = int(np.searchsorted(indptr, place, side="right")) - 1
        problem = f"row {row} names column {indices[place]}, and there are columns 0 to {n_columns - 1}"
    else:
        return
    raise DataError(f"{name} is inconsistent: {problem}. Build it again, for example with scipy.sparse.coo_array.")
