"""Top-k lists: score, mask, select, in bounded memory. The one function behind evaluation, command line and server.

A list equals a stable sort of the same scores, best first: equal scores go to the lower item index.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recvae.matrices import Rows
from recvae.queries import Answer, Query
from recvae.ranking.best import SCORES_IN_MEMORY
from recvae.ranking.masks import admitting, places
from recvae.ranking.rerank import Alike, reranker
from recvae.ranking.selection import top_k

SCORES_ON_A_DEVICE = 1 << 27


@torch.no_grad()  # not inference_mode: buffers that a score fills must stay usable in training
def rank(
    score: Callable[..., Tensor],
    query: Query,
    *,
    batch_size: int | None = None,
    item_tags: Rows | None = None,
    alike: Alike | None = None,
) -> Answer:
    """Return the answer to a query: the best items of each history, after its rules are applied.

    ``score`` maps some rows of the histories, CSR (b, n_items), to scores (b, n_items) that this function may
    overwrite; where the query has conditions, CSR (n, C), ``score`` gets their rows as a second argument.
    ``batch_size``: rows scored at once; as many as memory is meant for where None. ``item_tags``: the tags of the
    items, rows (n_items, T), and ``alike``: how alike items are, as :meth:`Recommender.similarity_among` says, for a
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
        block = score(part.histories, *asked).float()
        if batch_size is None and block.device.type != "cpu":
            rows_at_once = max(1, SCORES_ON_A_DEVICE // n_items)  # from the second block on
        keep_admissible(block, part, item_tags)
        best, chosen = top_k(block, width) if rerank is None else rerank(block, width)
        chosen[best == -torch.inf] = -1
        ids[rows, :width] = chosen.cpu().numpy()
        scores[rows, :width] = best.cpu().numpy()
    return Answer(ids, scores)


def keep_admissible(block: Tensor, query: Query, item_tags: Rows | None = None) -> None:
    """Set scores (b, n_items) to -inf where the query's rules leave an item out, in place.

    The query is about these b users. Tags for all users are columns of items in it, and tags of each user rows (b, T)
    of columns of ``item_tags``, rows (n_items, T).
    """
    allowed, denied = admitting(query, item_tags)
    for mask in allowed:
        keep = torch.zeros_like(block, dtype=torch.bool)
        _fill(keep, mask, True)
        block.masked_fill_(~keep, -torch.inf)
    for mask in [*denied, *([query.histories] if query.exclude_seen else [])]:
        _fill(block, mask, -torch.inf)


def in_numpy(score: Callable[..., Tensor]) -> Callable[..., NDArray[np.float32]]:
    """Return a function of scores that returns them as an array, which shares memory with a tensor on the CPU."""

    @torch.no_grad()
    def numbers(*arguments: object) -> NDArray[np.float32]:
        found: NDArray[np.float32] = score(*arguments).float().cpu().numpy()
        return found

    return numbers


def _fill(block: Tensor, mask: Any, value: float | bool) -> None:
    """Set ``block`` to ``value`` where ``mask`` (:mod:`recvae.ranking.masks`) has an entry."""
    if isinstance(mask, np.ndarray):
        block[:, torch.from_numpy(mask).to(block.device)] = value
    else:
        block.view(-1).index_fill_(0, torch.from_numpy(places(mask)).to(block.device), value)
