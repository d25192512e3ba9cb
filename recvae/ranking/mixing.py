"""Lists by tags and by diversity in NumPy, for a few users at a time: :mod:`recvae.ranking.rerank` has the definition.

The functions here choose from candidates that are there already. A model of torch chooses by the tensors of ``rerank``,
on its device and for many users at once, and shares the first of these functions.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from recvae.matrices import Rows
from recvae.queries import Query

CANDIDATES = 5
"""Candidates for each place of a list."""

WITH_TAGS = 10
"""The same where tags may leave candidates out: enough for most lists of films with 3 of a genre."""

WIDER = 2
"""So many times more candidates there are where a list is not full."""

Among = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""How alike one item of each user, named by its place (b,), is to each of the user's candidates: float32 (b, P)."""


def limit_of_tags(query: Query) -> int | None:
    """Return at most how many items of one tag a list has; None where the query does not limit them."""
    return query.most_per_tag if query.most_per_tag is not None and query.most_per_tag < query.k else None


def first_by_tags(
    items: Sequence[Sequence[int]], lengths: Sequence[int], item_tags: Rows, most: int, k: int
) -> NDArray[np.int64]:
    """Return the places of each user's first candidates, up to ``k``, that leave no tag on more than ``most`` of them.

    ``items``: a row of candidates for each user, best first, of which the first ``lengths`` count. The places are int64
    (b, k), -1 where there are none left. Few candidates are looked at, so that this takes less time than steps over all
    of them.
    """
    starts, tags = item_tags.indptr, item_tags.indices
    words: dict[int, int] = {}  # the tags of an item, a bit each
    places = np.full((len(items), k), -1, dtype=np.int64)
    for row, (candidates, length) in enumerate(zip(items, lengths, strict=True)):
        seen = [0] * most  # the tags on one chosen item, on two and so on
        chosen: list[int] = []
        for place in range(length):
            item = candidates[place]
            word = words.get(item)
            if word is None:
                word = words[item] = sum(1 << tag for tag in tags[starts[item] : starts[item + 1]].tolist())
            if word & seen[-1]:
                continue
            chosen.append(place)
            if len(chosen) == k:
                break
            for times in range(most):
                word, seen[times] = word & seen[times], word | seen[times]
                if not word:
                    break
        places[row, : len(chosen)] = chosen
    return places


def mixed(
    scores: NDArray[np.float32],
    items: NDArray[np.int64],
    k: int,
    diversity: float,
    among: Among,
    item_tags: Rows | None = None,
    most: int | None = None,
) -> NDArray[np.int64]:
    """Return the places of the candidates that maximal marginal relevance chooses, in its order: int64 (b, k).

    ``scores`` float32 and ``items`` int64 (b, P): the candidates, best first, -inf where there are none left.
    ``item_tags`` and ``most``: at most so many items of one tag. A place is -1 where no candidate is left.
    """
    n, width = scores.shape
    worth = _relevance(scores) * np.float32(1 - diversity)
    worth[scores == -np.inf] = -np.inf
    counter = None if item_tags is None or most is None else _Counter(item_tags, items, most)
    places = np.full((n, k), -1, dtype=np.int64)
    every, nearest = np.arange(n), None
    for place in range(min(k, width)):
        now = worth if nearest is None else worth - np.float32(diversity) * nearest
        chosen = now.argmax(1)  # the first of equal values
        places[:, place] = np.where(now[every, chosen] == -np.inf, -1, chosen)
        if place + 1 == k:
            break  # a list that has ended before chooses on, to no effect
        worth[every, chosen] = -np.inf
        near = among(chosen)
        nearest = near if nearest is None else np.maximum(nearest, near)
        if counter is not None:
            worth[counter.full(chosen)] = -np.inf
    return places


def _relevance(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scores (b, P), best first, as numbers from 0 to 1; those of -inf are any numbers."""
    ended = scores == -np.inf
    halves = np.where(ended, 0, np.minimum(scores, np.finfo(scores.dtype).max) / np.float32(2))
    worst = np.where(ended, np.inf, halves).min(1, keepdims=True)
    span = halves[:, :1] - worst  # a difference of halves does not overflow
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(span > 0, (halves - worst) / span, np.float32(1))


class _Counter:
    """Counts the tags of the chosen items of each list; ``items`` int64 (b, P): the candidates."""

    def __init__(self, item_tags: Rows, items: NDArray[np.int64], most: int) -> None:
        n, width = items.shape
        of_items = item_tags[items.reshape(-1)]
        self.most = most
        self.has = np.zeros((n * width, item_tags.shape[1]), dtype=bool)
        self.has[of_items.row_numbers(), of_items.indices] = True
        self.has = self.has.reshape(n, width, -1)  # (b, P, T)
        self.count = np.zeros((n, item_tags.shape[1]), dtype=np.int64)

    def full(self, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Count the items that were chosen, int64 (b,) places; return which candidates have a full tag, (b, P)."""
        self.count += self.has[np.arange(len(chosen)), chosen]
        return np.asarray((self.has & (self.count >= self.most)[:, None, :]).any(2))
