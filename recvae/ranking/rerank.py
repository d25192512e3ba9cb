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
from torch import Tensor

from recvae.errors import InputError
from recvae.matrices import Rows
from recvae.queries import Query
from recvae.ranking import mixing
from recvae.ranking.mixing import CANDIDATES, WIDER, WITH_TAGS, first_by_tags, limit_of_tags
from recvae.ranking.selection import top_k

_AT_ONCE = 1 << 11  # candidates of the users that are treated together on a CPU: their vectors stay in its cache
_AT_ONCE_ON_A_DEVICE = 1 << 20

Alike = Callable[[Tensor], Callable[[Tensor], Tensor]]
"""How alike items are: :meth:`recvae.recommender.Recommender.similarity_among`."""


@dataclass(frozen=True)
class Reranker:
    """Chooses lists within the rules of a query; ``most`` and ``diversity`` are its ``most_per_tag`` and ``diversity``.

    ``most`` is None where there is no such rule, and ``tags`` has the tags of the items, rows (n_items, T), where
    there is.
    """

    most: int | None
    diversity: float
    tags: Rows | None
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
                lengths = (values > -torch.inf).sum(1).tolist()
                places = torch.from_numpy(first_by_tags(items.tolist(), lengths, self.tags, self.most, k)).to(
                    items.device
                )
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
        worth = mixing.relevance(scores.cpu().numpy(), 1 - self.diversity)
        words = None if self.tags is None else mixing.words_of(self.tags, items.cpu().numpy())
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
        """:func:`recvae.ranking.mixing.steps` of the candidates ``items`` (b, P)."""
        alike = None if self.alike is None or not self.diversity else self.alike(items)
        among = None if alike is None else lambda chosen: alike(torch.from_numpy(chosen)).numpy()
        mixing.steps(left, self.diversity, among, words, self.most, places)

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
    return Reranker(most, query.diversity, None if most is None else item_tags, alike)
