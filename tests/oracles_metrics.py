"""Slow, literal float64 metrics, one user and one place at a time, written from the definitions in docs and papers.

Nothing here shares code or ideas with ``eval``: lists and sets of Python, no arrays. A list holds item numbers, best
first, -1 for padding; held-out is a set of items.
"""

import math
import random
from collections.abc import Sequence


def hits_in(ranked: Sequence[int], held_out: set[int], k: int) -> list[int]:
    """Ranks (1, 2, ...) within k at which a held-out item stands."""
    ranks = []
    for place in range(len(ranked)):
        rank = place + 1
        if rank <= k and ranked[place] != -1 and ranked[place] in held_out:
            ranks.append(rank)
    return ranks


def recall(ranked: Sequence[int], held_out: set[int], k: int) -> float:
    """Liang et al. 2018, equation for Recall@R: the denominator is the smaller of R and the held-out items."""
    return len(hits_in(ranked, held_out, k)) / min(k, len(held_out))


def plain_recall(ranked: Sequence[int], held_out: set[int], k: int) -> float:
    return len(hits_in(ranked, held_out, k)) / len(held_out)


def ndcg(ranked: Sequence[int], held_out: set[int], k: int) -> float:
    """DCG = sum over ranks of (2^relevance - 1) / log2(rank + 1), over the best DCG that k places allow."""
    dcg = 0.0
    for rank in hits_in(ranked, held_out, k):
        dcg += (2.0**1 - 1.0) / math.log2(rank + 1)
    best = 0.0
    for place in range(1, min(k, len(held_out)) + 1):
        best += 1.0 / math.log2(place + 1)
    return dcg / best


def precision(ranked: Sequence[int], held_out: set[int], k: int) -> float:
    return len(hits_in(ranked, held_out, k)) / k


def hit_rate(ranked: Sequence[int], held_out: set[int], k: int) -> float:
    return 1.0 if hits_in(ranked, held_out, k) else 0.0


def mrr(ranked: Sequence[int], held_out: set[int], k: int) -> float:
    ranks = hits_in(ranked, held_out, k)
    return 1.0 / min(ranks) if ranks else 0.0


def average_precision(ranked: Sequence[int], held_out: set[int], k: int) -> float:
    """Precision at each hit, summed, over the hits a perfect list of k could have."""
    total = 0.0
    for rank in hits_in(ranked, held_out, k):
        total += precision(ranked, held_out, rank)
    return total / min(k, len(held_out))


PER_USER = {
    "recall": recall,
    "plain_recall": plain_recall,
    "ndcg": ndcg,
    "precision": precision,
    "hit_rate": hit_rate,
    "mrr": mrr,
    "map": average_precision,
}


def per_user(name: str, lists: Sequence[Sequence[int]], held_out: Sequence[set[int]], k: int) -> list[float]:
    """One value per user, NaN for a user without held-out items."""
    return [
        PER_USER[name](ranked, wanted, k) if wanted else math.nan
        for ranked, wanted in zip(lists, held_out, strict=True)
    ]


def coverage(lists: Sequence[Sequence[int]], n_items: int, k: int) -> float:
    seen = set()
    for ranked in lists:
        for item in list(ranked)[:k]:
            if item != -1:
                seen.add(item)
    return len(seen) / n_items


def novelty(lists: Sequence[Sequence[int]], clicks: Sequence[float], k: int) -> float:
    bits, places = 0.0, 0
    for ranked in lists:
        for item in list(ranked)[:k]:
            if item != -1:
                bits += -math.log2(max(clicks[item], 1) / sum(clicks))
                places += 1
    return bits / places if places else math.nan


def diversity(lists: Sequence[Sequence[int]], clicks: Sequence[Sequence[float]], k: int) -> tuple[float, int]:
    """The mean over lists of two items or more, and how many these are; ``clicks`` are users x items."""
    means = []
    for ranked in lists:
        kept = [item for item in list(ranked)[:k] if item != -1]
        pairs = []
        for place, one in enumerate(kept):
            for other in kept[:place]:
                columns = [[float(row[item] != 0) for row in clicks] for item in (one, other)]
                norms = [math.sqrt(sum(x * x for x in column)) for column in columns]
                both = sum(x * y for x, y in zip(*columns, strict=True))
                pairs.append(1 - (both / (norms[0] * norms[1]) if all(norms) else 0.0))
        if pairs:
            means.append(sum(pairs) / len(pairs))
    return (sum(means) / len(means) if means else math.nan), len(means)


def gini(lists: Sequence[Sequence[int]], n_items: int, k: int) -> float:
    """The mean difference of two items' counts, over twice the mean count."""
    counts = [sum(item in list(ranked)[:k] for ranked in lists) for item in range(n_items)]
    differences = sum(abs(a - b) for a in counts for b in counts)
    return differences / (2 * n_items * sum(counts)) if any(counts) else math.nan


def rank_by_score(scores: Sequence[float], seen: set[int], k: int) -> list[int]:
    """The k best unseen items, ties to the lower item, padded with -1."""
    order = sorted((item for item in range(len(scores)) if item not in seen), key=lambda item: (-scores[item], item))
    return (order + [-1] * k)[:k]


def mean_and_se(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error with ddof = 1, NaN values skipped."""
    kept = [value for value in values if not math.isnan(value)]
    mean = sum(kept) / len(kept)
    variance = sum((value - mean) ** 2 for value in kept) / (len(kept) - 1)
    return mean, math.sqrt(variance / len(kept))


def bootstrap_means(values: Sequence[float], clusters: Sequence[int], draws: int, seed: int) -> list[float]:
    """Means of resamples in which whole clusters are drawn with replacement."""
    members: dict[int, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        members.setdefault(cluster, []).append(value)
    names = list(members)
    generator = random.Random(seed)
    means = []
    for _ in range(draws):
        sample = []
        for _ in names:
            sample += members[generator.choice(names)]
        means.append(sum(sample) / len(sample))
    return means
