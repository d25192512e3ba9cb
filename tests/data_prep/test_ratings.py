"""The ratings behind a split's clicks: where each one is, what is refused, and what stays as it was."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_datasets import rehash

from data_prep import Dataset, prepare
from data_prep.manifest import MATRICES, RATINGS, matrix_files
from data_prep.matrices import check_matrix
from recvae.errors import DataError, FormatError, InputError

COLUMNS = {"user_column": "user", "item_column": "item", "rating_column": "rating"}


def frame(seed, users=40, items=25, rows=420, repeated=0.0):
    draw = np.random.default_rng(seed)
    pairs = draw.permutation(users * items)[:rows]
    table = pd.DataFrame({"user": pairs // items, "item": pairs % items})
    again = table.sample(frac=repeated, random_state=seed)
    table = pd.concat([table, again], ignore_index=True).astype(str)
    return table.assign(rating=draw.choice([0.5, 1.0, 2.0, 3.5, 4.0, 4.5, 5.0], len(table)))


def made(table, **options):
    options = {"min_rating": 4.0, "min_items_per_user": 2, "held_out_users": 8, "ratings": True, **options}
    return prepare(table, **COLUMNS, **options)


def by_ids(data, name):
    matrix = data.ratings(name).tocoo()
    users = data.user_ids(name.split("_")[0])
    return {(users[r], data.item_ids[c]): float(v) for r, c, v in zip(matrix.row, matrix.col, matrix.data, strict=True)}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    repeated=st.sampled_from([0.0, 0.3]),
    share=st.sampled_from([0.2, 0.5]),
    minimum=st.sampled_from([4.0, 3.0]),
)
def test_where_each_rating_is(seed, repeated, share, minimum):
    table = frame(seed, repeated=repeated)
    data = made(table, min_rating=minimum, held_out_share=share)
    data.verify()
    plain = made(table, min_rating=minimum, held_out_share=share, ratings=False)
    catalogue = set(data.item_ids)
    for split in ("train", "validation", "test"):
        names = ["train"] if split == "train" else [f"{split}_in", f"{split}_out"]
        found = [by_ids(data, name) for name in names]
        for name, ratings in zip(names, found, strict=True):
            check_matrix(name, data.ratings(name), ratings=True)
            # The clicks are as without ratings, and they are just the ratings from the minimum on.
            assert (data.matrix(name) != plain.matrix(name)).nnz == 0
            clicks = data.matrix(name).tocoo()
            users = data.user_ids(split)
            assert {(users[r], data.item_ids[c]) for r, c in zip(clicks.row, clicks.col, strict=True)} == {
                pair for pair, value in ratings.items() if value >= minimum
            }
        # In and out are disjoint, and together they are all that the users have rated of the catalogue.
        assert sum(map(len, found)) == len(set().union(*found))
        people = set(data.user_ids(split))
        source = table[table["user"].isin(people) & table["item"].isin(catalogue)]
        assert set().union(*found) == set(zip(source["user"], source["item"], strict=True))
        merged = {pair: value for ratings in found for pair, value in ratings.items()}
        for pair, rows in source.groupby(["user", "item"])["rating"]:
            liked = rows[rows >= minimum]
            assert merged[pair] == np.float32((liked if len(liked) else rows).iloc[0])
        if split != "train":  # of a user's m other ratings int(share m) are held out
            shown, hidden = found
            for user in people:
                low = [sum(p[0] == user and v < minimum for p, v in part.items()) for part in (shown, hidden)]
                assert low[1] == int(share * sum(low))


def test_the_same_seed_holds_out_the_same_and_another_does_not():
    table = frame(3)
    one = made(table)
    low = {pair for pair, value in by_ids(one, "test_out").items() if value < 4}
    assert low
    assert one.manifest == made(table).manifest
    assert (one.ratings("test_out") != made(table).ratings("test_out")).nnz == 0
    other = made(table, seed=5)
    assert low != {pair for pair, value in by_ids(other, "test_out").items() if value < 4}


def test_the_folder_keeps_them_and_the_clicks_bit_for_bit(tmp_path):
    table = frame(4)
    data, plain = made(table), made(table, ratings=False)
    data.save(tmp_path / "graded")
    plain.save(tmp_path / "plain")
    loaded, clicks = Dataset.load(tmp_path / "graded"), Dataset.load(tmp_path / "plain")
    loaded.verify()
    assert loaded.has_ratings
    assert not clicks.has_ratings
    kept = {**loaded.manifest["files"]}
    ratings = {name: kept.pop(name) for name in [*kept] if "_ratings." in name}
    assert sorted(ratings) == sorted(file for name in RATINGS for file in matrix_files(name))
    assert kept == clicks.manifest["files"]  # hashes of everything else
    assert {key: value for key, value in loaded.manifest.items() if key not in ("files", "ratings")} == {
        key: value for key, value in clicks.manifest.items() if key != "files"
    }
    for name in MATRICES:
        assert (loaded.ratings(name) != data.ratings(name)).nnz == 0
        assert loaded.manifest["ratings"][name] == data.ratings(name).nnz
    assert loaded.describe() == data.describe()
    with pytest.raises(InputError, match="Prepare the dataset with --ratings"):
        clicks.ratings("train")
    with pytest.raises(InputError, match="no matrix 'training'"):
        loaded.ratings("training")


def test_refit_ratings_are_those_of_train_and_validation():
    data = made(frame(6))
    merged, clicks = data.refit_matrix(ratings=True), data.refit_matrix()
    check_matrix("refit", merged, ratings=True)
    parts = [
        data.ratings("train").toarray(),
        (data.ratings("validation_in") + data.ratings("validation_out")).toarray(),
    ]
    np.testing.assert_array_equal(merged.toarray(), np.concatenate(parts))
    np.testing.assert_array_equal(clicks.toarray(), merged.toarray() >= 4)


def change(folder, name, values):
    file = folder / f"{name}.data.npy"
    np.save(file, values(np.load(file)))


def test_damaged_ratings_are_refused(tmp_path):
    made(frame(7)).save(tmp_path / "d")
    change(tmp_path / "d", "test_in_ratings", lambda v: -v)
    for read in (lambda data: data.ratings("test_in"), Dataset.verify):
        with pytest.raises(FormatError, match=r"test_in_ratings\.data\.npy was altered"):
            read(Dataset.load(tmp_path / "d"))
    rehash(tmp_path / "d")
    with pytest.raises(FormatError, match=r"test_in_ratings\.data\.npy holds something other than ratings"):
        Dataset.load(tmp_path / "d").ratings("test_in")
    (tmp_path / "d" / "train_ratings.data.npy").unlink()
    with pytest.raises(FormatError, match=r"train_ratings\.data\.npy is missing"):
        Dataset.load(tmp_path / "d")


def test_what_cannot_be_kept_is_refused():
    table = frame(8)
    with pytest.raises(InputError, match="strong split alone"):
        made(table, split="random", held_out_users=None)
    with pytest.raises(InputError, match="--rating-column"):
        prepare(table, user_column="user", item_column="item", ratings=True, held_out_users=8)
    for wrong in (0.0, -1.0):
        table.loc[3, "rating"] = wrong
        with pytest.raises(DataError, match=rf"is {wrong:g}, and only ratings above 0"):
            made(table)
