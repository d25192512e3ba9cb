"""Top-k lists made by several processes, each of which scores its own items; every process gets all lists.

Each selects the best of its items, and the best of these are the best of all. Equal scores go to the lower index of the
catalogue, as in :mod:`recvae.ranking.lists`.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from recvae.errors import InputError
from recvae.nn.batches import Batch
from recvae.nn.shards import Shard
from recvae.queries import Answer, Query
from recvae.ranking.best import SCORES_IN_MEMORY
from recvae.ranking.selection import first, keys, top_k, values_and_columns


@torch.no_grad()
def rank_held(score: Callable[[Query], tuple[Batch, Tensor]], query: Query, shard: Shard) -> Answer:
    """Return the answer to a query, in all processes at once.

    ``score`` maps a query to its batch of the clicks on the items here and to their scores (b, I'), which this function
    may overwrite. Raises :class:`InputError` for a query with rules beside conditions and ``exclude_seen``, and
    :class:`WorkError` for NaN scores.
    """
    rules = (query.allow, query.deny, query.allow_tags, query.deny_tags, query.most_per_tag)
    if query.diversity or query.reasons or any(rule is not None for rule in rules):
        raise InputError(
            "Several processes rank without allow, deny, tags, diversity and reasons. Load the run in one process."
        )
    n, width = query.n_users, min(query.k, shard.n_items)
    ids = np.full((n, query.k), -1, dtype=np.int32)
    scores = np.full((n, query.k), -np.inf, dtype=np.float32)
    rows_at_once = max(1, SCORES_IN_MEMORY // max(1, shard.most))  # the same in all processes
    for start in range(0, n if width else 0, rows_at_once):
        rows = slice(start, min(n, start + rows_at_once))
        batch, block = score(query.of(rows))
        chosen = _best(block.float(), batch, shard, width, exclude_seen=query.exclude_seen)
        best, columns = values_and_columns(first(shard.beside(chosen), width))
        columns[best == -torch.inf] = -1
        ids[rows, :width] = columns.cpu().numpy()
        scores[rows, :width] = best.cpu().numpy()
    return Answer(ids, scores)


def _best(block: Tensor, batch: Batch, shard: Shard, width: int, *, exclude_seen: bool) -> Tensor:
    """Return the sort keys of the best items here, int64 (b, width); there are fewer items where scores are -inf."""
    if exclude_seen:
        block[batch.rows, batch.columns] = -torch.inf
    order = shard.ascending.to(block.device)  # so that equal scores are in the catalogue's order
    columns = shard.columns.to(block.device)[order]
    here = min(width, len(shard))
    best, places = top_k(block[:, order], here)
    found = keys(best, columns[places])
    if here == width:
        return found
    nothing = keys(best.new_full((len(found), width - here), -torch.inf), columns[:1])
    return torch.cat((found, nothing), dim=1)
