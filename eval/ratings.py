"""Errors of predicted ratings, over all held-out ratings of all users.

Users have different numbers of held-out ratings, and one user's errors are correlated: standard errors are of means
over ratings clustered by user (:mod:`eval.significance`).
"""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, issparse

from eval.metrics import check_matrix
from eval.significance import Metric, summarize
from recvae.arguments import shown
from recvae.errors import DataError, InputError

__all__ = ["RatingPredictor", "rating_errors", "rating_metrics", "ratings_validator"]


class RatingPredictor(Protocol):
    """The method of a model that the evaluation calls."""

    def predict_ratings(self, histories: csr_array, where: csr_array) -> csr_array:
        """Return the ratings expected of users with these histories, CSR (n, n_items), where ``where`` has entries."""
        ...


def rating_errors(model: RatingPredictor, fold_in: csr_array, held_out: csr_array) -> npt.NDArray[np.float64]:
    """Return predicted less true rating of every held-out rating, float64 (nnz,), in the order of ``held_out``.

    ``fold_in``, ``held_out``: canonical CSR (n, n_items) of ratings, row r of both the same user. Raises
    :class:`~recvae.errors.DataError` for the matrices and :class:`~recvae.errors.InputError` for a model whose
    predictions are not numbers.
    """
    check_matrix(fold_in, "fold-in")
    check_matrix(held_out, "held-out")
    if fold_in.shape != held_out.shape:
        raise DataError(
            f"The fold-in matrix is {fold_in.shape} and the held-out one {held_out.shape}; they must agree."
        )
    if not held_out.nnz:
        raise DataError("There are no held-out ratings to predict.")
    name = type(model).__name__
    if not callable(getattr(model, "predict_ratings", None)):
        raise InputError(f"Only a model with a function 'predict_ratings' can be asked for them; {name} has none.")
    predicted = model.predict_ratings(fold_in, held_out)
    if not (issparse(predicted) and predicted.format == "csr" and predicted.shape == held_out.shape):
        raise InputError(f"{name}.predict_ratings gave {shown(predicted)}, and not a CSR of {held_out.shape}.")
    if predicted.data.shape != held_out.data.shape or predicted.dtype.kind not in "biuf":
        raise InputError(f"{name}.predict_ratings gave other entries than those that it was asked for.")
    errors: npt.NDArray[np.float64] = predicted.data.astype(np.float64) - held_out.data
    if not np.isfinite(errors).all():
        raise InputError(f"{name} predicted a rating that is not a number. Train it again.")
    return errors


def rating_metrics(model: RatingPredictor, fold_in: csr_array, held_out: csr_array) -> dict[str, Metric]:
    """Return "rmse" and "mae" over all held-out ratings; arguments and errors as of :func:`rating_errors`.

    The standard error of the root is that of the mean square over twice the root. ``users`` are those with held-out
    ratings.
    """
    errors = rating_errors(model, fold_in, held_out)
    counts = np.diff(held_out.indptr)
    users = np.repeat(np.arange(len(counts)), counts)
    squares, absolute = summarize(errors**2, clusters=users), summarize(np.abs(errors), clusters=users)
    root = math.sqrt(squares.mean)
    n = int(np.count_nonzero(counts))
    return {
        "rmse": Metric(root, squares.se / (2 * root) if root else squares.se, n),
        "mae": Metric(absolute.mean, absolute.se, n),
    }


def ratings_validator(fold_in: csr_array, held_out: csr_array) -> Callable[[RatingPredictor], float]:
    """Return a function ``model -> r2``, 1 - mean squared error / variance of the held-out ratings.

    Higher is better, and highest for the least RMSE; predicting the ratings' mean gives 0, no error gives 1.
    Arguments and errors as of :func:`rating_errors`.
    """
    check_matrix(fold_in, "fold-in")
    check_matrix(held_out, "held-out")
    variance = float(held_out.data.astype(np.float64).var()) if held_out.nnz else 0.0
    if not variance:
        raise DataError("There is nothing to validate on: the held-out ratings are missing or all alike.")
    return lambda model: 1 - float((rating_errors(model, fold_in, held_out) ** 2).mean()) / variance
