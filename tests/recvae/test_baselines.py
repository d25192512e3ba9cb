"""The baselines against their equations in float64 NumPy."""

import numpy as np
import oracles
import oracles_baselines
import pytest
import torch
from conftest import random_clicks
from scipy.sparse import csr_array

import recvae
from recvae.baselines.ease import closed_form
from recvae.errors import ConfigError, WorkError


@pytest.mark.parametrize("tile", [1, 7, 64])
def test_ease_in_tiles_equals_the_closed_form(tile, monkeypatch):
    monkeypatch.setattr("recvae.baselines.ease.TILE", tile)
    clicks = random_clicks(80, 30, 0.2, seed=4)
    found = closed_form(clicks, 5.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracles.ease(clicks.toarray().astype(np.float64), 5.0), rtol=1e-5, atol=1e-7)


def test_ease_scores_are_the_history_times_the_weights():
    clicks = random_clicks(80, 30, 0.2, seed=4)
    model = recvae.EASE(l2=5.0).fit(clicks)
    histories = random_clicks(9, 30, 0.2, seed=5)
    histories = histories[np.diff(histories.indptr) > 0]
    expected = histories.toarray() @ oracles.ease(clicks.toarray().astype(np.float64), 5.0)
    np.testing.assert_allclose(model.scores(histories), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("l2", "dropout"), [(5.0, 0.5), (0.5, 0.9), (3.0, 0.0)])
def test_edlae_is_ridge_regression_with_a_penalty_for_each_item(l2, dropout, monkeypatch):
    monkeypatch.setattr("recvae.baselines.ease.TILE", 7)
    clicks = random_clicks(80, 30, 0.2, seed=4)
    found = recvae.EDLAE(l2=l2, dropout=dropout).fit(clicks).weights
    expected = oracles_baselines.edlae(clicks.toarray().astype(np.float64), l2, dropout)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dropout", [0.2, 0.5])
def test_edlae_is_what_denoising_learns_in_expectation(dropout):
    """Every mask of the dropout is tried. That a click counts as 1, whatever its value, is checked on the way."""
    clicks = random_clicks(12, 6, 0.4, seed=4)
    x = clicks.toarray().astype(np.float64)
    clicks.data *= 3
    found = recvae.EDLAE(l2=2.0, dropout=dropout).fit(clicks).weights
    np.testing.assert_allclose(found, oracles_baselines.denoising(x, 2.0, dropout), rtol=1e-5, atol=1e-7)


def test_edlae_without_dropout_is_ease_and_dropout_of_all_is_refused():
    clicks = random_clicks(80, 30, 0.2, seed=4)
    assert torch.equal(recvae.EDLAE(l2=5.0, dropout=0.0).fit(clicks).weights, recvae.EASE(l2=5.0).fit(clicks).weights)
    with pytest.raises(ConfigError, match="dropout"):
        recvae.EDLAE(dropout=1.0)


def test_implicit_als_folds_in_by_the_normal_equations():
    """The factors of a new user solve (Y'Y + (alpha - 1) Y_u'Y_u + l I) x = alpha Y_u'1; Hu et al. 2008, equation 4."""
    clicks = random_clicks(80, 30, 0.2, seed=4)
    alpha, regularization = 5.0, 0.7
    model = recvae.ImplicitALS(factors=6, regularization=regularization, alpha=alpha).fit(clicks)
    history = random_clicks(1, 30, 0.3, seed=6)
    items = model.factors.double().numpy()
    liked = items[history.indices]
    system = items.T @ items + (alpha - 1) * liked.T @ liked + regularization * np.eye(6)
    user = np.linalg.solve(system, alpha * liked.sum(0))
    np.testing.assert_allclose(model.scores(history)[0], items @ user, rtol=1e-3, atol=1e-4)


def test_popularity_counts_clicks_not_weights():
    model = recvae.Popularity().fit(csr_array(np.array([[5.0, 0, 1], [0, 0, 1]])))
    assert torch.equal(model.counts, torch.tensor([1.0, 0, 2]))


def test_ease_says_what_to_do_where_it_cannot_invert():
    with pytest.raises(WorkError, match="larger l2"):
        closed_form(csr_array(np.ones((3, 3), np.float32)), 1e-300)
