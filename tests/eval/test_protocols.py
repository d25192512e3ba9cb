"""The evaluation protocol: batches, left-out users, what it refuses, and agreement with a literal evaluation."""

import math
import subprocess
import sys

import numpy as np
import oracles_metrics as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from eval import DEFAULT_METRICS, LIST_SET, PER_USER, compare, evaluate, validator
from recvae.errors import ConfigError, DataError, InputError
from recvae.queries import Answer, Query


class ItemScores:
    """Ranks every user by the same item scores, a stable sort, as the contract says; remembers what it was asked."""

    def __init__(self, scores):
        self.scores = np.asarray(scores, dtype=np.float32)
        self.asked = []

    def answer(self, query):
        histories, k = query.histories, query.k
        assert query.exclude_seen
        assert query.allow is None
        assert query.deny is None
        self.asked.append((histories.shape[0], k))
        scores = np.repeat(self.scores[None], histories.shape[0], axis=0)
        scores[histories.toarray() != 0] = -np.inf
        ids = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
        best = np.take_along_axis(scores, ids, axis=1)
        return Answer(np.where(np.isneginf(best), -1, ids).astype(np.int32), best)


def random_split(rng, n, n_items, density=0.4):
    """Disjoint fold-in and held-out; some users without the one, some without the other."""
    owner = rng.random((n, n_items))
    fold_in = (owner < density).astype(np.float32)
    held_out = ((owner >= density) & (owner < 1.5 * density)).astype(np.float32)
    held_out[rng.random(n) < 0.3] = 0
    fold_in[rng.random(n) < 0.1] = 0
    return csr_array(fold_in), csr_array(held_out)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 11), st.integers(1, 15))
def test_equal_to_a_literal_evaluation_with_ties_and_at_every_batch_size(seed, n, n_items, k):
    rng = np.random.default_rng(seed)
    fold_in, held_out = random_split(rng, n, n_items)
    scores = rng.integers(0, 3, n_items)  # many ties
    popularity = rng.integers(1, 9, n_items)
    names = [f"{name}@{k}" for name in (*PER_USER, *LIST_SET)]
    train = csr_array(rng.integers(0, 2, (6, n_items)).astype(np.float32))
    results = [
        evaluate(ItemScores(scores), fold_in, held_out, names, batch_size=size, popularity=popularity, train=train)
        for size in (1, 2, 1000)
    ]
    lists = [oracle.rank_by_score(scores.tolist(), set(fold_in[[r]].indices.tolist()), k) for r in range(n)]
    wanted = [set(held_out[[r]].indices.tolist()) for r in range(n)]
    for name in PER_USER:
        expected = oracle.per_user(name, lists, wanted, k)
        np.testing.assert_allclose(results[0].per_user[f"{name}@{k}"], expected, rtol=1e-13)
    assert results[0].metrics[f"coverage@{k}"].mean == oracle.coverage(lists, n_items, k)
    np.testing.assert_allclose(
        results[0].metrics[f"novelty@{k}"].mean, oracle.novelty(lists, popularity.tolist(), k), rtol=1e-12
    )
    mean, taken = oracle.diversity(lists, train.toarray().tolist(), k)
    np.testing.assert_allclose(results[0].metrics[f"diversity@{k}"].mean, mean, rtol=1e-12, atol=1e-13)
    assert results[0].metrics[f"diversity@{k}"].users == taken
    np.testing.assert_allclose(results[0].metrics[f"gini@{k}"].mean, oracle.gini(lists, n_items, k), atol=1e-13)
    for result in results:
        assert result.left_out == sum(not items for items in wanted)
        assert list(result.metrics) == names
        # repr rather than ==, under which NaN differs from itself
        assert repr(result.metrics) == repr(results[0].metrics)
        for name, values in result.per_user.items():
            np.testing.assert_array_equal(values, results[0].per_user[name])


def small():
    """Three items' worth of hand-made users: user 1 has no held-out item."""
    fold_in = csr_array(np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], dtype=np.float32))
    held_out = csr_array(np.array([[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]], dtype=np.float32))
    return fold_in, held_out


def test_by_hand_and_as_json():
    # Scores fall with the item number. User 0 ranks 1 2 3 (hit at 1); user 2 ranks 0 1 3 (hits at 1 and 3).
    result = evaluate(ItemScores([4, 3, 2, 1]), *small(), "recall@2,mrr@3,coverage@1")
    np.testing.assert_array_equal(result.per_user["recall@2"], [1, np.nan, 0.5])
    assert result.metrics["recall@2"].mean == 0.75
    assert result.metrics["recall@2"].users == 2
    assert result.metrics["mrr@3"].mean == 1
    assert result.left_out == 1
    assert result.metrics["coverage@1"].users == 3
    assert math.isnan(result.metrics["coverage@1"].se)
    shape = result.to_dict()
    assert shape["metrics"]["recall@2"] == {"mean": 0.75, "se": 0.25, "users": 2}
    assert shape["metrics"]["coverage@1"] == {"mean": 0.5, "se": None, "users": 3}
    assert shape["rank_seconds"] >= 0
    assert set(shape) == {"metrics", "left_out", "rank_seconds", "score_seconds"}


def test_only_users_that_count_are_ranked_and_never_more_than_the_catalogue():
    ranker = ItemScores([4, 3, 2, 1])
    evaluate(ranker, *small())
    assert ranker.asked == [(2, 4)]
    ranker = ItemScores([4, 3, 2, 1])
    evaluate(ranker, *small(), "ndcg@2,coverage@3")
    assert ranker.asked == [(3, 3)]


def test_a_query_for_diversity_is_measured_by_lists_of_each_length():
    fold_in, held_out = small()
    ranker = ItemScores([4, 3, 2, 1])
    result = evaluate(ranker, Query(fold_in, diversity=0.5), held_out, "mrr@3,coverage@1,recall@3,gini@2")
    assert ranker.asked == [(3, 1), (3, 2), (3, 3)]
    plain = evaluate(ItemScores([4, 3, 2, 1]), fold_in, held_out, "mrr@3,coverage@1,recall@3,gini@2")
    assert repr(result.metrics) == repr(plain.metrics)  # this ranker's lists are the same


def test_nobody_to_score():
    fold_in, held_out = small()
    nobody = csr_array(held_out.shape, dtype=np.float32)
    result = evaluate(ItemScores([4, 3, 2, 1]), fold_in, nobody)
    assert result.left_out == 3
    assert result.to_dict()["metrics"]["ndcg@100"] == {"mean": None, "se": None, "users": 0}
    assert tuple(result.metrics) == DEFAULT_METRICS
    with pytest.raises(DataError, match="no user has held-out items"):
        validator(fold_in, nobody)


def test_progress_ends_with_everybody():
    calls = []
    evaluate(ItemScores([4, 3, 2, 1]), *small(), batch_size=1, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_validator_gives_the_mean_of_evaluate():
    rng = np.random.default_rng(8)
    fold_in, held_out = random_split(rng, 50, 20)
    ranker = ItemScores(rng.random(20))
    expected = evaluate(ranker, fold_in, held_out, "ndcg@10").metrics["ndcg@10"].mean
    for size in (1, 7, 1000):
        validate = validator(fold_in, held_out, "ndcg@10", batch_size=size)
        assert validate(ranker) == pytest.approx(expected, rel=1e-14)
        assert validate(ranker) == validate(ranker)
    assert validator(fold_in, held_out)(ranker) > expected * 0.5


def test_two_evaluations_can_be_compared_user_by_user():
    rng = np.random.default_rng(9)
    fold_in, held_out = random_split(rng, 200, 30)
    oracle_scores = held_out.sum(axis=0)
    good = evaluate(ItemScores(oracle_scores), fold_in, held_out, "ndcg@10")
    bad = evaluate(ItemScores(-oracle_scores), fold_in, held_out, "ndcg@10")
    result = compare(good.per_user["ndcg@10"], bad.per_user["ndcg@10"])
    assert result.low > 0
    assert result.users == 200 - good.left_out


# What it refuses.


def test_matrices_that_do_not_fit_are_refused():
    fold_in, held_out = small()
    ranker = ItemScores([4, 3, 2, 1])
    with pytest.raises(DataError, match=r"3 x 4 .* 2 x 4"):
        evaluate(ranker, fold_in, held_out[:2])
    with pytest.raises(DataError, match="first is row 0, item 0"):
        evaluate(ranker, fold_in, fold_in)
    with pytest.raises(DataError, match="fold-in matrix must be"):
        evaluate(ranker, fold_in.toarray(), held_out)
    with pytest.raises(ConfigError, match="batch_size"):
        evaluate(ranker, fold_in, held_out, batch_size=0)
    with pytest.raises(ConfigError, match="Did you mean 'ndcg'"):
        evaluate(ranker, fold_in, held_out, ["ndcgg@3"])
    with pytest.raises(ConfigError, match="give popularity"):
        evaluate(ranker, fold_in, held_out, ["novelty@3"])
    with pytest.raises(ConfigError, match="give train"):
        evaluate(ranker, fold_in, held_out, ["diversity@3"])
    with pytest.raises(DataError, match="training clicks have 2 columns, and there are 4 items"):
        evaluate(ranker, fold_in, held_out, ["diversity@3"], train=csr_array((5, 2)))
    for metric in ("coverage@3", "ndcg@3,recall@3"):
        with pytest.raises(ConfigError, match="one metric"):
            validator(fold_in, held_out, metric)


def test_an_explicit_zero_in_both_matrices_is_no_overlap():
    fold_in, held_out = small()
    held_out = csr_array((np.array([0.0, 1.0]), np.array([0, 1]), np.array([0, 2, 2, 2])), shape=held_out.shape)
    assert evaluate(ItemScores([4, 3, 2, 1]), fold_in, held_out, "mrr@1").metrics["mrr@1"].mean == 1


@pytest.mark.parametrize(
    ("ids", "scores", "sentence"),
    [
        (np.array([[0], [0]], np.int32), np.zeros((2, 1), np.float32), "item 0, which is in its user's fold-in"),
        (np.array([[1]], np.int32), np.zeros((1, 1), np.float32), "for 2 histories"),
        (np.array([[1], [1]], np.int32), np.zeros((2, 2), np.float32), "scores of shape"),
        (np.array([[1], [1]], np.int32), np.full((2, 1), np.nan, np.float32), "NaN"),
        (np.array([[1, 1], [1, 3]], np.int32), np.zeros((2, 2), np.float32), "item 1 twice"),
        (np.array([[1], [4]], np.int32), np.zeros((2, 1), np.float32), "outside the catalogue"),
    ],
)
def test_a_ranker_that_breaks_its_contract_is_named(ids, scores, sentence):
    class Wrong:
        def answer(self, query):
            return Answer(ids, scores)

    with pytest.raises(InputError, match=sentence):
        evaluate(Wrong(), *small())


def test_lists_shorter_than_k_are_fine():
    class Short:
        def answer(self, query):
            n = query.n_users
            return Answer(np.full((n, 1), 3, np.int32), np.zeros((n, 1), np.float32))

    result = evaluate(Short(), *small(), "recall@4")
    np.testing.assert_array_equal(result.per_user["recall@4"], [0, np.nan, 0.5])


def test_eval_imports_neither_torch_nor_pandas():
    program = "import sys, eval; print(sorted({'torch', 'pandas', 'scipy.stats', 'data_prep'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_held_out_items_beyond_the_catalogue_are_misses():
    """As if the catalogue had columns for them that no list names; also for a user who has no others."""
    fold_in, held_out = random_split(np.random.default_rng(3), 8, 9)
    beyond = np.array([0, 1, 2, 0, 3, 0, 1, 0])
    wide = np.zeros((8, 3), np.float32)
    for row, n in enumerate(beyond):
        wide[row, :n] = 1
    metrics = [f"{name}@{k}" for name in PER_USER for k in (2, 5)]
    ranker = ItemScores(np.arange(9.0))
    here = evaluate(ranker, fold_in, held_out, metrics, beyond=beyond, batch_size=3)

    class Wider:
        def answer(self, query):
            return ranker.answer(Query(csr_array(query.histories.toarray()[:, :9]), k=query.k))

    padded = csr_array(np.hstack([fold_in.toarray(), np.zeros((8, 3), np.float32)]))
    there = evaluate(Wider(), padded, csr_array(np.hstack([held_out.toarray(), wide])), metrics)
    for name in metrics:
        np.testing.assert_array_equal(here.per_user[name], there.per_user[name])
    assert here.left_out == there.left_out
    score = validator(fold_in, held_out, "ndcg@5", beyond=beyond)(ranker)
    assert score == pytest.approx(there.metrics["ndcg@5"].mean)
    for wrong in ([1], -beyond, beyond / 2):
        with pytest.raises(DataError, match="beyond"):
            evaluate(ranker, fold_in, held_out, beyond=wrong)
