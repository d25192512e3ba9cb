"""Lists for which the best scores are not all: at most n items of a tag, and items unlike one another.

Both rules choose a list one item at a time from the user's best candidates. The next item is the one with the highest

    (1 - d) * relevance - d * (greatest similarity to an item that is chosen already),        d = the query's diversity,

maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), among the candidates of which every tag is still on
fewer than ``most_per_tag`` chosen items. Relevance is the score, scaled so that the worst candidate has 0 and the best
has 1 (1 for all where their scores are equal); similarity is the model's own. Nothing is like the first item, which so
is the one with the best score. Equal values go to the better score, then to the lower index. A list's scores stay those
of the model.

The candidates of a list of k are the user's ``CANDIDATES`` * k best items after every other rule, and ``WITH_TAGS`` * k
where ``most_per_tag`` is set. Where these do not fill the list, because the tags of all that are left are full, there
are ``WIDER`` times as many candidates, and the list is chosen anew: until it is full, or every item is a candidate.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from recvae.errors import InputError
from recvae.queries import Query
from recvae.ranking.selection import top_k

CANDIDATES = 5
"""Candidates for each place of a list."""

WITH_TAGS = 10
"""The same where tags may leave candidates out: enough for most lists of films with 3 of a genre."""

WIDER = 2
"""So many times more candidates there are where a list is not full."""

_AT_ONCE = 1 << 11  # candidates of the users that are treated together on a CPU: their vectors stay in its cache
_AT_ONCE_ON_A_DEVICE = 1 << 20
_BITS = 63  # tags in a word

Alike = Callable[[Tensor], Callable[[Tensor], Tensor]]
"""How alike items are: :meth:`recvae.recommender.Recommender.similarity_among`."""


@dataclass(frozen=True)
class Reranker:
    """Chooses lists within the rules of a query; ``most`` and ``diversity`` are its ``most_per_tag`` and ``diversity``.

    ``most`` is None where there is no such rule, and ``tags`` holds the tags of the items (:class:`_Tags`) where there
    is.
    """

    most: int | None
    diversity: float
    tags: "_Tags | None"
    alike: Alike | None

    def __call__(self, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the scores and the columns of each user's list, float32 and int64 (b, k) each.

        ``scores`` float32 (b, n_items), -inf for items that may not be listed, k <= n_items. Short lists end with
        scores of -inf. Raises :class:`WorkError` where a score is NaN.
        """
        n_items = scores.shape[1]
        best = columns = rows = None
        wide = min(n_items, (CANDIDATES if self.tags is None else WITH_TAGS) * k)
        while True:
            values, items = top_k(scores if rows is None else scores[rows], wide)
            if self.diversity or self.tags is None or self.most is None:
                places = self._chosen(values, items, k)
            else:
                places = self.tags.first(values, items, self.most, k)
            chosen = places.clamp_min(0)
            found, taken = values.gather(1, chosen).masked_fill_(places < 0, -torch.inf), items.gather(1, chosen)
            if best is None or columns is None or rows is None:
                best, columns, rows = found, taken, torch.arange(len(found), device=found.device)
            else:
                best[rows], columns[rows] = found, taken
            if wide == n_items or self.tags is None:  # only tags leave candidates out
                return best, columns
            short = (found[:, -1] == -torch.inf) & (values[:, -1] > -torch.inf)
            if not short.any():
                return best, columns
            rows, wide = rows[short], min(n_items, WIDER * wide)

    def _chosen(self, scores: Tensor, items: Tensor, k: int) -> Tensor:
        """Return the places of the chosen candidates in their order, int64 (b, k), -1 where there are none left.

        ``scores`` float32 (b, P) and ``items`` int64 (b, P): the candidates, best first.
        """
        on_cpu = scores.device.type == "cpu"
        width = scores.shape[1]
        at_once = max(1, (_AT_ONCE if on_cpu else _AT_ONCE_ON_A_DEVICE) // width)
        worth = _relevance(scores.cpu().numpy(), 1 - self.diversity)
        words = None if self.tags is None else self.tags.words(items.cpu().numpy())
        places = torch.full((len(scores), k), -1, dtype=torch.int64, device=scores.device)
        for start in range(0, len(scores), at_once):
            rows = slice(start, start + at_once)
            own = None if words is None else words[:, rows]
            if on_cpu:
                self.steps(worth[rows], items[rows], own, places.numpy()[rows, :width])
            else:
                left = torch.from_numpy(worth[rows]).to(scores.device)
                self.steps_on_a_device(left, items[rows], own, places[rows, :width])
        return places

    def steps(
        self, left: NDArray[np.float32], items: Tensor, words: NDArray[np.int64] | None, places: NDArray[np.int64]
    ) -> None:
        """Choose the items of each list, and write their places among the candidates into ``places``, (b, up to k).

        ``left`` float32 (b, P): the relevance's part of the values, which is overwritten. ``words``
        int64 (W, b, P): the tags of the candidates, where a rule is about them. NumPy takes a third of torch's time for
        steps as small as these.
        """
        users, last = np.arange(len(left)), places.shape[1] - 1
        alike = None if self.alike is None or not self.diversity else self.alike(items)
        seen = None if words is None else np.zeros((self.most or 0, *words.shape[:2]), np.int64)
        empty = left[:, 0] == -np.inf
        penalty: NDArray[np.float32] | None = None  # (b, P): the diversity's part of the values
        for place in range(last + 1):
            now = left if penalty is None else left - penalty
            places[:, place] = best = now.argmax(1)  # the first of equal values; 0 where all are -inf
            if place == last:
                break  # a list that has ended before chooses on, to no effect
            left[users, best] = -np.inf
            if alike is not None:
                near = np.multiply(alike(torch.from_numpy(best)).numpy(), self.diversity, dtype=np.float32)
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

    def steps_on_a_device(self, worth: Tensor, items: Tensor, words: NDArray[np.int64] | None, places: Tensor) -> None:
        """:meth:`steps` with torch alone."""
        alike = None if self.alike is None or not self.diversity else self.alike(items)
        tags = [] if words is None else list(torch.from_numpy(words).to(items.device))
        seen = [[own.new_zeros(len(own), 1) for _ in range(self.most or 0)] for own in tags]
        nearest: Tensor | None = None
        for place in range(places.shape[1]):
            now = worth if nearest is None else worth - nearest
            highest, best = now.max(1)
            places[:, place] = best.masked_fill(highest == -torch.inf, -1)
            worth.scatter_(1, best[:, None], -torch.inf)
            if alike is not None:
                near = alike(best).to(worth) * self.diversity
                nearest = near if nearest is None else torch.maximum(nearest, near, out=nearest)
            for own, counts in zip(tags, seen, strict=True):
                of_best = own.gather(1, best[:, None])
                for often, less in zip(counts[:0:-1], counts[-2::-1], strict=True):
                    often |= less & of_best
                counts[0] |= of_best
                worth.masked_fill_((own & counts[-1]) != 0, -torch.inf)


def reranker(query: Query, item_tags: csr_array | None, alike: Alike | None) -> Reranker | None:
    """Return the function that chooses the lists of a query, None where its lists are the best scores alone.

    ``item_tags`` CSR (n_items, T). Raises :class:`InputError` where the query asks for a rule without what it needs.
    """
    most = query.most_per_tag if query.most_per_tag is not None and query.most_per_tag < query.k else None
    if most is None and not query.diversity:
        return None
    if most is not None and item_tags is None:
        raise InputError("most_per_tag is about the tags of the items, and these are not known.")
    if query.diversity and alike is None:
        raise InputError("diversity needs to know which items are alike, and this ranking does not.")
    return Reranker(most, query.diversity, None if most is None else _Tags(item_tags), alike)


def _relevance(scores: NDArray[np.float32], most: float) -> NDArray[np.float32]:
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


class _Tags:
    """The tags of all items, CSR (n_items, T)."""

    def __init__(self, item_tags: csr_array | None) -> None:
        assert item_tags is not None
        self.n_words = -(-item_tags.shape[1] // _BITS)
        self.starts, self.tags = item_tags.indptr, item_tags.indices

    def first(self, scores: Tensor, items: Tensor, most: int, k: int) -> Tensor:
        """Return the places of the first candidates, up to k, that leave no tag on more than ``most`` of them.

        ``scores`` float32 and ``items`` int64 (b, P), best first; int64 (b, k), -1 where there are none left. Few
        candidates of a user are looked at, so that this takes less time than steps over all of them.
        """
        lengths = (scores > -torch.inf).sum(1).tolist()
        starts, tags = self.starts, self.tags
        words: dict[int, int] = {}  # the tags of an item, a bit each
        places = []
        for candidates, length in zip(items.tolist(), lengths, strict=True):
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
            places.append(chosen + [-1] * (k - len(chosen)))
        return torch.tensor(places, dtype=torch.int64, device=items.device)

    def words(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tags of candidates (b, P), a bit each, in W words: int64 (W, b, P)."""
        if items.size > len(self.starts):
            return self._words(np.arange(len(self.starts) - 1))[:, items]
        return self._words(items.ravel()).reshape(-1, *items.shape)

    def _words(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return :meth:`words` of items (m,): (W, m)."""
        first = self.starts[items]
        ends = np.cumsum(self.starts[items + 1] - first)
        before = np.append(0, ends[:-1])
        where = np.repeat(first - before, ends - before) + np.arange(ends[-1] if len(ends) else 0)
        tags = self.tags[where]
        words = np.empty((self.n_words, len(items)), np.int64)
        for number, word in enumerate(words):
            bits = np.left_shift(1, tags, dtype=np.int64) if self.n_words == 1 else _bits(tags, number)
            sums = np.append(0, np.cumsum(bits))  # they wrap around, and their differences are right all the same
            np.subtract(sums[ends], sums[before], out=word)
        return words


def _bits(tags: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Return the bit of each tag in the word of a number, 0 where the tag is in another word."""
    return np.where(tags // _BITS == number, np.left_shift(1, tags % _BITS, dtype=np.int64), 0)
