"""Lists by tags and by diversity in NumPy: :mod:`recvae.ranking.rerank` has the definition.

The functions here choose from candidates that are there already. Exported models and models of torch on a CPU choose by
them: NumPy takes a third of torch's time for steps as small as these.
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

BITS = 63  # tags in a word

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
    words = None if item_tags is None or most is None else words_of(item_tags, items)
    places = np.full((len(scores), k), -1, dtype=np.int64)
    steps(relevance(scores, 1 - diversity), diversity, among, words, most, places[:, : scores.shape[1]])
    return places


def steps(
    left: NDArray[np.float32],
    diversity: float,
    among: Among | None,
    words: NDArray[np.int64] | None,
    most: int | None,
    places: NDArray[np.int64],
) -> None:
    """Choose the items of each list, and write their places among the candidates into ``places``, (b, up to k).

    ``left`` float32 (b, P): the relevance's part of the values, which is overwritten. ``among`` is None without
    diversity. ``words`` int64 (W, b, P): the tags of the candidates (:func:`words_of`), None without a limit ``most``.
    """
    users, last = np.arange(len(left)), places.shape[1] - 1
    seen = None if words is None else np.zeros((most or 0, *words.shape[:2]), np.int64)
    empty = left[:, 0] == -np.inf
    penalty: NDArray[np.float32] | None = None  # (b, P): the diversity's part of the values
    for place in range(last + 1):
        now = left if penalty is None else left - penalty
        places[:, place] = best = now.argmax(1)  # the first of equal values; 0 where all are -inf
        if place == last:
            break  # a list that has ended before chooses on, to no effect
        left[users, best] = -np.inf
        if among is not None:
            near = np.multiply(among(best), diversity, dtype=np.float32)
            penalty = near if penalty is None else np.maximum(penalty, near, out=penalty)
        if words is not None and seen is not None:
            tags = words[:, users, best]  # (W, b)
            for often, less in zip(seen[:0:-1], seen[-2::-1], strict=True):
                often |= less & tags
            seen[0] |= tags
            for own, full in zip(words, seen[-1], strict=True):
                np.putmask(left, (own & full[:, None]) != 0, -np.inf)
    np.putmask(places[:, 1:], places[:, 1:] == 0, -1)  # candidate 0 is the first choice of a list, or nobody's
    places[empty, 0] = -1


def relevance(scores: NDArray[np.float32], most: float) -> NDArray[np.float32]:
    """Return scores (b, P), best first, as numbers from 0 to ``most``, those of -inf apart, which stay."""
    halves = np.minimum(scores, np.finfo(np.float32).max) / np.float32(2)  # a difference of halves does not overflow
    ended = halves == -np.inf
    worst = np.where(ended, np.float32(np.inf), halves).min(1, keepdims=True)
    span = halves[:, :1] - worst
    halves[ended] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(span > 0, (halves - worst) / span, np.float32(1)) * np.float32(most)
    found[ended] = -np.inf
    return found


def words_of(item_tags: Rows, items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the tags of candidates (b, P), a bit each, in W words: int64 (W, b, P)."""
    n_items = item_tags.shape[0]
    if items.size > n_items:
        return _words(item_tags, np.arange(n_items))[:, items]
    return _words(item_tags, items.ravel()).reshape(-1, *items.shape)


def _words(item_tags: Rows, items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return :func:`words_of` items (m,): (W, m)."""
    starts = item_tags.indptr
    first = starts[items]
    ends = np.cumsum(starts[items + 1] - first)
    before = np.append(0, ends[:-1])
    where = np.repeat(first - before, ends - before) + np.arange(ends[-1] if len(ends) else 0)
    tags = item_tags.indices[where]
    words = np.empty((-(-item_tags.shape[1] // BITS), len(items)), np.int64)
    for number, word in enumerate(words):
        bits = np.left_shift(1, tags, dtype=np.int64) if len(words) == 1 else _bits(tags, number)
        sums = np.append(0, np.cumsum(bits))  # they wrap around, and their differences are right all the same
        np.subtract(sums[ends], sums[before], out=word)
    return words


def _bits(tags: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Return the bit of each tag in the word of a number, 0 where the tag is in another word."""
    return np.where(tags // BITS == number, np.left_shift(1, tags % BITS, dtype=np.int64), 0)
