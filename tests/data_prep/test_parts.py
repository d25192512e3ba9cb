"""Clicks in several files are one table: as the files one after the other in a single one."""

import gzip
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import prepare
from data_prep.manifest import MATRICES
from data_prep.parts import find_parts, pieces_of_parts
from recvae.errors import DataError, InputError
from recvae.frames.ids import Columns

COLUMNS = {"user_column": "user", "item_column": "item"}


def clicks(n: int = 900, seed: int = 1) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user": draw.integers(0, 60, n).astype(str),
            "item": [f"i{code:03}" for code in draw.integers(0, 40, n)],
            "stars": draw.integers(1, 6, n) / 1.0,
            "time": draw.integers(0, 50, n),
        }
    )


def test_parts_are_one_table_in_the_order_of_their_names(tmp_path):
    table = clicks()
    table.to_csv(tmp_path / "whole.csv", index=False)
    folder = tmp_path / "clicks" / "deeper"
    folder.mkdir(parents=True)
    cuts = [0, 100, 100, 350, 600, 900]  # the second is a header alone
    for number, (start, stop) in enumerate(pairwise(cuts)):
        part = table[start:stop]
        if number == 3:
            pq.write_table(pa.Table.from_pandas(part, preserve_index=False), folder / f"{number}.parquet")
        elif number == 4:
            (folder / f"{number}.csv.gz").write_bytes(gzip.compress(part.to_csv(index=False).encode(), mtime=0))
        else:
            part.to_csv(folder / f"{number}.csv", index=False)
    for name in ("_SUCCESS", ".hidden.csv", "readme.md"):
        (folder / name).write_text("not clicks")
    options = {**COLUMNS, "rating_column": "stars", "time_column": "time", "min_rating": 2, "min_items_per_user": 3}
    for method in ("strong", "last-out"):
        whole = prepare(tmp_path / "whole.csv", **options, split=method)
        for source in (tmp_path / "clicks", f"{tmp_path}/clicks/**/[0-9].*"):
            parts = prepare(source, **options, split=method)
            assert list(parts.item_ids) == list(whole.item_ids)
            for name in MATRICES:
                assert (parts.matrix(name) != whole.matrix(name)).nnz == 0
            assert parts.name == "clicks"
            assert parts.manifest["source"]["parts"] == 5
    assert parts.manifest["source"]["file"] == "**/[0-9].*"


def test_pieces_are_the_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.separated._PIECE", 700)
    monkeypatch.setattr("data_prep.readers._ROWS", 33)
    table = clicks(400)
    table["time"] = table["time"].astype(float)
    table.loc[350:, "time"] += 0.5  # whole numbers first: the type of the column changes on the way
    table.loc[:349].to_csv(tmp_path / "a.csv", index=False, float_format="%g")
    table.loc[350:].to_csv(tmp_path / "a.csv", index=False, mode="a", header=False)
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), tmp_path / "b.parquet")
    found = list(pieces_of_parts(find_parts(tmp_path), Columns("user", "item", "stars", "time")))
    assert len(found) > 20
    for name, values in (("user", table["user"]), ("item", table["item"])):
        texts = [
            part.user_ids[int(code)].as_py() if name == "user" else part.item_ids[int(code)].as_py()
            for part in found
            for code in (part.user if name == "user" else part.item)
        ]
        assert texts == [*values, *values]
    for name, column in (("rating", "stars"), ("time", "time")):
        values = np.concatenate([getattr(part, name) for part in found])
        np.testing.assert_array_equal(values, [*table[column], *table[column]])


def test_ids_of_all_parts_have_one_form(tmp_path):
    """Whole numbers written as floats become whole numbers where they are so in all parts."""
    (tmp_path / "a.csv").write_text("user,item\n" + "".join(f"{u}.0,{i}.0\n" for u in range(6) for i in range(6)))
    (tmp_path / "b.csv").write_text("user,item\n" + "".join(f"{u}.0,x{i}\n" for u in range(6) for i in range(6)))
    data = prepare(tmp_path, **COLUMNS)
    assert sorted(data.user_ids("train"))[0] in {"0", "1", "2"}
    assert {"0.0", "x0"} <= set(data.item_ids)


def test_what_is_wrong_with_parts_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"No file matches .*none/\*\.csv"):
        prepare(f"{tmp_path}/none/*.csv", **COLUMNS)
    with pytest.raises(InputError, match="is a folder without Parquet or CSV files"):
        prepare(tmp_path, **COLUMNS)
    (tmp_path / "a.csv").write_text("user,item,time\nu,i,2020-01-31\n")
    (tmp_path / "b.csv").write_text("user,item,time\nu,j,1580428800\n")
    with pytest.raises(DataError, match=r"'time' holds dates in .*a\.csv and numbers in .*b\.csv"):
        prepare(tmp_path, **COLUMNS, time_column="time")
    (tmp_path / "b.csv").write_text("user,thing\nu,j\n")
    with pytest.raises(DataError, match=r"b\.csv has no column 'item'"):
        prepare(tmp_path, **COLUMNS)
    with pytest.raises(InputError, match="the data have user, item, time"):
        prepare(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("user,item\n")
    with pytest.raises(DataError, match="has no rows"):
        prepare(tmp_path, **COLUMNS)


@pytest.fixture(params=[1, 4])
def arrow_threads(request):
    before = pa.cpu_count()
    pa.set_cpu_count(request.param)
    yield request.param
    pa.set_cpu_count(before)


@pytest.mark.usefixtures("arrow_threads")
def test_an_error_in_a_piece_names_the_row_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.separated._PIECE", 300)
    rows = [f"u{n},i{n},{n}\n" for n in range(200)]
    want = Columns("user", "item", "stars")
    for wrong, said in (
        ("u,i,lots\n", r"row 151 \(header not counted\): the rating 'lots' in column 'stars'"),
        (",i,4\n", r"row 151 \(header not counted\): the id in column 'user' is empty"),
        ("u,i\n", r"row 151 \(header not counted\): it has 2 fields, and the header has 3"),
    ):
        (tmp_path / "a.csv").write_text("user,item,stars\n" + "".join([*rows[:150], wrong, *rows[150:]]))
        with pytest.raises(DataError, match=said):
            list(pieces_of_parts(find_parts(tmp_path), want))


def test_a_reader_of_pieces_can_be_left_at_any_time(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.separated._PIECE", 300)
    clicks(3000).to_csv(tmp_path / "a.csv", index=False)
    for pieces in (1, 2, 5):
        reading = pieces_of_parts(find_parts(tmp_path), Columns("user", "item"))
        for _ in range(pieces):
            next(reading)
        reading.close()
