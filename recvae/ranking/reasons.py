"""Reasons: the items of a history without which a listed item would score less.

    s(u, j)            the score of item j for user u, by the whole history
    s_i(u, j)          the same by the history without its item i, whose other entries and conditions stay
    reasons of j       the items i with the smallest s_i(u, j) below s(u, j), equal ones by the lower item
    rank_i(u, j)       1 + the number of items that u's list may hold and that come before j by s_i

The items that a list may hold are the same with and without i: i, where seen items are left out, is left out of both.

Histories without one item are rows as any others to a model, so that the definition holds for every model to rounding.
There are as many rows as a history has items. All are scored at the listed items only, which says which items are
reasons; those rows alone, far fewer where histories are long, are then scored in full for the ranks. Rows are made and
scored in blocks, of one user or of several, whose size does not depend on the histories. NumPy alone: a score is a
function that returns an array, whatever computes it.
"""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from recvae.errors import WorkError
from recvae.matrices import Rows
from recvae.queries import Query, Reasons
from recvae.ranking.best import NOT_NUMBERS, SCORES_IN_MEMORY, tiles
from recvae.ranking.masks import keep_admissible

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ENTRIES_IN_MEMORY = 1 << 19  # of the rows of a block: some 40 MB with all that is computed from an entry
ROWS_AT_ONCE = 512  # more are not faster
WHOLE, NONE = -1, -2  # in place of a position in a history: nothing is left out; there is no reason

Places = NDArray[np.int64]
Score = Callable[..., NDArray[np.float32]]
Number = TypeVar("Number", np.int32, np.float32)


class _Part(NamedTuple):
    """A user's rows ``start`` to ``stop``: row 0 is the whole history, row p + 1 the history without its p-th item."""

    user: int
    start: int
    stop: int


def find_reasons(
    score: Score,
    score_at: Score,
    query: Query,
    ids: NDArray[np.int32],
    *,
    item_tags: Rows | None = None,
) -> Reasons:
    """Return the reasons of the lists ``ids``, int32 (n, k), that answer a query which asks for some.

    ``score`` and ``item_tags`` as for :func:`recvae.ranking.lists.rank`, but scores are arrays. ``score_at`` maps rows
    (b, n_items) and items, int64 (m,), to these items' scores, float32 (b, m); it gets conditions after the items where
    the query has some. Raises :class:`WorkError` for NaN scores.
    """
    k = ids.shape[1]
    width = min(k, query.histories.shape[1])
    listed = ids[:, :width]
    positions, scores = _chosen(score_at, query, listed)
    asked = positions
    plain = not query.diversity and query.most_per_tag is None
    if not plain:  # a list in another order does not say the places by score
        asked = np.concatenate((np.where(listed < 0, NONE, WHOLE)[:, :, None], positions), axis=2)
    places = _places(score, query, listed, asked, item_tags)
    ranks = np.where(listed < 0, 0, np.arange(1, width + 1)) if plain else places[:, :, 0]
    found = positions >= 0
    items = np.full(positions.shape, -1)
    starts = query.histories.indptr[:-1].astype(np.int64)[:, None, None]
    items[found] = query.histories.indices[(starts + positions)[found]]
    return Reasons(
        ranks=_padded(ranks, k, 0, np.int32),
        items=_padded(items, k, -1, np.int32),
        scores=_padded(scores, k, -np.inf, np.float32),
        ranks_without=_padded(places if plain else places[:, :, 1:], k, 0, np.int32),
    )


def _chosen(score_at: Score, query: Query, listed: NDArray[np.int32]) -> tuple[Places, NDArray[np.float32]]:
    """Return positions in the histories of the reasons, (n, width, r), the first reason first, and the scores without.

    :data:`NONE` and -inf stand where there is no reason.
    """
    n, width = listed.shape
    r, n_items = query.reasons, query.histories.shape[1]
    positions = np.full((n, width, r), NONE, dtype=np.int64)
    scores = np.full((n, width, r), np.inf, dtype=np.float32)  # inf while the smallest are looked for
    whole = np.zeros((n, width), dtype=np.float32)
    lengths = np.where((listed >= 0).any(1), np.diff(query.histories.indptr), 0)
    for block in _blocks(lengths, _rows_at_once(width, n_items)):
        users = [part.user for part in block]
        items, columns = np.unique(np.maximum(listed[users], 0), return_inverse=True)  # 0 where the list has ended
        columns = columns.reshape(len(users), width)
        rows = np.repeat(users, [part.stop - part.start for part in block])
        left_out = np.concatenate([np.arange(part.start, part.stop) for part in block]) - 1
        histories, conditions = _without(query.of(rows), left_out)
        found = score_at(histories, items.astype(np.int64), *conditions)
        if np.isnan(found).any():
            raise WorkError(NOT_NUMBERS)
        end = 0
        for (user, start, stop), own in zip(block, columns, strict=True):
            begin, end = end, end + stop - start
            values = found[begin:end, own]  # (rows, width)
            if start == 0:
                whole[user], values, start = values[0], values[1:], 1
            lower = (values < whole[user]) & (listed[user] >= 0)
            values = np.concatenate((scores[user].T, np.where(lower, values, np.inf)))
            where = np.arange(start - 1, stop - 1)[:, None]
            where = np.concatenate((positions[user].T, np.where(lower, where, NONE)))
            order = np.argsort(values, axis=0, kind="stable")[:r]  # equal ones in the history's order: by item
            scores[user] = np.take_along_axis(values, order, 0).T
            positions[user] = np.take_along_axis(where, order, 0).T
    scores[positions == NONE] = -np.inf
    return positions, scores


def _places(
    score: Score,
    query: Query,
    listed: NDArray[np.int32],
    positions: Places,
    item_tags: Rows | None,
) -> Places:
    """Return the listed items' places by score, (n, width, r), in the history without each of ``positions``.

    A place is counted from 1 among the items that the rules admit; it is 0 for :data:`NONE`.
    """
    places = np.zeros(positions.shape, dtype=np.int64)
    user, column, _ = asked = np.nonzero(positions != NONE)
    left_out = positions[asked]
    lengths = np.diff(query.histories.indptr).astype(np.int64)
    longest = int(lengths.max(initial=0)) + 1
    rows, of_row = np.unique(user * longest + left_out + 1, return_inverse=True)  # each row is scored once
    users, left_out = rows // longest, rows % longest - 1
    items = listed[user, column].astype(np.int64)
    order = np.argsort(of_row, kind="stable")
    ends = np.searchsorted(of_row[order], np.arange(len(rows)), side="right")
    found = np.zeros(len(items), dtype=np.int64)
    for start, stop in tiles(
        lengths[users], max(1, SCORES_IN_MEMORY // max(1, query.histories.shape[1])), ENTRIES_IN_MEMORY
    ):
        part = query.of(users[start:stop])
        histories, conditions = _without(part, left_out[start:stop])
        values = score(histories, *conditions)
        if np.isnan(values).any():
            raise WorkError(NOT_NUMBERS)
        keep_admissible(values, part, item_tags)
        for row in range(start, stop):
            for pair in order[ends[row - 1] if row else 0 : ends[row]]:
                found[pair] = _place(values[row - start], int(items[pair]))
    places[asked] = found
    return places


def _place(scores: NDArray[np.float32], item: int) -> int:
    """Return an item's place, from 1, in a stable descending sort of scores (n_items,)."""
    own = scores[item]
    return 1 + int(np.count_nonzero(scores > own)) + int(np.count_nonzero(scores[:item] == own))


def _without(query: Query, left_out: Places) -> "tuple[csr_array | Rows, tuple[csr_array | Rows, ...]]":
    """Return a query's histories, each without its entry at a position, or :data:`WHOLE`, and its conditions."""
    histories = query.histories
    fewer = left_out != WHOLE
    kept = np.ones(len(histories.indices), dtype=bool)
    kept[histories.indptr[:-1][fewer] + left_out[fewer]] = False
    indptr = histories.indptr.copy()
    indptr[1:] -= np.cumsum(fewer, dtype=indptr.dtype)
    rows = type(histories)((histories.data[kept], histories.indices[kept], indptr), shape=histories.shape)
    return rows, () if query.conditions is None else (query.conditions,)


def _rows_at_once(width: int, n_items: int) -> int:
    """Return how many rows, two or more to a user, may be scored at all items of these users' lists of ``width``."""
    scores = 2 * SCORES_IN_MEMORY
    return min(ROWS_AT_ONCE, max(1, scores // max(1, n_items), math.isqrt(2 * scores // max(1, width))))


def _blocks(lengths: Places, most: int) -> Iterator[list[_Part]]:
    """Yield all rows of all users who have any clicks, in order, in blocks of at most ``most`` rows."""
    block: list[_Part] = []
    rows = entries = 0
    for user in np.flatnonzero(lengths):
        start, length = 0, int(lengths[user])
        while start <= length:
            room = min(most - rows, (ENTRIES_IN_MEMORY - entries) // length)
            if room < 1 and block:
                yield block
                block, rows, entries = [], 0, 0
                continue
            stop = min(length + 1, start + max(1, room))
            block.append(_Part(int(user), start, stop))
            rows, entries, start = rows + stop - start, entries + (stop - start) * length, stop
    if block:
        yield block


def _padded(values: NDArray[np.generic], k: int, fill: float, kind: type[Number]) -> NDArray[Number]:
    """Return values (n, width, ...) as (n, k, ...) of a type, filled up at the end of each list."""
    whole = np.full((len(values), k, *values.shape[2:]), fill, dtype=kind)
    whole[:, : values.shape[1]] = values
    return whole
