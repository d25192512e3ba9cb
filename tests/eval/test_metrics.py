"""Metrics against the literal oracle, by hand, and on input that must be refused."""

import math

import numpy as np
import oracles_metrics as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, csr_matrix

from eval import LIST_SET, PER_USER, ListCounts, MetricName, parse_metric, parse_metrics, per_user_metrics
from eval import metrics as module
from recvae.errors import ConfigError, DataError, InputError


def matrix(rows, n_items):
    """A canonical CSR with 1.0 at the given items of each row."""
    dense = np.zeros((len(rows), n_items), dtype=np.float32)
    for row, items in enumerate(rows):
        dense[row, list(items)] = 1
    return csr_array(dense)


@st.composite
def cases(draw):
    """Lists (with padding), held-out sets (some empty), catalogue and depths (also beyond both)."""
    n_items = draw(st.integers(1, 12))
    n_users = draw(st.integers(1, 6))
    length = draw(st.integers(0, n_items + 3))
    lists, held_out = [], []
    for _ in range(n_users):
        ranked = draw(st.lists(st.integers(0, n_items - 1), unique=True, max_size=min(length, n_items)))
        lists.append(ranked + [-1] * (length - len(ranked)))
        held_out.append(draw(st.sets(st.integers(0, n_items - 1))))
    depths = draw(st.lists(st.integers(1, n_items + 6), min_size=1, max_size=3))
    return n_items, lists, held_out, depths


def as_ids(lists):
    return np.array(lists, dtype=np.int32).reshape(len(lists), -1)


@settings(max_examples=200, deadline=None)
@given(cases())
def test_equal_to_the_oracle(case):
    n_items, lists, held_out, depths = case
    names = [f"{name}@{k}" for name in PER_USER for k in depths]
    values = per_user_metrics(as_ids(lists), matrix(held_out, n_items), names)
    assert set(values) == set(names)
    for text in names:
        name, k = text.split("@")
        expected = oracle.per_user(name, lists, held_out, int(k))
        assert values[text].dtype == np.float64
        np.testing.assert_allclose(values[text], expected, rtol=1e-13, atol=0)


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(1, 4), st.integers(0, 99))
def test_list_set_metrics_equal_the_oracle_however_batched(case, batch, seed):
    n_items, lists, _, depths = case
    popularity = np.random.default_rng(seed).integers(0, 50, n_items)
    popularity[0] += 1
    clicks = np.random.default_rng(seed).integers(0, 2, (7, n_items)) * 1.0
    names = [f"{name}@{k}" for name in LIST_SET for k in depths]
    counts = ListCounts(names, n_items, popularity, csr_array(clicks))
    ids = as_ids(lists)
    for start in range(0, len(ids), batch):
        counts.add(ids[start : start + batch])
    values = counts.values()
    for k in depths:
        assert values[f"coverage@{k}"] == oracle.coverage(lists, n_items, k)
        expected = oracle.novelty(lists, popularity.tolist(), k)
        np.testing.assert_allclose(values[f"novelty@{k}"], expected, rtol=1e-12)
        mean, taken = oracle.diversity(lists, clicks.tolist(), k)
        np.testing.assert_allclose(values[f"diversity@{k}"], mean, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(values[f"gini@{k}"], oracle.gini(lists, n_items, k), rtol=1e-12, atol=1e-13)
        assert counts.lists()[f"diversity@{k}"] == taken
        assert counts.lists()[f"gini@{k}"] == len(lists)


def test_golden_values_computed_by_hand():
    # Held-out {1, 4, 7}; the list hits at ranks 2 and 4.
    ids = np.array([[0, 4, 2, 1, 9]], dtype=np.int32)
    held_out = matrix([{1, 4, 7}], 10)
    names = [f"{name}@{k}" for name in PER_USER for k in (2, 5)]
    value = {name: values[0] for name, values in per_user_metrics(ids, held_out, names).items()}
    log2_3, log2_5 = math.log2(3), math.log2(5)
    assert value["recall@2"] == 1 / 2
    assert value["recall@5"] == 2 / 3
    assert value["plain_recall@2"] == 1 / 3
    assert value["plain_recall@5"] == 2 / 3
    assert value["ndcg@2"] == pytest.approx((1 / log2_3) / (1 + 1 / log2_3), rel=1e-14)
    assert value["ndcg@5"] == pytest.approx((1 / log2_3 + 1 / log2_5) / (1 + 1 / log2_3 + 1 / 2), rel=1e-14)
    assert value["precision@2"] == 1 / 2
    assert value["precision@5"] == 2 / 5
    assert value["hit_rate@2"] == 1
    assert value["mrr@5"] == 1 / 2
    assert value["map@2"] == (1 / 2) / 2
    assert value["map@5"] == pytest.approx((1 / 2 + 2 / 4) / 3, rel=1e-14)


def test_a_perfect_list_scores_exactly_one():
    held_out = matrix([range(37), {5}], 60)
    ids = np.array([np.arange(50), [5, *range(5), *range(6, 50)]], dtype=np.int32)
    values = per_user_metrics(ids, held_out, "recall@20,recall@50,ndcg@10,ndcg@50,map@20,mrr@1")
    for value in values.values():
        assert value.tolist() == [1.0, 1.0]


# Traps of other implementations.


def test_a_user_without_held_out_items_is_nan_without_a_warning():
    values = per_user_metrics(as_ids([[0, 1], [0, 1]]), matrix([set(), {1}], 3), [f"{n}@2" for n in PER_USER])
    for value in values.values():
        assert np.isnan(value[0])
        assert np.isfinite(value[1])


def test_explicit_zeros_are_not_clicks():
    held_out = csr_array((np.array([0.0, 1.0, 0.0]), np.array([0, 1, 2]), np.array([0, 2, 3])), shape=(2, 3))
    values = per_user_metrics(as_ids([[0, 1, 2], [2, 1, 0]]), held_out, "mrr@3,recall@3")
    assert values["mrr@3"][0] == 0.5
    assert values["recall@3"][0] == 1
    assert np.isnan(values["mrr@3"][1])


def test_padding_is_never_a_hit_even_beside_the_edges_of_the_catalogue():
    # A naive flat lookup reads -1 as the last item, of this row or of the row before.
    ids = as_ids([[-1, -1], [-1, -1], [2, -1]])
    values = per_user_metrics(ids, matrix([{0, 2}, {0, 2}, {0, 2}], 3), "hit_rate@2,recall@2")
    assert values["hit_rate@2"].tolist() == [0, 0, 1]
    assert values["recall@2"].tolist() == [0, 0, 0.5]


def test_k_beyond_list_and_catalogue_keeps_its_place_in_the_definition():
    values = per_user_metrics(as_ids([[1, 0, 2]]), matrix([{1}], 3), f"precision@1000,recall@1000,ndcg@{10**15}")
    assert values["precision@1000"][0] == 1 / 1000
    assert values["recall@1000"][0] == 1
    assert values[f"ndcg@{10**15}"][0] == 1


def test_each_row_is_scored_by_itself(monkeypatch):
    rng = np.random.default_rng(3)
    n, n_items = 40, 30
    ids = np.argsort(rng.random((n, n_items)), axis=1)[:, :12].astype(np.int32)
    held_out = csr_array((rng.random((n, n_items)) < 0.1).astype(np.float32))
    names = [f"{name}@{k}" for name in PER_USER for k in (1, 5, 50)]
    whole = per_user_metrics(ids, held_out, names)
    monkeypatch.setattr(module, "_BUFFER_BYTES", 100)  # three rows to a block
    for step in (1, 7, 40):
        for start in range(0, n, step):
            part = per_user_metrics(ids[start : start + step], held_out[start : start + step], names)
            for name in names:
                np.testing.assert_array_equal(part[name], whole[name][start : start + step])


def test_no_users_and_no_places():
    assert per_user_metrics(np.empty((0, 5), np.int32), csr_array((0, 4)), "ndcg@3")["ndcg@3"].shape == (0,)
    values = per_user_metrics(np.empty((2, 0), np.int32), matrix([{0}, set()], 4), "ndcg@3,map@3,mrr@3")
    for value in values.values():
        np.testing.assert_array_equal(value, [0, np.nan])


def test_sparse_matrices_of_the_old_kind_and_int64_ids_are_read_too():
    held_out = csr_matrix(matrix([{1}], 3))
    assert per_user_metrics(np.array([[0, 1]]), held_out, ["mrr@2"])["mrr@2"].tolist() == [0.5]


# Names.


def test_names_round_trip_and_repeat_once():
    assert parse_metric(" ndcg@100 ") == MetricName("ndcg", 100)
    assert str(MetricName("recall", 20)) == "recall@20"
    assert [str(name) for name in parse_metrics("recall@20, ndcg@100,recall@20")] == ["recall@20", "ndcg@100"]
    assert parse_metrics([MetricName("map", 3), "map@3"]) == (MetricName("map", 3),)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("recal@20", "Did you mean 'recall'?"),
        ("NDCG@100", "Did you mean 'ndcg'?"),
        ("zzz@5", "There are recall,"),
        ("ndcg", "ndcg@20"),
        ("ndcg@0", "at least 1"),
        ("ndcg@-3", "at least 1"),
        ("ndcg@ten", "at least 1"),
        ("ndcg@", "at least 1"),
        ("ndcg@²", "at least 1"),
        ("", "There is no metric ''"),
    ],
)
def test_a_wrong_name_gives_a_sentence(text, part):
    with pytest.raises(ConfigError) as caught:
        parse_metric(text)
    assert part in str(caught.value)


def test_all_wrong_names_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_metrics("recal@20,ndcg@0,map@3")
    assert "recall" in str(caught.value)
    assert "ndcg@0" in str(caught.value)
    with pytest.raises(ConfigError, match="No metric is named"):
        parse_metrics([])


# Bad input.


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (as_ids([[0, 1, 0]]), "row 0 hold item 0 twice"),
        (as_ids([[0, 3, 1]]), "hold 3, outside the catalogue of 3"),
        (as_ids([[0, -2, 1]]), "hold -2, outside"),
        (as_ids([[0, -1, 1]]), "row 0 have padding"),
        (as_ids([[0], [1]]), "2 users and held-out rows for 1"),
        (np.array([[0.0, 1.0]]), "float64 of shape"),
        (np.array([0, 1]), "of shape"),
        ([[0, 1]], "a list"),
    ],
)
def test_wrong_ids_are_refused(ids, sentence):
    with pytest.raises(InputError, match=sentence):
        per_user_metrics(ids, matrix([{1}], 3), "ndcg@3")


def test_wrong_held_out_matrices_are_refused():
    ids = as_ids([[0, 1]])
    unsorted = csr_array((np.ones(2), np.array([1, 0]), np.array([0, 2])), shape=(1, 3))
    twice = csr_array((np.ones(2), np.array([1, 1]), np.array([0, 2])), shape=(1, 3))
    for wrong in (unsorted, twice):
        with pytest.raises(DataError, match="sum_duplicates"):
            per_user_metrics(ids, wrong, "ndcg@3")
    with pytest.raises(DataError, match="csr_array"):
        per_user_metrics(ids, np.ones((1, 3)), "ndcg@3")
    for value in (-1.0, np.nan, np.inf):
        with pytest.raises(DataError, match="negative, infinite or NaN"):
            per_user_metrics(ids, csr_array(np.array([[1.0, value, 0]])), "ndcg@3")


def test_the_two_groups_are_kept_apart():
    with pytest.raises(ConfigError, match="whole set of lists"):
        per_user_metrics(as_ids([[0]]), matrix([{0}], 2), "coverage@1")
    with pytest.raises(ConfigError, match="value per user"):
        ListCounts("ndcg@1", 2)


@pytest.mark.parametrize("popularity", [[1, 2], [1, 2, -1], [1, 2, np.inf], [1, 2, np.nan], [0, 0, 0]])
def test_wrong_popularity_is_refused(popularity):
    with pytest.raises(DataError, match="popularity"):
        ListCounts("novelty@2", 3, popularity)


def test_novelty_needs_popularity_and_coverage_does_not():
    with pytest.raises(ConfigError, match="give popularity"):
        ListCounts("novelty@2", 3)
    counts = ListCounts("coverage@2", 3)
    counts.add(as_ids([[0, 2], [0, -1]]))
    assert counts.values() == {"coverage@2": 2 / 3}


def test_diversity_and_gini_by_hand():
    # Items 0 and 1 have one of two clicks in common: cosine 1/2. Item 2 shares none, and nobody clicked item 3.
    clicks = csr_array(np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0]], np.float32))
    counts = ListCounts("diversity@3,diversity@2,gini@2,gini@1", 4, train=clicks)
    assert all(math.isnan(value) for value in counts.values().values())
    counts.add(as_ids([[0, 1, 2], [0, 3, -1], [0, -1, -1]]))
    value = counts.values()
    assert value["diversity@2"] == pytest.approx((1 / 2 + 1) / 2)
    assert value["diversity@3"] == pytest.approx(((1 / 2 + 1 + 1) / 3 + 1) / 2)
    assert counts.lists() == {"diversity@3": 2, "diversity@2": 2, "gini@2": 3, "gini@1": 3}
    assert value["gini@1"] == 3 / 4  # one of four items has all
    assert value["gini@2"] == pytest.approx((-3 * 0 - 1 * 1 + 1 * 1 + 3 * 3) / (4 * 5))


def test_novelty_by_hand():
    # Shares 1/2, 1/4, 1/4 and, for the unclicked item, one click of eight: 1, 2, 2 and 3 bits.
    counts = ListCounts("novelty@2,novelty@1", 4, [4, 2, 2, 0])
    assert math.isnan(counts.values()["novelty@1"])
    counts.add(as_ids([[0, 3], [1, -1]]))
    assert counts.values() == {"novelty@2": (1 + 3 + 2) / 3, "novelty@1": (1 + 2) / 2}
