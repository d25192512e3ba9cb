"""The best of each row of scores in tensors: on a CPU by :mod:`recvae.ranking.best`, on a device by torch."""

import math

import torch
from torch import Tensor

from recvae.errors import WorkError
from recvae.ranking import best
from recvae.ranking.best import NOT_NUMBERS


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the values and column indices of each row's ``k`` best, as a stable descending sort would give them.

    ``scores`` float32 (B, I), ``k`` <= I. Columns that score -inf are in no particular order, and may be named more
    than once. Raises :class:`WorkError` where a score is NaN.
    """
    if scores.device.type != "cpu":
        return top_k_on_a_device(scores, k)
    values, columns = best.top_k(scores.numpy(), k)
    return torch.from_numpy(values), torch.from_numpy(columns)


def top_k_on_a_device(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """:func:`top_k` with torch alone, where an operation on all rows costs least."""
    candidates, columns, bound = _candidates(scores, k + 1)
    values, columns = values_and_columns(first(keys(candidates, columns), k))
    # Only where the k-th value is the bound itself may a column elsewhere have the same value and a lower index.
    torn = (values[:, -1] <= bound) & (values[:, -1] > -torch.inf)
    if torn.any():
        every = torch.arange(scores.shape[1], device=scores.device)
        values[torn], columns[torn] = values_and_columns(first(keys(scores[torn], every), k))
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


def keys(values: Tensor, columns: Tensor) -> Tensor:
    """Return one int64 per score whose ascending order is the stable descending order of the scores."""
    bits = (values + 0.0).view(torch.int32)  # -0 becomes 0
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # float order as integer order
    return (~bits).long() << 32 | columns


def values_and_columns(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Undo :func:`keys`."""
    bits = ~(keys >> 32).int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32), keys & 0xFFFFFFFF


def first(keys: Tensor, k: int) -> Tensor:
    """Return each row's ``k`` smallest keys in order."""
    return keys.topk(k, dim=1, largest=False).values


def _refuse_nan(scores: Tensor) -> None:
    if scores.isnan().any():
        raise WorkError(NOT_NUMBERS)
