"""The best of each row of scores, in the order of a stable sort: equal scores go to the lower index.

The columns of a row are dealt into blocks, and each block's maximum is one cheap reduction. The k-th highest of the
maxima is a bound that the k best scores all reach, and that few others do.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recvae.errors import WorkError

NOT_NUMBERS = "The model gives scores that are not numbers; it cannot rank. Train it again."
_LOWEST = np.finfo(np.float32).min
_LAST = np.iinfo(np.int64).max  # a key after those of all scores
_TIES = 4  # times k: so many candidates of a row are sorted; of more, those that only tie are left out first


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the values and column indices of each row's ``k`` best, as a stable descending sort would give them.

    ``scores`` float32 (B, I), ``k`` <= I. Columns that score -inf are in no particular order, and may be named more
    than once. Raises :class:`WorkError` where a score is NaN.
    """
    if scores.device.type != "cpu":
        return top_k_on_a_device(scores, k)
    values, columns = _top_k(scores.numpy(), k)
    return torch.from_numpy(values), torch.from_numpy(columns)


def _top_k(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """:func:`top_k` with NumPy, which selects and sorts far faster than torch, in few operations."""
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


# --- on a device, where an operation on all rows costs least ---------------------------------------------------------


def top_k_on_a_device(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """:func:`top_k` with torch alone."""
    candidates, columns, bound = _candidates(scores, k + 1)
    values, columns = _of_keys(_as_keys(candidates, columns).topk(k, dim=1, largest=False).values)
    # Only where the k-th value is the bound itself may a column elsewhere have the same value and a lower index.
    torn = (values[:, -1] <= bound) & (values[:, -1] > -torch.inf)
    if torn.any():
        every = torch.arange(scores.shape[1], device=scores.device)
        keys = _as_keys(scores[torn], every).topk(k, dim=1, largest=False).values
        values[torn], columns[torn] = _of_keys(keys)
    return values, columns


def _candidates(scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return values and columns, (B, at least k), that hold each row's ``k`` best, and a bound (B,) on all others."""
    n_rows, n_items = scores.shape
    if k >= n_items:
        _refuse_nan(scores)
        columns = torch.arange(n_items, device=scores.device).expand(n_rows, -1)
        return scores, columns, scores.new_full((n_rows,), -torch.inf)
    size = math.isqrt(n_items // k)
    if size < 4:
        values, columns = scores.topk(k, dim=1, sorted=False)
        _refuse_nan(values)  # a NaN counts as the largest
        return values, columns, values.amin(1)
    blocks = n_items // size
    grid = scores[:, : blocks * size].view(n_rows, size, blocks)
    highest, chosen = grid.amax(1).topk(k, dim=1, sorted=False)  # only these blocks can hold the k best
    steps = torch.arange(0, blocks * size, blocks, device=scores.device)
    columns = (chosen[:, None, :] + steps[:, None]).flatten(1)
    values = grid.gather(2, chosen[:, None, :].expand(-1, size, -1)).flatten(1)
    rest = torch.arange(blocks * size, n_items, device=scores.device)  # the rest is in no block
    values = torch.cat((values, scores[:, blocks * size :]), dim=1)
    columns = torch.cat((columns, rest.expand(n_rows, -1)), dim=1)
    _refuse_nan(values)
    return values, columns, highest.amin(1)


def _as_keys(values: Tensor, columns: Tensor) -> Tensor:
    """:func:`_keys` of tensors."""
    bits = (values + 0.0).view(torch.int32)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (~bits).long() << 32 | columns


def _of_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Undo :func:`_as_keys`."""
    bits = ~(keys >> 32).int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32), keys & 0xFFFFFFFF


def _refuse_nan(scores: Tensor) -> None:
    if scores.isnan().any():
        raise WorkError(NOT_NUMBERS)
