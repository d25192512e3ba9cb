"""What the imputation benchmark compares with, and how."""

import numpy as np
import oracles_vaeac as oracle
import pytest
from scipy.sparse import csr_array

from benchmarks.accuracy import imputation
from recvae.queries import Query


def ratings(users=30, items=12):
    rng = np.random.default_rng(0)
    return np.where(rng.random((users, items)) < 0.6, rng.integers(1, 6, (users, items)), 0).astype(np.float32)


def test_the_damped_bias_model_is_ridge_regression():
    x = ratings()
    model = imputation.DampedBias(csr_array(x), 2.0, 2.0, turns=100)
    mean, items = oracle.damped_offsets(x.astype(float), 2.0)
    assert model.mean == pytest.approx(mean)
    np.testing.assert_allclose(model.items, items, atol=1e-5)
    new = ratings(7)[:, ::-1].copy()
    where = csr_array((new == 0).astype(np.float32))
    expected = oracle.bias_model(new.astype(float), new > 0, mean, items, 2.0)
    np.testing.assert_allclose(model.predict_ratings(csr_array(new), where).data, expected[new == 0], atol=1e-5)


def test_intervals_resample_people():
    """The same errors again for the same people make no interval narrower; another person's do."""
    rng = np.random.default_rng(1)
    people = np.repeat(np.arange(80).astype(str), 5)
    errors = {"vaeac": rng.normal(size=400), "bias": 1.2 * rng.normal(size=400)}
    once = imputation.compared(errors, people)
    twice = imputation.compared({name: np.tile(e, 2) for name, e in errors.items()}, np.tile(people, 2))
    rmse = {name: np.sqrt((e**2).mean()) for name, e in errors.items()}
    found = once["rmse"]["vaeac_less_bias"]
    assert found["difference"] == pytest.approx(rmse["vaeac"] - rmse["bias"])
    assert found["low"] < found["difference"] < found["high"]
    again = twice["rmse"]["vaeac_less_bias"]
    assert again["high"] - again["low"] == pytest.approx(found["high"] - found["low"], rel=1e-6)
    assert (once["ratings"], once["people"]) == (400, 80)
    assert once["mae"]["bias"]["mean"] == pytest.approx(np.abs(errors["bias"]).mean())


def test_a_model_of_clicks_can_be_told_what_was_seen():
    class Ranker:
        def answer(self, query):
            return query.histories.toarray() > 0, query.deny.toarray() > 0

    x = ratings(3)
    clicks, denied = imputation.ToldWhatWasSeen(Ranker(), 4.0).answer(Query(csr_array(x), 5))
    np.testing.assert_array_equal(clicks, x >= 4)
    np.testing.assert_array_equal(denied, x > 0)
