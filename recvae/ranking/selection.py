"""The best of each row of scores, in the order of a stable sort: equal scores go to the lower index."""

import math

import numpy as np
import torch
from torch import Tensor

from recvae.errors import WorkError
from recvae.ranking.best import NOT_NUMBERS, top_k_of_one

FEW_ROWS = 4  # a request or two: the number of operations takes time there, not their size


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the values and column indices of each row's ``k`` best, as a stable descending sort would give them.

    ``scores`` float32 (B, I), ``k`` <= I. Columns that score -inf are in no particular order. Raises
    :class:`WorkError` where a score is NaN.
    """
    if 0 < len(scores) < FEW_ROWS and scores.device.type == "cpu":
        rows = [top_k_of_one(row, k) for row in scores.numpy()]
        return tuple(torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))  # type: ignore[return-value]
    candidates, columns, bound = _candidates(scores, k + 1)
    values, columns = _values_and_columns(_first(_keys(candidates, columns), k))
    # Only where the k-th value is the bound itself may a column elsewhere have the same value and a lower index.
    torn = (values[:, -1] <= bound) & (values[:, -1] > -torch.inf)
    if torn.any():
        every = torch.arange(scores.shape[1], device=scores.device)
        values[torn], columns[torn] = _values_and_columns(_first(_keys(scores[torn], every), k))
    return values, columns


def _candidates(scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return values and columns, (B, at least k), that hold each row's ``k`` best, and a bound (B,) on all others.

    The columns of many rows are dealt into blocks: each block's maximum is one cheap reduction, and only the k blocks
    with the highest maxima can hold the k best. The smallest of these maxima bounds everything elsewhere.
    """
    n_rows, n_items = scores.shape
    if k >= n_items:
        _refuse_nan(scores)
        columns = torch.arange(n_items, device=scores.device).expand(n_rows, -1)
        return scores, columns, scores.new_full((n_rows,), -torch.inf)
    size = math.isqrt(n_items // k)  # columns per block: as many candidates as there are blocks
    if size < 4:
        columns = _largest(scores, k)
        values = scores.gather(1, columns)
        _refuse_nan(values)  # a NaN counts as the largest
        return values, columns, values.amin(1)
    blocks = n_items // size
    grid = scores[:, : blocks * size].view(n_rows, size, blocks)  # block b has the columns b, b + blocks, ...
    highest = grid.amax(1)  # (B, blocks); a NaN stays one
    chosen = _largest(highest, k)
    steps = torch.arange(0, blocks * size, blocks, device=scores.device)
    columns = (chosen[:, None, :] + steps[:, None]).flatten(1)
    values = grid.gather(2, chosen[:, None, :].expand(-1, size, -1)).flatten(1)
    rest = torch.arange(blocks * size, n_items, device=scores.device)  # the rest is in no block
    values = torch.cat((values, scores[:, blocks * size :]), dim=1)
    columns = torch.cat((columns, rest.expand(n_rows, -1)), dim=1)
    _refuse_nan(values)
    return values, columns, highest.gather(1, chosen).amin(1)


def _keys(values: Tensor, columns: Tensor) -> Tensor:
    """Return one int64 per score whose ascending order is the stable descending order of the scores."""
    bits = (values + 0.0).view(torch.int32)  # -0 becomes 0
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # float order as integer order
    return (~bits).long() << 32 | columns


def _values_and_columns(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Undo :func:`_keys`."""
    bits = ~(keys >> 32).int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32), keys & 0xFFFFFFFF


def _first(keys: Tensor, k: int) -> Tensor:
    """Return each row's ``k`` smallest keys in order. On a CPU NumPy selects far faster than torch."""
    if keys.device.type != "cpu":
        return keys.topk(k, dim=1, largest=False).values
    array = keys.numpy()
    if k < array.shape[1]:
        array = np.partition(array, k - 1, axis=1)[:, :k]
    return torch.from_numpy(np.sort(array, axis=1))


def _largest(values: Tensor, k: int) -> Tensor:
    """Return the places of each row's ``k`` largest values, int64, in no particular order."""
    if values.device.type != "cpu":
        return values.topk(k, dim=1, sorted=False).indices
    return torch.from_numpy(np.argpartition(values.numpy(), -k, axis=1)[:, -k:])


def _refuse_nan(scores: Tensor) -> None:
    if scores.isnan().any():
        raise WorkError(NOT_NUMBERS)
