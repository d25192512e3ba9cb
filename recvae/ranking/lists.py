"""Top-k lists: score, mask, select, in bounded memory. The one function behind evaluation, command line and server.

A list equals a stable sort of the same scores, best first: equal scores go to the lower item index.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from recvae.queries import Answer, Query
from recvae.ranking.rerank import Alike, reranker
from recvae.ranking.selection import top_k

# Scores per block: few enough on a CPU to stay in its cache while they are masked and selected from.
SCORES_IN_MEMORY = 1 << 22
SCORES_ON_A_DEVICE = 1 << 27


@torch.no_grad()  # not inference_mode: buffers that a score fills must stay usable in training
def rank(
    score: Callable[..., Tensor],
    query: Query,
    *,
    batch_size: int | None = None,
    item_tags: csr_array | None = None,
    alike: Alike | None = None,
) -> Answer:
    """Return the answer to a query: the best items of each history, after its rules are applied.

    ``score`` maps some rows of the histories, CSR (b, n_items), to scores (b, n_items) that this function may
    overwrite; where the query has conditions, CSR (n, C), ``score`` gets their rows as a second argument.
    ``batch_size``: rows scored at once; as many as memory is meant for where None. ``item_tags``: the tags of the
    items, CSR (n_items, T), and ``alike``: how alike items are, as :meth:`Recommender.similarity_among` says, for a
    query that has rules about tags or asks for diversity. Raises :class:`WorkError` for NaN scores.
    """
    rerank = reranker(query, item_tags, alike)
    n, n_items = query.histories.shape
    rows_at_once = batch_size or max(1, SCORES_IN_MEMORY // max(1, n_items))
    ids = np.full((n, query.k), -1, dtype=np.int32)
    scores = np.full((n, query.k), -np.inf, dtype=np.float32)
    width = min(query.k, n_items)
    start = 0
    while width and start < n:
        rows = slice(start, min(n, start + rows_at_once))
        start = rows.stop
        part = query if rows.stop - rows.start == n else query.of(rows)
        asked = () if part.conditions is None else (part.conditions,)
        block = score(part.histories, *asked)
        if block.dtype != torch.float32:
            block = block.float()
        if batch_size is None and block.device.type != "cpu":
            rows_at_once = max(1, SCORES_ON_A_DEVICE // n_items)  # from the second block on
        keep_admissible(block, part, item_tags)
        best, chosen = top_k(block, width) if rerank is None else rerank(block, width)
        scores[rows, :width], ids[rows, :width] = best.cpu().numpy(), chosen.cpu().numpy()
    ids[scores == -np.inf] = -1
    return Answer(ids, scores)


def keep_admissible(block: Tensor, query: Query, item_tags: csr_array | None = None) -> None:
    """Set scores (b, n_items) to -inf where the query's rules leave an item out, in place.

    The query is about these b users. Tags for all users are columns of items in it, and tags of each user CSR (b, T) of
    columns of ``item_tags``, CSR (n_items, T).
    """
    for allowed in (query.allow, _tagged(query.allow_tags, item_tags)):
        if allowed is not None:
            keep = torch.zeros_like(block, dtype=torch.bool)
            _fill(keep, allowed, True)
            block.masked_fill_(~keep, -torch.inf)
    for denied in (query.deny, _tagged(query.deny_tags, item_tags), query.histories if query.exclude_seen else None):
        if denied is not None:
            _fill(block, denied, -torch.inf)


def _tagged(
    tags: NDArray[np.int64] | csr_array | None, item_tags: csr_array | None
) -> NDArray[np.int64] | csr_array | None:
    """Return the items that have one of a query's tags: columns for all users, or a CSR (b, n_items)."""
    if tags is None or isinstance(tags, np.ndarray):
        return tags
    assert item_tags is not None, "a query with tags for each user is ranked with the items' tags"
    return tags @ item_tags.T


def _fill(block: Tensor, mask: Any, value: float | bool) -> None:
    """Set ``block`` to ``value`` where ``mask`` (item indices, or a CSR of the same shape) has an entry."""
    if isinstance(mask, np.ndarray):
        block[:, torch.from_numpy(mask).to(block.device)] = value
        return
    starts = np.arange(0, mask.shape[0] * mask.shape[1], mask.shape[1], dtype=np.int64)
    where = np.repeat(starts, np.diff(mask.indptr)) + mask.indices
    if block.device.type == "cpu":
        block.view(-1).numpy()[where] = value  # a few µs, where torch takes tens
    else:
        block.view(-1).index_fill_(0, torch.from_numpy(where).to(block.device), value)
