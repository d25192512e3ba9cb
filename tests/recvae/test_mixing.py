"""Lists by tags and diversity in NumPy are those of torch's tensors, the oracle; both agree with slow loops too."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recvae.queries import Query
from recvae.ranking.mixing import mixed
from recvae.ranking.rerank import reranker
from recvae.training.vocabulary import Vocabulary


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 5),
    n_items=st.integers(1, 40),
    k=st.integers(1, 12),
    most=st.sampled_from([None, 1, 2]),
    diversity=st.sampled_from([0.25, 0.5, 1.0]),
    n_tags=st.sampled_from([1, 3, 70]),
    extreme=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_the_same_candidates_are_chosen(seed, n, n_items, k, most, diversity, n_tags, extreme):
    """Scores and similarities are multiples of powers of two, so that nothing is rounded, and ties are many."""
    rng = np.random.default_rng(seed)
    k = min(k, n_items)
    scores = np.sort(rng.integers(0, 2, (n, n_items)) * 8.0 - rng.integers(0, 2), axis=1)[:, ::-1].astype(np.float32)
    if extreme:
        scores[:, 0] = np.finfo(np.float32).max
    ends = rng.integers(0, n_items + 1, n)
    scores[np.arange(n_items) >= ends[:, None]] = -np.inf  # each list has its own end, and one may have nothing
    alike = rng.integers(-2, 9, (n_items, n_items)).astype(np.float32) / 8
    items = np.stack([rng.permutation(n_items) for _ in range(n)])
    names = [f"t{t}" for t in range(n_tags)]
    tags = [tuple(rng.choice(names, rng.integers(0, min(3, n_tags) + 1), replace=False)) for _ in range(n_items)]
    item_tags = Vocabulary(
        [str(i) for i in range(n_items)], [""] * n_items, [tuple(sorted(of)) for of in tags]
    ).tag_table

    def near(places):
        return alike[items[np.arange(n), places]][np.arange(n)[:, None], items]

    query = Query(np.zeros((n, n_items), np.float32), k, diversity=diversity, most_per_tag=most)
    oracle = reranker(query, item_tags, lambda _: lambda places: torch.from_numpy(near(places.numpy())))
    expected = oracle._chosen(torch.from_numpy(scores.copy()), torch.from_numpy(items), k).numpy()
    limit = None if oracle.tags is None else oracle.most
    found = mixed(scores, items, k, diversity, near, item_tags if limit else None, limit)
    np.testing.assert_array_equal(found, expected)
