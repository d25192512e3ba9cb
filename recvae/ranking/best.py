"""The best of one row of scores, in the order of a stable sort, and rows in parts that fit into memory, in NumPy."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from recvae.errors import WorkError

# Scores per block: few enough on a CPU to stay in its cache while they are masked and selected from.
SCORES_IN_MEMORY = 1 << 22
NOT_NUMBERS = "The model gives scores that are not numbers; it cannot rank. Train it again."


def top_k_of_one(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the values and columns of the ``k`` best of a single row (I,), in as few operations as there can be.

    ``k`` <= I; equal scores go to the lower column, and columns that score -inf are in no particular order. Raises
    :class:`WorkError` where a score is NaN.
    """
    columns = np.argpartition(scores, -k - 1)[-k - 1 :] if k < len(scores) else np.arange(len(scores))
    values = scores[columns]
    if np.isnan(values).any():  # a NaN counts as the largest
        raise WorkError(NOT_NUMBERS)
    order = np.lexsort((columns, -values))
    if k < len(scores) and values[order[k - 1]] == values[order[k]]:  # others may have the same value
        columns = np.flatnonzero(scores >= values[order[k]])
        values = scores[columns]
        order = np.argsort(-values, kind="stable")
    return values[order[:k]], columns[order[:k]]


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
