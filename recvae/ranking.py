"""Top-k lists: score, mask, select, in bounded memory. The one function behind evaluation, command line and server.

A list equals a stable sort of the same scores, best first: equal scores go to the lower item index.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recvae.batches import canonical
from recvae.errors import InputError, WorkError

SCORES_IN_MEMORY = 1 << 24  # scores per block: 64 MiB of float32

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

    ``scores`` (B, I), ``k`` <= I. Raises :class:`WorkError` where a score is NaN.
    """
    n_items = scores.shape[1]
    # One more than asked: where the next value differs, the set of the k best has no choice in it.
    values, columns = torch.topk(scores, min(k + 1, n_items), dim=1)
    if values.isnan().any():  # topk puts NaN first, so the block itself need not be read again
        raise WorkError("The model gives scores that are not numbers; it cannot rank. Train it again.")
    torn = values[:, k - 1] == values[:, k] if n_items > k else torch.zeros_like(values[:, 0], dtype=torch.bool)
    values, columns = values[:, :k], columns[:, :k]
    # Order by column, then stably by value: within the set this is the order of a stable sort.
    columns, order = columns.sort(dim=1)
    values, again = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, again)
    if torn.any():
        values[torn], columns[torn] = _top_k_with_ties(scores[torn], k)
    return values, columns


def _top_k_with_ties(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Select by threshold: all above the k-th value, and of those equal to it the lowest columns that still fit."""
    threshold = torch.topk(scores, k, dim=1).values[:, -1:]
    above = scores > threshold
    equal = scores == threshold
    room = k - above.sum(1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(1) <= room))  # exactly k in every row
    columns = chosen.nonzero()[:, 1].view(-1, k)  # ascending within a row
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


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
