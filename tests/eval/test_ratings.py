import numpy as np
import pytest
from scipy.sparse import csr_array

from eval import rating_errors, rating_metrics, ratings_validator
from recvae.errors import DataError, InputError

TRUE = csr_array(np.array([[4.0, 0, 2, 0], [0, 0, 0, 0], [0, 5, 1, 3]], np.float32))
SHOWN = csr_array(np.array([[0, 3.0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], np.float32))
ERRORS = np.array([0.5, -1.0, 1.0, 0.25, -0.75])


class Wrong:
    """Predicts with these errors."""

    def __init__(self, errors=ERRORS):
        self.errors = errors

    def predict_ratings(self, histories, where):
        assert histories is SHOWN
        predicted = where.copy()
        predicted.data = where.data + self.errors
        return predicted


def test_rmse_and_mae_by_hand():
    np.testing.assert_allclose(rating_errors(Wrong(), SHOWN, TRUE), ERRORS)
    found = rating_metrics(Wrong(), SHOWN, TRUE)
    mse = (0.25 + 1 + 1 + 0.0625 + 0.5625) / 5
    assert found["rmse"].mean == pytest.approx(np.sqrt(mse))
    assert found["mae"].mean == pytest.approx(3.5 / 5)
    assert found["rmse"].users == found["mae"].users == 2  # the second user has nothing held out
    # Two clusters: sums 1.25 and 1.625 of sizes 2 and 3, se = sqrt(2 / 1 * sum (S - mean N)^2) / 5.
    se = np.sqrt(2 * ((1.25 - 2 * mse) ** 2 + (1.625 - 3 * mse) ** 2)) / 5
    assert found["rmse"].se == pytest.approx(se / (2 * np.sqrt(mse)))


def test_the_standard_error_is_that_of_many_samples():
    """Users' errors share a part, so ratings are not independent."""
    rng = np.random.default_rng(0)
    held_out = csr_array(np.full((60, 8), 3.0, np.float32))
    roots, spreads = [], []
    for _ in range(300):
        errors = np.repeat(rng.normal(size=60), 8) + 0.3 * rng.normal(size=480)
        model = Wrong(errors)
        model.predict_ratings = lambda histories, where, e=errors: csr_array(
            (where.data + e, where.indices, where.indptr), shape=where.shape
        )
        metric = rating_metrics(model, held_out, held_out)["rmse"]
        roots.append(metric.mean)
        spreads.append(metric.se)
    assert np.mean(spreads) == pytest.approx(np.std(roots), rel=0.15)


def test_r2_is_highest_where_the_rmse_is_least():
    validate = ratings_validator(SHOWN, TRUE)
    variance = np.var([4, 2, 5, 1, 3])
    assert validate(Wrong()) == pytest.approx(1 - (ERRORS**2).mean() / variance)
    assert validate(Wrong(0 * ERRORS)) == 1
    assert validate(Wrong(TRUE.data.mean() - TRUE.data)) == pytest.approx(0)
    assert validate(Wrong(ERRORS / 2)) > validate(Wrong())


def test_refusals():
    with pytest.raises(DataError, match="no held-out ratings"):
        rating_metrics(Wrong(), SHOWN, csr_array((3, 4)))
    with pytest.raises(DataError, match="missing or all alike"):
        ratings_validator(SHOWN, csr_array(np.full((3, 4), 2.0)))
    with pytest.raises(InputError, match="Wrong predicted a rating that is not a number"):
        rating_metrics(Wrong(np.nan * ERRORS), SHOWN, TRUE)
