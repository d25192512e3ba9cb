"""Lists by rules, one item at a time in float64 loops that share no code with recvae: recvae/ranking/rerank.py."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Greedy(NamedTuple):
    """A list, and the least lead by which a choice was made over one that would have been another in float32."""

    items: list[int]
    lead: float


def allowed(
    item: int,
    tags: Sequence[Sequence[str]],
    allow_tags: Sequence[str] | None = None,
    deny_tags: Sequence[str] | None = None,
) -> bool:
    """Whether the rules about tags let an item into a list."""
    wanted = allow_tags is None or any(tag in tags[item] for tag in allow_tags)
    return wanted and not any(tag in tags[item] for tag in deny_tags or ())


def greedy(
    scores: Sequence[float],
    k: int,
    *,
    tags: Sequence[Sequence[str]] | None = None,
    most: int | None = None,
    diversity: float = 0.0,
    alike: Callable[[int, int], float] = lambda one, other: 0.0,
) -> Greedy:
    """Maximal marginal relevance among the 5 k best items; with at most so many of a tag, among the 10 k best, 20 k
    where tags leave the list short, and so on.

    ``scores``: -inf for an item that may not be listed. ``alike(chosen, other)``: similarity of two items.
    """
    order = sorted((i for i, score in enumerate(scores) if score > -math.inf), key=lambda i: (-scores[i], i))
    wide = min(len(scores), (5 if most is None or most >= k else 10) * k)
    while True:
        found = _chosen(order[:wide], scores, k, tags, most, diversity, alike)
        if len(found.items) == k or wide >= len(order) or most is None:
            return found
        wide = min(len(scores), 2 * wide)


def _chosen(pool, scores, k, tags, most, diversity, alike) -> Greedy:
    chosen: list[int] = []
    lead = math.inf
    if not pool:
        return Greedy(chosen, lead)
    best, worst = scores[pool[0]], scores[pool[-1]]
    while len(chosen) < k:
        worth = []
        for item in pool:
            if item in chosen:
                continue
            if most is not None and any(sum(tag in tags[other] for other in chosen) >= most for tag in tags[item]):
                continue
            relevance = 1.0 if best == worst else (scores[item] - worst) / (best - worst)
            nearest = max((alike(other, item) for other in chosen), default=0.0)
            worth.append(((1 - diversity) * relevance - diversity * nearest, item, (scores[item], nearest)))
        if not worth:
            break
        first = max(worth, key=lambda one: one[0])  # of equal values the first: the better score, the lower index
        leads = [first[0] - other[0] for other in worth if other[2] != first[2]]
        lead = min([lead, *leads])
        chosen.append(first[1])
    return Greedy(chosen, lead)
