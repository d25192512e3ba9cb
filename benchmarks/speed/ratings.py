"""A ratings file of ML-20M's size and form, made up: for measuring work that does not depend on taste."""

from pathlib import Path
from typing import Any

MIN_RATING = 4


def write_ratings(folder: Path, users: int, items: int, ratings: int) -> None:
    """Write ``ratings.csv`` with the columns userId, movieId, rating; half of the ratings are 4 or more."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv

    from data_prep import ml20m_shape

    pairs = ml20m_shape(users=users, items=items, clicks=ratings)
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(users), np.diff(pairs.indptr)) + 1
    high = rng.random(pairs.nnz) < 0.5
    rating = np.where(high, rng.choice([4.0, 4.5, 5.0], pairs.nnz), rng.choice([0.5, 2.0, 3.0, 3.5], pairs.nnz))
    pa.csv.write_csv(pa.table({"userId": user, "movieId": pairs.indices + 1, "rating": rating}), folder / "ratings.csv")


def prepare(ratings: Path, dataset: Path, held_out_users: int) -> None:
    """From the CSV to a dataset folder, as the command line does it."""
    from data_prep import prepare

    columns: Any = {"user_column": "userId", "item_column": "movieId", "rating_column": "rating"}
    prepare(ratings, **columns, min_rating=MIN_RATING, held_out_users=held_out_users).save(dataset)
