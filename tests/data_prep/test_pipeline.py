import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import data_prep
from data_prep import Dataset, prepare
from recvae.errors import DataError, InputError


@pytest.fixture
def frame():
    draw = np.random.default_rng(0)
    pairs = [(u, i) for u in range(60) for i in draw.permutation(25)[: 4 + u % 9].tolist()]
    table = pd.DataFrame(pairs, columns=["user", "item"])
    return table.assign(stars=draw.integers(1, 6, len(table)), when=draw.integers(0, 10**6, len(table)))


def test_a_file_becomes_a_dataset(frame, tmp_path):
    path = tmp_path / "plays.csv"
    pd.concat([frame, frame[:7]]).to_csv(path, index=False)
    (tmp_path / "titles.csv").write_text("item,title\n3,Three\n")
    columns = {"user_column": "user", "item_column": "item"}
    data = prepare(path, **columns, titles=tmp_path / "titles.csv", held_out_users=7)
    data.save(tmp_path / "out")
    loaded = Dataset.load(tmp_path / "out")
    loaded.verify()
    assert loaded.manifest["counts"]["users"]["test"] == 7
    assert loaded.manifest["dropped"]["duplicate_clicks"] == 7
    assert loaded.manifest["source"]["file"] == "plays.csv"
    assert loaded.name == "plays"
    assert dict(zip(loaded.item_ids, loaded.item_titles, strict=True))["3"] == "Three"
    assert loaded.manifest["before_split"]["clicks"] == sum(n for n in frame.groupby("user").size() if n >= 5)
    same = prepare(frame, **columns, held_out_users=7)
    assert same.vocabulary_hash == loaded.vocabulary_hash
    assert (same.test_out != loaded.test_out).nnz == 0


def test_options_reach_the_filters_and_the_manifest(frame):
    columns = {"user_column": "user", "item_column": "item", "rating_column": "stars", "time_column": "when"}
    data = prepare(frame, **columns, min_rating=3, k_core=True, min_users_per_item=3, min_items_per_user=4)
    assert data.manifest["filters"] == {
        "min_rating": 3,
        "min_items_per_user": 4,
        "min_users_per_item": 3,
        "k_core": True,
    }
    assert data.manifest["protocol"]["held_out_users"] == data.manifest["before_split"]["users"] // 10
    for split in ("random", "last-out", "temporal"):
        data = prepare(frame, **columns, split=split)
        data.verify()
        assert data.manifest["protocol"]["split"] == split
        assert data.manifest["protocol"]["held_out_users"] is None


def test_bad_requests_get_a_sentence(frame, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame.to_csv("plays.csv", index=False)
    columns = {"user_column": "user", "item_column": "item"}
    for arguments, part in (
        (("ml-20", {}), "Did you mean 'ml-20m'"),
        (("plays", {}), "There is no dataset or file 'plays'"),
        (("none.csv", columns), "There is no file none.csv"),
        (("plays.csv", {}), "Name the columns with --user-column and --item-column; the data have user, item, stars"),
        (("plays.csv", columns | {"source": "x"}), "--source belongs to the name of a known dataset"),
        (("plays.csv", columns | {"min_rating": 3}), "--rating-column"),
        (("plays.csv", columns | {"min_rating": float("nan")}), "must be a number"),
        (("plays.csv", columns | {"min_rating": "3", "rating_column": "stars"}), "must be a number, and is '3'"),
        (("plays.csv", columns | {"min_items_per_user": -1}), "must be a whole number of at least 0, and is -1"),
        (("plays.csv", columns | {"min_users_per_item": None}), "users per item must be a whole number"),
        (("plays.csv", columns | {"held_out_users": 1.5}), "held-out users must be a whole number"),
        (("plays.csv", columns | {"held_out_share": None}), "held-out share must be a number"),
        (("plays.csv", columns | {"seed": None}), "The seed must be a whole number"),
        (("plays.csv", columns | {"separator": "\ud800"}), "cannot be used"),
        (("plays.csv", columns | {"separator": "\0"}), "cannot be used"),
        (("ml-1m", {"user_column": "u"}), "columns of ml-1m are known"),
        (("ml-1m", {"separator": ","}), "form of ml-1m is known"),
    ):
        with pytest.raises(InputError) as error:
            prepare(arguments[0], **arguments[1])
        assert part in str(error.value)
    Path("titles.csv").write_text("id,title\nx,X\n")
    with pytest.raises(DataError, match="names none of the items"):
        prepare("plays.csv", **columns, titles="titles.csv")


def test_numbers_of_numpy_are_numbers(frame, tmp_path):
    columns = {"user_column": "user", "item_column": "item"}
    plain = prepare(frame, **columns, min_items_per_user=3, held_out_users=2, held_out_share=0.5, seed=7)
    options = {"min_items_per_user": np.uint8(3), "held_out_users": np.int64(2), "seed": np.int64(7)}
    data = prepare(frame, **columns, **options, held_out_share=np.float32(0.5))
    data.save(tmp_path / "data")
    assert data.manifest == plain.manifest


def test_public_names():
    for name in data_prep.__all__:
        assert getattr(data_prep, name) is not None
    assert set(dir(data_prep)) == set(data_prep.__all__)
    with pytest.raises(AttributeError):
        _ = data_prep.nothing
    assert callable(data_prep.prepare)


def test_importing_is_light_and_needs_no_torch():
    code = (
        "import sys, data_prep; assert 'numpy' not in sys.modules;"
        "from data_prep import prepare, sample, Dataset;"
        "bad = {'torch', 'pandas', 'pooch', 'pyarrow', 'eval'} & set(sys.modules); assert not bad, bad"
    )
    root = Path(data_prep.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(root)})
