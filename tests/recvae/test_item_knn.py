"""Item-kNN against its equations in float64 NumPy."""

import numpy as np
import oracles_baselines as oracles
import pytest
from conftest import random_clicks
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_array

import recvae
from recvae.baselines import item_knn
from recvae.errors import ConfigError

OPTIONS = [
    {"neighbours": 4, "shrinkage": 0.0, "asymmetry": 0.5, "activity": 0.0},  # the cosine
    {"neighbours": 7, "shrinkage": 3.0, "asymmetry": 0.5, "activity": 1.0},
    {"neighbours": 1, "shrinkage": 0.5, "asymmetry": 0.0, "activity": 0.5},
    {"neighbours": 50, "shrinkage": 0.0, "asymmetry": 0.8, "activity": 1.5},
]


def rows(matrix):
    """The columns of each row of a CSR, in the order they are stored in."""
    return [part.tolist() for part in np.split(matrix.indices, matrix.indptr[1:-1])]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("entries", [1, 100, 10_000])
def test_neighbours_in_tiles_equal_the_equations(options, entries, monkeypatch):
    monkeypatch.setattr(item_knn, "ENTRIES", entries)
    clicks = random_clicks(80, 30, 0.1, seed=4)
    found = item_knn.nearest_neighbours(clicks, **options)
    expected, lists = oracles.item_knn(clicks.toarray().astype(np.float64), **options)
    assert found.dtype == np.float32
    assert rows(found) == lists
    np.testing.assert_allclose(found.toarray(), expected.T, rtol=1e-6)


@given(
    x=st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(lambda s: arrays(np.float64, s, elements=st.just(1.0)))
    | st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(
        lambda s: arrays(np.float64, s, elements=st.sampled_from([0.0, 1.0]))
    ),
    options=st.sampled_from(OPTIONS),
    entries=st.integers(1, 40),
)
def test_ties_rows_and_columns_without_clicks(x, options, entries):
    """Small matrices are full of equal similarities: the lower item is nearer."""
    if not x.any():
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_knn, "ENTRIES", entries)
        found = item_knn.nearest_neighbours(csr_array(x), **options)
    expected, lists = oracles.item_knn(x, **options)
    assert rows(found) == lists
    np.testing.assert_allclose(found.toarray(), expected.T, rtol=1e-6)


def test_equal_similarities_go_to_the_lower_item():
    clicks = csr_array(np.ones((3, 6)))
    found = item_knn.nearest_neighbours(clicks, 2, shrinkage=0.0, asymmetry=0.5, activity=1.0)
    assert rows(found) == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1], [0, 1]]


def test_tiles_cover_all_items_and_hold_what_is_allowed(monkeypatch):
    monkeypatch.setattr(item_knn, "ENTRIES", 10)
    tiles = list(item_knn._tiles(np.array([4.0, 6, 1, 11, 0, 0, 10, 3])))
    assert tiles == [(0, 2), (2, 3), (3, 4), (4, 7), (7, 8)]


def test_scores_are_sums_over_the_neighbours_that_were_clicked():
    options = {"neighbours": 5, "shrinkage": 2.0, "asymmetry": 0.7, "activity": 1.0}
    clicks = random_clicks(80, 30, 0.1, seed=4)
    model = recvae.ItemKNN(**options).fit(clicks)
    histories = random_clicks(9, 30, 0.2, seed=5)
    histories = histories[np.diff(histories.indptr) > 0]
    similarities, _ = oracles.item_knn(clicks.toarray().astype(np.float64), **options)
    np.testing.assert_allclose(model.scores(histories), histories.toarray() @ similarities, rtol=1e-5)


def test_clicks_count_not_their_weights():
    clicks = random_clicks(40, 12, 0.2, seed=4)
    weighted = clicks.copy()
    weighted.data = 1 + np.arange(len(clicks.data), dtype=np.float32) % 4
    one, two = (recvae.ItemKNN().fit(matrix) for matrix in (clicks, weighted))
    np.testing.assert_array_equal(one.neighbours.toarray(), two.neighbours.toarray())
    np.testing.assert_array_equal(one.scores(clicks), one.scores(weighted))


def test_similar_items_are_the_neighbours_and_no_others():
    clicks = csr_array(np.array([[1.0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]]))
    ids, scores = recvae.ItemKNN(neighbours=3).fit(clicks).similar_items([0, 3], k=3)
    assert ids.tolist() == [[1, 2, -1], [-1, -1, -1]]
    assert (scores[ids < 0] == -np.inf).all()


@pytest.mark.parametrize("option", [{"neighbours": 0}, {"shrinkage": -1.0}, {"asymmetry": 1.1}, {"activity": -0.1}])
def test_options_out_of_range(option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        recvae.ItemKNN(**option)
