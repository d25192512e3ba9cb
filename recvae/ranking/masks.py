"""The items that a query's rules admit, as masks of the catalogue, and scores under them, in NumPy."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from recvae.matrices import Rows
from recvae.queries import Query

Mask: TypeAlias = NDArray[np.int64] | Rows
"""Items: their columns for all users (m,), or rows (n, n_items) whose entries, in any order, are each user's items."""


def admitting(query: Query, item_tags: Rows | None) -> tuple[list[Mask], list[Mask]]:
    """Return the masks of which each allows its items alone, and the masks of which each denies its items.

    ``item_tags``: the tags of the items, rows (n_items, T), for a query whose tags are rows (n, T) of its columns. The
    items of the histories are not among the denied ones.
    """
    allowed = [query.allow, _tagged(query.allow_tags, item_tags)]
    denied = [query.deny, _tagged(query.deny_tags, item_tags)]
    return [mask for mask in allowed if mask is not None], [mask for mask in denied if mask is not None]


def _tagged(tags: Mask | None, item_tags: Rows | None) -> Mask | None:
    """Return the mask of the items that have one of a query's tags: columns of items, or rows (n, T) of tags."""
    if tags is None or isinstance(tags, np.ndarray):
        return tags
    assert item_tags is not None, "a query with tags for each user is ranked with the items' tags"
    found = item_tags.by_column[tags.indices]  # a row for each tag of each user
    indptr = found.indptr[tags.indptr]
    return Rows((found.data, found.indices, indptr), shape=(tags.shape[0], item_tags.shape[0]))


def places(mask: Rows) -> NDArray[np.int64]:
    """Return the places of a mask's rows (n, n_items) in a block of that shape that is laid out row by row, int64."""
    starts = np.arange(0, mask.shape[0] * mask.shape[1], mask.shape[1], dtype=np.int64)
    return np.repeat(starts, np.diff(mask.indptr)) + mask.indices


def hidden_items(query: Query, item_tags: Rows | None) -> NDArray[np.bool_]:
    """Return which items a query's rules leave out, its histories apart: bool (n, n_items), or (1, n_items) for all."""
    allowed, denied = admitting(query, item_tags)
    n, n_items = query.histories.shape
    for_all = all(isinstance(mask, np.ndarray) for mask in (*allowed, *denied))
    hidden = np.zeros((1 if for_all else n, n_items), dtype=bool)
    for mask in allowed:
        keep = np.zeros_like(hidden)
        _fill(keep, mask, True)
        hidden |= ~keep
    for mask in denied:
        _fill(hidden, mask, True)
    return hidden


def keep_admissible(block: NDArray[np.float32], query: Query, item_tags: Rows | None = None) -> None:
    """Set scores (n, n_items) of a query's n users to -inf where its rules leave an item out, in place."""
    allowed, denied = admitting(query, item_tags)
    for mask in allowed:
        keep = np.zeros(block.shape, dtype=bool)
        _fill(keep, mask, True)
        np.copyto(block, -np.inf, where=~keep)
    for mask in [*denied, *([query.histories] if query.exclude_seen else [])]:
        _fill(block, mask, -np.inf)


def _fill(block: NDArray[np.bool_] | NDArray[np.float32], mask: Mask, value: float | bool) -> None:
    """Set ``block`` to ``value`` where ``mask`` has an entry."""
    if isinstance(mask, np.ndarray):
        block[:, mask] = value
    else:
        block.reshape(-1)[places(mask)] = value
