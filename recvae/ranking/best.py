"""The best of each row of scores, in the order of a stable sort, and rows in parts that fit into memory, in NumPy.

The columns of a row are dealt into blocks, and each block's maximum is one cheap reduction. The k-th highest of the
maxima is a bound that the k best scores all reach, and that few others do.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from recvae.errors import WorkError

# Scores per block: few enough on a CPU to stay in its cache while they are masked and selected from.
SCORES_IN_MEMORY = 1 << 22
NOT_NUMBERS = "The model gives scores that are not numbers; it cannot rank. Train it again."
_LOWEST = np.finfo(np.float32).min
_LAST = np.iinfo(np.int64).max  # a key after those of all scores
_TIES = 4  # times k: so many candidates of a row are sorted; of more, those that only tie are left out first


def top_k(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the values and column indices of each row's ``k`` best, as a stable descending sort would give them.

    ``scores`` float32 (B, I), ``k`` <= I; float32 and int64 (B, k). Columns that score -inf are in no particular order,
    and may be named more than once. Few operations: NumPy selects and sorts far faster than torch on a CPU. Raises
    :class:`WorkError` where a score is NaN.
    """
    n_rows, n_items = scores.shape
    if not n_rows or not k:
        return np.zeros((n_rows, k), np.float32), np.zeros((n_rows, k), np.int64)
    size = math.isqrt(n_items // k)  # columns per block: as many candidates as there are blocks
    blocks = n_items // size
    grid = scores[:, : blocks * size].reshape(n_rows, size, blocks)  # block b has the columns b, b + blocks, ...
    highest = grid.max(1)  # (B, blocks); a NaN stays one
    if np.isnan(highest).any() or np.isnan(scores[:, blocks * size :]).any():
        raise WorkError(NOT_NUMBERS)
    bound = np.partition(highest, blocks - k, axis=1)[:, blocks - k, None]
    where = np.flatnonzero(scores >= np.maximum(bound, _LOWEST))
    rows, columns = np.divmod(where, n_items)
    values = scores.reshape(-1)[where]
    counts = np.bincount(rows, minlength=n_rows)
    if counts.max() > _TIES * k:
        kept = _without_late_ties(rows, counts, values == bound[rows, 0], k)
        rows, columns, values = rows[kept], columns[kept], values[kept]
        counts = np.bincount(rows, minlength=n_rows)
    places = np.arange(len(rows)) - (counts.cumsum() - counts)[rows]
    keys = np.full((n_rows, max(k, counts.max())), _LAST)
    keys[rows, places] = _keys(values, columns)
    keys.sort(axis=1)
    first = keys[:, :k]
    best, chosen = _values_and_columns(first)
    best[first == _LAST], chosen[first == _LAST] = -np.inf, 0
    return best, chosen


def _without_late_ties(
    rows: NDArray[np.int64], counts: NDArray[np.int64], ties: NDArray[np.bool_], k: int
) -> NDArray[np.int64]:
    """Return the places of the candidates, in order, without those of a row's ``ties`` that come after its first ``k``.

    ``rows`` int64 (C,), ascending: the row of each candidate, whose columns ascend within a row; ``counts`` (B,): the
    number of a row's candidates.
    """
    before = np.append(0, ties.cumsum())  # ties of this row and of the rows before
    of_row = before[:-1] - before[counts.cumsum() - counts][rows]
    return np.flatnonzero(~ties | (of_row < k))


def _keys(values: NDArray[np.float32], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one number per score whose ascending order is the stable descending order of the scores."""
    bits = (values + np.float32(0)).view(np.int32)  # -0 becomes 0
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # float order as integer order
    return (~bits).astype(np.int64) << 32 | columns


def _values_and_columns(keys: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Undo :func:`_keys`."""
    bits = ~(keys >> 32).astype(np.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.float32), keys & 0xFFFFFFFF


def tiles(lengths: NDArray[np.integer], rows: int, entries: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of at most so many ``rows`` with at most so many ``entries`` in all, or of a single row.

    ``lengths``: the number of entries of each row.
    """
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        before = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, before + entries, side="right"))
        stop = max(start + 1, min(stop, start + rows))
        yield start, stop
        start = stop
