"""CSR matrices whose arrays do not fit one another, and every public call that takes a matrix.

Run as a program it gives all of them to all of these, and fails where one is accepted or is no sentence.
"""

import sys
import warnings

import numpy as np
import torch
from conftest import checkerboard
from scipy.sparse import csr_array

import recvae
from eval import evaluate, per_user_metrics, rating_errors, validator
from recvae.errors import DataError, InputError


def broken(how, dtype=np.int32):
    """A CSR of 60 x 40 that SciPy made, with arrays that were changed since."""
    matrix = checkerboard().copy()
    matrix.indices, matrix.indptr = matrix.indices.astype(dtype), matrix.indptr.astype(dtype)
    indptr, indices = matrix.indptr, matrix.indices
    if how == "column too large":
        indices[7] = 40
    elif how == "column far too large":
        indices[7] = np.iinfo(dtype).max
    elif how == "negative column":
        indices[7] = -1
    elif how == "falling pointers":
        indptr[3], indptr[4] = indptr[4], indptr[3]
    elif how == "pointer far too large":
        indptr[5] = np.iinfo(dtype).max
    elif how == "negative pointer":
        indptr[5] = -5
    elif how == "first pointer":
        indptr[0] = 3
    elif how == "last pointer":
        indptr[-1] = len(indices) + 1000
    elif how == "last pointer too small":
        indptr[-1] -= 1
    elif how == "too few pointers":
        matrix.indptr = indptr[:-1]
    elif how == "too many pointers":
        matrix.indptr = np.append(indptr, indptr[-1])
    elif how == "too few values":
        matrix.data = matrix.data[:-1]
    elif how == "columns that are no whole numbers":
        matrix.indices = indices + 0.5
    elif how == "columns in a table":
        matrix.indices = indices[:, None]
    return matrix


HOWS = (
    "column too large", "column far too large", "negative column", "falling pointers", "pointer far too large",
    "negative pointer", "first pointer", "last pointer", "last pointer too small", "too few pointers",
    "too many pointers", "too few values", "columns that are no whole numbers", "columns in a table",
)  # fmt: skip


GOOD = checkerboard()
NOTHING = csr_array(GOOD.shape, dtype=np.float32)
QUICK = {"epochs": 1, "latent": 2, "device": "cpu"}


def calls(ease, conditional, rating):
    """Every public call that takes a matrix: by its name, a function of that matrix."""
    ids = np.zeros((60, 1), np.int32)
    return {
        "fit": lambda matrix: recvae.EASE().fit(matrix),
        "fit of a network": lambda matrix: recvae.MultVAE(hidden=(4,), **QUICK).fit(matrix),
        "fit of item-kNN": lambda matrix: recvae.ItemKNN().fit(matrix),
        "fit of implicit ALS": lambda matrix: recvae.ImplicitALS(factors=2).fit(matrix),
        "recommend": ease.recommend,
        "allow": lambda matrix: ease.recommend(GOOD, allow=matrix),
        "deny": lambda matrix: ease.recommend(GOOD, deny=matrix),
        "predict_ratings": lambda matrix: rating.predict_ratings(matrix, GOOD),
        "where": lambda matrix: rating.predict_ratings(GOOD, matrix),
        "blend": lambda matrix: recvae.Blend([ease, ease], matrix),
        "conditions": lambda matrix: conditional.recommend(GOOD, conditions=matrix),
        "evaluate": lambda matrix: evaluate(ease, matrix, NOTHING, "recall@5"),
        "evaluate, held out": lambda matrix: evaluate(ease, NOTHING, matrix, "recall@5"),
        "evaluate, conditions": lambda m: evaluate(conditional, recvae.Query(NOTHING, conditions=m), GOOD, "recall@5"),
        "validator": lambda matrix: validator(NOTHING, matrix, "recall@5"),
        "per_user_metrics": lambda matrix: per_user_metrics(ids, matrix, "recall@1"),
        "rating_errors": lambda matrix: rating_errors(rating, NOTHING, matrix),
        "rating_errors, fold-in": lambda matrix: rating_errors(rating, matrix, GOOD),
    }


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    ease = recvae.EASE().fit(GOOD)
    # As many conditions as items, so that the same matrix fits in their place.
    tags = {str(item): [f"tag {item}"] for item in range(40)}
    conditional = recvae.ConditionalVAE(hidden=(4,), min_items=1, **QUICK).fit(GOOD, item_tags=tags)
    rating = recvae.VAEAC(ratings=True, likelihood="gaussian", hidden=4, **QUICK).fit(GOOD)
    wrong = []
    for how in HOWS:
        for dtype in (np.int32, np.int64):
            for name, call in calls(ease, conditional, rating).items():
                label = f"{how}, {dtype.__name__}, {name}"
                sys.stdout.write(f"{label}\n")
                sys.stdout.flush()  # the last one, where the process crashes
                try:
                    call(broken(how, dtype))
                    wrong.append(f"{label}: accepted")
                except (DataError, InputError) as error:
                    if "\n" in str(error):
                        wrong.append(f"{label}: {error}")
                except Exception as error:  # noqa: BLE001 - any other one is what is looked for
                    wrong.append(f"{label}: {type(error).__name__}: {error}")
    sys.stdout.write("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
