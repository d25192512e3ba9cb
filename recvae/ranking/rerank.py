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

import torch
from torch import Tensor

from recvae.errors import InputError
from recvae.matrices import Rows
from recvae.queries import Query
from recvae.ranking.mixing import CANDIDATES, WIDER, WITH_TAGS, first_by_tags, limit_of_tags
from recvae.ranking.selection import top_k

_AT_ONCE = 1 << 12  # candidates of the users that are treated together on a CPU: their vectors stay in its cache
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
        n, n_items = scores.shape
        best = scores.new_full((n, k), -torch.inf)
        columns = torch.zeros((n, k), dtype=torch.int64, device=scores.device)
        rows = torch.arange(n, device=scores.device)
        wide = min(n_items, (CANDIDATES if self.tags is None else WITH_TAGS) * k)
        while len(rows):
            of_rows = scores if len(rows) == n else scores[rows]
            values, items = top_k(of_rows, wide)
            at_once = max(1, (_AT_ONCE if scores.device.type == "cpu" else _AT_ONCE_ON_A_DEVICE) // wide)
            parts = zip(torch.split(values, at_once), torch.split(items, at_once), strict=True)
            if self.diversity or self.tags is None or self.most is None:
                places = torch.cat([self._chosen(*part, k) for part in parts])
            else:
                places = self.tags.first(values, items, self.most, k)
            chosen = places.clamp_min(0)
            best[rows] = values.gather(1, chosen).masked_fill_(places < 0, -torch.inf)
            columns[rows] = items.gather(1, chosen)
            if wide == n_items or self.tags is None:  # only tags leave candidates out
                break
            short = (best[rows, -1] == -torch.inf) & (values[:, -1] > -torch.inf)
            rows, wide = rows[short], min(n_items, WIDER * wide)
        return best, columns

    def _chosen(self, scores: Tensor, items: Tensor, k: int) -> Tensor:
        """Return the places of the chosen candidates in their order, int64 (b, k), -1 where there are none left.

        ``scores`` float32 (b, P) and ``items`` int64 (b, P): the candidates, best first.
        """
        n, width = scores.shape
        worth = _relevance(scores).mul_(1 - self.diversity).masked_fill_(scores == -torch.inf, -torch.inf)
        alike = None if self.alike is None else self.alike(items)
        counter = None if self.tags is None or self.most is None else self.tags.counter(items, self.most)
        places = torch.full((n, k), -1, dtype=torch.int64, device=scores.device)
        nearest: Tensor | None = None  # (b, P): the greatest similarity to a chosen item
        for place in range(min(k, width)):
            now = worth if nearest is None else torch.add(worth, nearest, alpha=-self.diversity)
            highest, chosen = now.max(1)  # the first of equal values
            places[:, place] = chosen.masked_fill(highest == -torch.inf, -1)
            if place + 1 == k:
                break  # a list that has ended before chooses on, to no effect
            worth.scatter_(1, chosen[:, None], -torch.inf)
            if alike is not None:
                near = alike(chosen).to(worth)
                nearest = near if nearest is None else torch.maximum(nearest, near, out=nearest)
            if counter is not None:
                worth.masked_fill_(counter.full(chosen), -torch.inf)
        return places


def reranker(query: Query, item_tags: Rows | None, alike: Alike | None) -> Reranker | None:
    """Return the function that chooses the lists of a query, None where its lists are the best scores alone.

    ``item_tags`` rows (n_items, T). Raises :class:`InputError` where the query asks for a rule without what it needs.
    """
    most = limit_of_tags(query)
    if most is None and not query.diversity:
        return None
    if most is not None and item_tags is None:
        raise InputError("most_per_tag is about the tags of the items, and these are not known.")
    if query.diversity and alike is None:
        raise InputError("diversity needs to know which items are alike, and this ranking does not.")
    return Reranker(most, query.diversity, None if most is None else _Tags(item_tags), alike)


def _relevance(scores: Tensor) -> Tensor:
    """Return scores (b, P), best first, as numbers from 0 to 1, those of -inf apart."""
    halves = scores.clamp(max=torch.finfo(scores.dtype).max) / 2  # a difference of halves does not overflow
    worst = halves.masked_fill(scores == -torch.inf, torch.inf).amin(1, keepdim=True)
    span = halves[:, :1] - worst
    return torch.where(span > 0, (halves - worst) / span, 1.0)


class _Tags:
    """The tags of all items, rows (n_items, T), as tensors."""

    def __init__(self, item_tags: Rows | None) -> None:
        assert item_tags is not None
        self.table = item_tags
        self.n_words = -(-item_tags.shape[1] // _BITS)
        self.starts = torch.from_numpy(item_tags.indptr).long()
        self.tags = torch.from_numpy(item_tags.indices).long()

    def first(self, scores: Tensor, items: Tensor, most: int, k: int) -> Tensor:
        """Return :func:`recvae.ranking.mixing.first_by_tags` of scores float32 and items int64 (b, P), best first."""
        lengths = (scores > -torch.inf).sum(1).tolist()
        places = first_by_tags(items.tolist(), lengths, self.table, most, k)
        return torch.from_numpy(places).to(items.device)

    def counter(self, items: Tensor, most: int) -> "_Counter":
        """Return the counter of the tags of candidates, int64 (b, P)."""
        device = items.device
        starts = self.starts.to(device)
        first, lengths = starts[items], starts[items + 1] - starts[items]
        steps = torch.arange(int(lengths.max()) if lengths.numel() else 0, device=device)[:, None, None]
        where = (first + steps).clamp_(max=max(0, len(self.tags) - 1))
        tags = self.tags.to(device)[where]  # (M, b, P), of which those after an item's own count nothing
        bits = torch.bitwise_left_shift(torch.ones_like(tags), tags % _BITS).masked_fill_(steps >= lengths, 0)
        words = torch.zeros((self.n_words, *items.shape), dtype=torch.int64, device=device)
        return _Counter(words.scatter_add_(0, tags // _BITS, bits), most)


class _Counter:
    """Counts the tags of the chosen items of each list, up to ``most``.

    ``words`` int64 (W, b, P): the tags of the candidates, a bit each.
    """

    def __init__(self, words: Tensor, most: int) -> None:
        self.words = words
        self.seen = words.new_zeros(most, *words.shape[:2])  # (most, W, b): the tags seen once, twice and so on

    def full(self, chosen: Tensor) -> Tensor:
        """Count the items that were chosen, int64 (b,) places; return which candidates have a full tag, (b, P)."""
        words, seen = self.words, self.seen
        tags = words.gather(2, chosen[None, :, None].expand(len(words), -1, 1))[:, :, 0]
        seen[1:] |= seen[:-1] & tags
        seen[0] |= tags
        held = (words & seen[-1][:, :, None]) != 0
        return held[0] if len(held) == 1 else held.any(0)
