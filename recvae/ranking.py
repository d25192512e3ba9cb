"""Top-k lists: score, mask, select, in bounded memory. The one function behind evaluation, command line and server.

A list equals a stable sort of the same scores, best first: equal scores go to the lower item index.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recvae.batches import canonical
from recvae.errors import InputError, WorkError

# Scores per block: few enough on a CPU to stay in its cache while they are masked and selected from.
SCORES_IN_MEMORY = 1 << 22

Ranked = tuple[NDArray[np.int32], NDArray[np.float32]]


@torch.no_grad()  # not inference_mode: buffers that a score fills must stay usable in training
def rank(
    score: Callable[[Any], Tensor],
    histories: Any,
    k: int = 10,
    *,
    exclude_seen: bool = True,
    allow: Any = None,
    deny: Any = None,
    batch_size: int | None = None,
) -> Ranked:
    """Return the ``k`` best items of each row of ``histories``: ids int32 (n, k) and scores float32 (n, k).

    ``score`` maps some rows of ``histories``, CSR (b, n_items), to scores (b, n_items) that this function may
    overwrite; row i of the result answers row i of ``histories``. ``allow`` and ``deny``: item indices for all users,
    or a CSR of masks (n, n_items). A row with fewer than ``k`` items left is padded with id -1 and score -inf. Raises
    :class:`InputError` for ``k`` < 1 and for arguments whose shapes do not fit, :class:`WorkError` for NaN scores.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InputError(f"k must be a whole number of at least 1, got {k!r}.")
    histories = canonical(histories)
    n, n_items = histories.shape
    allow = _mask_rows("allow", allow, n, n_items)
    deny = _mask_rows("deny", deny, n, n_items)
    batch_size = batch_size or max(1, SCORES_IN_MEMORY // max(1, n_items))
    ids = np.full((n, k), -1, dtype=np.int32)
    scores = np.full((n, k), -np.inf, dtype=np.float32)
    width = min(k, n_items)
    if not width:
        return ids, scores
    for start in range(0, n, batch_size):
        rows = slice(start, min(n, start + batch_size))
        block = score(histories[rows])
        if allow is not None:
            keep = torch.zeros_like(block, dtype=torch.bool)
            _cells(keep, allow, rows, True)
            block.masked_fill_(~keep, -torch.inf)
        if deny is not None:
            _cells(block, deny, rows, -torch.inf)
        if exclude_seen:
            _cells(block, histories, rows, -torch.inf)
        best, chosen = top_k(block, width)
        chosen[best == -torch.inf] = -1
        ids[rows, :width] = chosen.cpu().numpy()
        scores[rows, :width] = best.cpu().numpy()
    return ids, scores


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the values and column indices of each row's ``k`` best, as a stable descending sort would give them.

    ``scores`` float32 (B, I), ``k`` <= I. Columns that score -inf are in no particular order. Raises
    :class:`WorkError` where a score is NaN.

    The columns are dealt into blocks, each block's maximum is one cheap reduction, and only the k + 1 blocks with the
    highest maxima can hold the k best: the smallest of these maxima bounds everything elsewhere.
    """
    n_items = scores.shape[1]
    size = math.isqrt(n_items // (k + 1))  # columns per block: as many candidates as there are blocks
    if size < 4:
        _refuse_nan(scores)
        return _values_and_columns(_first(_keys(scores, torch.arange(n_items, device=scores.device)), k))
    blocks = n_items // size
    grid = scores[:, : blocks * size].view(len(scores), size, blocks)  # block b has the columns b, b + blocks, ...
    highest = grid.amax(1)  # (B, blocks); a NaN stays one
    rest = scores[:, blocks * size :]
    _refuse_nan(highest)
    _refuse_nan(rest)
    chosen = _largest(highest, k + 1)  # (B, k + 1)
    bound = highest.gather(1, chosen).amin(1)
    steps = torch.arange(0, blocks * size, blocks, device=scores.device)
    columns = (chosen[:, None, :] + steps[:, None]).flatten(1)
    candidates = grid.gather(2, chosen[:, None, :].expand(-1, size, -1)).flatten(1)
    remaining = torch.arange(blocks * size, n_items, device=scores.device)
    keys = _first(torch.cat((_keys(candidates, columns), _keys(rest, remaining)), dim=1), k)
    values, columns = _values_and_columns(keys)
    # Only where the k-th value is the bound itself may a column elsewhere have the same value and a lower index.
    torn = (values[:, -1] <= bound) & (values[:, -1] > -torch.inf)
    if torn.any():
        every = torch.arange(n_items, device=scores.device)
        values[torn], columns[torn] = _values_and_columns(_first(_keys(scores[torn], every), k))
    return values, columns


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
        raise WorkError("The model gives scores that are not numbers; it cannot rank. Train it again.")


def _cells(block: Tensor, mask: Any, rows: slice, value: float | bool) -> None:
    """Set ``block`` to ``value`` where ``mask`` (item indices, or CSR rows) has an entry."""
    if isinstance(mask, np.ndarray):
        block[:, torch.from_numpy(mask).to(block.device)] = value
        return
    part = mask[rows]
    where = np.repeat(np.arange(part.shape[0], dtype=np.int64), np.diff(part.indptr)) * part.shape[1] + part.indices
    block.view(-1)[torch.from_numpy(where).to(block.device)] = value


def _mask_rows(name: str, mask: Any, n: int, n_items: int) -> Any:
    """Check an allow or deny argument; return None, an int64 array of item indices, or a canonical CSR."""
    if mask is None:
        return None
    if hasattr(mask, "indptr") or hasattr(mask, "tocsr"):
        mask = canonical(mask)
        if mask.shape != (n, n_items):
            raise InputError(f"'{name}' has shape {mask.shape}, but the histories have {(n, n_items)}.")
        return mask
    items = np.asarray(mask)
    if items.size == 0:
        items = items.astype(np.int64)
    if items.ndim != 1 or items.dtype.kind not in "iu":
        raise InputError(f"'{name}' must be a one-dimensional array of item indices, or a sparse matrix of masks.")
    if items.size and (items.min() < 0 or items.max() >= n_items):
        raise InputError(f"'{name}' names an item outside 0 .. {n_items - 1}.")
    return items.astype(np.int64)
