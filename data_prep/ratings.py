"""The ratings behind a strong split's clicks: graded feedback, "seen and disliked" included.

A click matrix holds the items that users liked. Its rating matrix, such as ``train_ratings`` beside ``train``, has the
same rows and columns, and holds all of the users' ratings of items in the catalogue, those below the minimum rating
too. The rating of a click is in the rating matrix of the click's own matrix. A held-out user's other m ratings are
divided at random, ``int(held_out_share * m)`` of them held out, by a generator of their own: so the clicks are split as
they are without ratings.
"""

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from data_prep.interactions import Ids, Interactions
from data_prep.splits import Split
from recvae.errors import DataError, InputError


def split_ratings(
    data: Interactions, split: Split, *, min_rating: float | None, held_out_share: float, seed: int
) -> dict[str, csr_array]:
    """Return the ratings of a strong split's users, canonical float32 CSR, by the name of the click matrix.

    ``data``: the interactions before any filter. Of several ratings of one item by one user the first of at least
    ``min_rating`` counts, which is the click's; without such, the first. Raises :class:`InputError` where there are no
    ratings and :class:`DataError` for one that is not above 0, since a sparse matrix does not store 0.
    """
    if data.rating is None:
        raise InputError(f"Ratings were asked for, and {data.label} was read without any: name their --rating-column.")
    wrong = ~((data.rating > 0) & (data.rating < np.inf))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"The rating of item {data.item_ids[data.item[row]]!r} by user {data.user_ids[data.user[row]]!r} in "
            f"{data.label} is {data.rating[row]:g}, and only ratings above 0 can be kept. Shift the scale, or leave "
            "--ratings out."
        )
    if min_rating is not None:  # clicks first, so that duplicates collapse to the click's rating
        data = data.select(np.argsort(data.rating < min_rating, kind="stable"))
    data, _ = data.without_duplicates()
    draw = np.random.default_rng(seed)
    made = {"train": _rows(data, split.user_ids["train"], split)}
    for name in ("validation", "test"):
        ratings = _rows(data, split.user_ids[name], split)
        held_out = _held_out(ratings, getattr(split, f"{name}_in"), getattr(split, f"{name}_out"), held_out_share, draw)
        made[f"{name}_in"], made[f"{name}_out"] = _only(ratings, ~held_out), _only(ratings, held_out)
    return made


def _rows(data: Interactions, users: Ids, split: Split) -> csr_array:
    """Return all ratings of ``users`` (in order) for items of the catalogue, (len(users), n_items)."""
    row_of = {user: row for row, user in enumerate(users)}
    column_of = {item: column for column, item in enumerate(split.item_ids)}
    rows = np.array([row_of.get(user, -1) for user in data.user_ids], dtype=np.int32)[data.user]
    columns = np.array([column_of.get(item, -1) for item in data.item_ids], dtype=np.int32)[data.item]
    kept = (rows >= 0) & (columns >= 0)
    assert data.rating is not None
    values = data.rating[kept].astype(np.float32)
    return csr_array((values, (rows[kept], columns[kept])), shape=(len(users), len(split.item_ids)))


def _held_out(
    ratings: csr_array, shown: csr_array, hidden: csr_array, share: float, draw: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Return which stored ratings (nnz,) are held out: those of hidden clicks, and a share of each user's rest."""
    cells = _cells(ratings)
    held_out: npt.NDArray[np.bool_] = np.isin(cells, _cells(hidden))
    rest = np.flatnonzero(~held_out & ~np.isin(cells, _cells(shown)))
    users = cells[rest] // ratings.shape[1]
    order = np.lexsort((draw.random(rest.size), users))
    counts = np.bincount(users, minlength=ratings.shape[0])
    place = np.arange(rest.size) - np.repeat(np.cumsum(counts) - counts, counts)
    held_out[rest[order[place < (share * counts).astype(np.int64)[users[order]]]]] = True
    return held_out


def _cells(matrix: csr_array) -> npt.NDArray[np.int64]:
    """Return the place of each stored entry in the flattened matrix, ascending."""
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    cells: npt.NDArray[np.int64] = rows * matrix.shape[1] + matrix.indices
    return cells


def _only(matrix: csr_array, kept: npt.NDArray[np.bool_]) -> csr_array:
    """Return the matrix with some of its stored entries alone."""
    indptr = np.concatenate(([0], np.cumsum(kept)))[matrix.indptr]
    return csr_array((matrix.data[kept], matrix.indices[kept], indptr.astype(matrix.indptr.dtype)), shape=matrix.shape)
