"""All clicks but the test part, against a slow construction by sets."""

import numpy as np
import pandas as pd
import pytest

from data_prep import SPLIT_METHODS, Dataset, prepare, prepare_given
from data_prep.matrices import check_matrix


@pytest.fixture(scope="module")
def frame():
    draw = np.random.default_rng(7)
    pairs = [(f"u{u}", f"i{i}") for u in range(50) for i in draw.permutation(35)[: 2 + u % 17].tolist()]
    table = pd.DataFrame(pairs, columns=["user", "item"])
    return table.assign(when=draw.integers(0, 500, len(table)))


def made(frame, method):
    columns = {"user_column": "user", "item_column": "item"}
    if method == "given":
        in_test = frame.index % 5 == 0
        return prepare_given(frame[~in_test], frame[in_test], **columns, validation_share=0.3)
    return prepare(frame, **columns, time_column="when", split=method, min_items_per_user=0)


@pytest.mark.parametrize("method", [*SPLIT_METHODS, "given"])
@pytest.mark.parametrize("saved", [False, True])
def test_all_clicks_but_the_test_part(frame, method, saved, tmp_path):
    data = made(frame, method)
    if saved:
        data.save(tmp_path / "d")
        data = Dataset.load(tmp_path / "d")
    users, clicks = [], {}
    for part, name in (("train", "train"), ("validation", "validation_in"), ("validation", "validation_out")):
        dense = data.matrix(name).toarray()
        for row, user in enumerate(data.user_ids(part)):
            if user not in clicks:
                users.append(user)
                clicks[user] = set()
            clicks[user] |= {column for column in range(data.n_items) if dense[row, column]}

    matrix = data.refit_matrix()
    check_matrix("refit", matrix)
    assert matrix.indices.dtype == data.train.indices.dtype
    assert matrix.shape == (len(users), data.n_items)
    assert [set(matrix.indices[a:b]) for a, b in zip(matrix.indptr, matrix.indptr[1:], strict=False)] == [
        clicks[user] for user in users
    ]
    assert matrix.nnz == data.train.nnz + data.validation_out.nnz + (method == "strong") * data.validation_in.nnz
    assert users[: data.n_users("train")] == data.user_ids("train").tolist()
    assert len(users) == data.n_users("train") + (method == "strong") * data.n_users("validation")
    assert data.train.nnz < matrix.nnz  # a copy: the training matrix is as it was

    hidden = data.test_out.tocoo()
    found = {(data.user_ids("test")[r], c) for r, c in zip(hidden.row, hidden.col, strict=True)}
    assert not found & {(user, column) for user in users for column in clicks[user]}
