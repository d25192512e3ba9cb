"""Lists by parts are the same lists as in memory, whatever the form of the histories."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listed import BOARD, ITEMS, TAGS, K, expected, listed, rows, same, write
from scipy.sparse import csr_array

import recvae
from recvae.errors import InputError
from recvae.serving.lists import ordered, parts, users
from recvae.serving.lists.asked import Asked, Columns, UserTable
from recvae.serving.lists.batch import Lister

FORMS = {
    "text": lambda table: table,
    "dictionaries": lambda table: pa.table({name: column.dictionary_encode() for name, column in table_of(table)}),
    "large text": lambda table: pa.table({name: column.cast(pa.large_string()) for name, column in table_of(table)}),
}


def table_of(table):
    return zip(table.column_names, table.columns, strict=True)


@pytest.mark.parametrize("form", FORMS)
def test_long_rows_in_parquet(model, tmp_path, little, form):
    halves = [FORMS[form](pa.table(rows(part, first))) for part, first in ((BOARD[:25], 0), (BOARD[25:], 25))]
    written = recvae.write_lists(model, write(tmp_path / "in", *halves), tmp_path / "out", K)
    same(listed(tmp_path / "out"), expected(model))
    counts = written.counts
    assert (written.parts, counts.users, counts.clicks, counts.unknown, counts.empty) == (2, 60, BOARD.nnz, 0, 0)
    assert counts.rows == 60 * K
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "_lists.json",
        "part-0.parquet",
        "part-1.parquet",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    schema = pq.read_schema(tmp_path / "out" / "part-0.parquet")
    assert [str(kind) for kind in schema.types] == ["string", "int32", "string", "float"]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv"])
def test_text(model, tmp_path, little, suffix):
    table = rows()
    text = "user,item\n" + "".join(
        f'{user},"{item}"\n' for user, item in zip(table["user"], table["item"], strict=True)
    )
    text = text.replace(",", "\t") if suffix == "tsv" else text
    (tmp_path / "in").mkdir()
    data = gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode()
    (tmp_path / "in" / f"part-0.{suffix}").write_bytes(data)
    recvae.write_lists(model, tmp_path / "in", tmp_path / "out", K)
    assert (tmp_path / "out" / "part-0.csv").is_file()
    same(listed(tmp_path / "out"), expected(model))


def test_a_row_for_each_user(model, tmp_path, little):
    matrix = csr_array(np.vstack([BOARD.toarray()[:20], np.zeros((1, BOARD.shape[1])), BOARD.toarray()[20:]]))
    lists = [[ITEMS[item] for item in matrix[[user]].indices] for user in range(matrix.shape[0])]
    names = [f"u{user}" for user in range(matrix.shape[0])]
    recvae.write_lists(model, write(tmp_path / "in", {"user": names, "item": lists}), tmp_path / "out", K)
    same(listed(tmp_path / "out"), expected(model, matrix))


def test_whole_numbers_and_floats_are_ids(tmp_path, little):
    model = recvae.EASE().fit(BOARD)  # items are 0, 1, ...
    coo = BOARD.tocoo()
    for number, kind in enumerate((np.int32, np.float64)):
        table = {"user": coo.row.astype(kind), "item": coo.col.astype(kind)}
        recvae.write_lists(model, write(tmp_path / f"in{number}", table), tmp_path / f"out{number}", K)
    ids, _ = model.recommend(BOARD, K)
    for number in range(2):
        found = listed(tmp_path / f"out{number}")
        assert [*found] == [str(user) for user in range(60)]
        assert [[int(item) for item, _ in items] for items in found.values()] == ids.tolist()


def test_rows_in_any_order_within_a_part(model, tmp_path, little):
    table = pa.table(rows())
    order = np.random.default_rng(2).permutation(table.num_rows)
    shuffled = table.take(order)
    names = [*dict.fromkeys(shuffled["user"].to_pylist())]
    recvae.write_lists(model, write(tmp_path / "in", shuffled), tmp_path / "out", K)
    same(listed(tmp_path / "out"), expected(model, BOARD[[int(name[1:]) for name in names]], names))


def test_items_that_come_twice_and_are_unknown(model, tmp_path):
    table = {"user": ["a", "a", "a", "b", "c"], "item": ["002", "000", "002", "zebra", "004"]}
    written = recvae.write_lists(model, write(tmp_path / "in", table), tmp_path / "out", K)
    matrix, _ = model.encode([["002", "000"], [], ["004"]])
    same(listed(tmp_path / "out"), expected(model, matrix, ["a", "b", "c"]))
    assert (written.counts.clicks, written.counts.unknown, written.counts.such_as) == (5, 1, ["zebra"])


def test_an_empty_part_has_an_empty_file_of_lists(model, tmp_path):
    nothing = pa.table({"user": pa.array([], pa.string()), "item": pa.array([], pa.string())})
    recvae.write_lists(model, write(tmp_path / "in", rows(), nothing), tmp_path / "out", K)
    assert pq.read_table(tmp_path / "out" / "part-1.parquet").num_rows == 0
    same(listed(tmp_path / "out"), expected(model))


def test_rules_of_all_users_and_of_each(model, tmp_path, little):
    deny = csr_array((np.ones(2, np.float32), ([0, 1], [4, 5])), shape=(3, len(ITEMS)))  # of u1 and u3
    rules = {"allow_tags": ["even"], "exclude_seen": False, "diversity": 0.2}
    each = {"deny": UserTable(["u1", "u3"], deny)}
    recvae.write_lists(model, write(tmp_path / "in", rows()), tmp_path / "out", K, each=each, **rules)
    table = np.zeros(BOARD.shape, np.float32)
    table[1, 4] = table[3, 5] = 1
    same(listed(tmp_path / "out"), expected(model, deny=csr_array(table), **rules))
    written = recvae.write_lists(model, tmp_path / "in", tmp_path / "none", K, allow=[])
    assert written.counts.empty == 60
    assert pq.read_table(tmp_path / "none").num_rows == 0


def test_wide_lists_and_reasons_say_the_same(model, tmp_path, little):
    source = write(tmp_path / "in", rows(BOARD[:9]))
    write(tmp_path / "text", rows(BOARD[:9]), suffix="csv")
    recvae.write_lists(model, source, tmp_path / "long", K, reasons=2)
    recvae.write_lists(model, source, tmp_path / "wide", K, reasons=2, wide=True)
    recvae.write_lists(model, tmp_path / "text", tmp_path / "flat", K, reasons=2)
    named = model.recommend(BOARD[:9], K, reasons=2).named(ITEMS)
    wanted = [
        {"user": f"u{user}", "rank": place, "item": one.item, "score": one.score, "rank_by_score": one.rank,
         "reasons": [reason._asdict() for reason in one.reasons]}
        for user, items in enumerate(named) for place, one in enumerate(items, 1)
    ]  # fmt: skip
    long = pq.read_table(tmp_path / "long").to_pylist()
    assert long == wanted
    assert any(row["reasons"] for row in long)
    wide = [
        {"user": row["user"], "rank": place + 1, "item": row["items"][place], "score": row["scores"][place],
         "rank_by_score": row["ranks_by_score"][place], "reasons": row["reasons"][place]}
        for row in pq.read_table(tmp_path / "wide").to_pylist() for place in range(len(row["items"]))
    ]  # fmt: skip
    assert wide == wanted
    flat = pc.read_csv(tmp_path / "flat" / "part-0.csv").to_pylist()
    for row, want in zip(flat, wanted, strict=True):
        for n, reason in enumerate(want["reasons"], 1):
            assert int(row[f"reason_{n}_item"]) == int(reason["item"])
            assert row[f"reason_{n}_rank"] == reason["rank"]


def test_ratings_and_conditions(tmp_path):
    stars = BOARD.copy()
    stars.data = 1.0 + np.arange(stars.nnz) % 5
    stars = stars.astype(np.float32)
    of_ratings = recvae.VAEAC(ratings=True, hidden=8, latent=4, epochs=1, device="cpu", seed=1)
    of_ratings.fit(stars, item_ids=ITEMS)
    table = {**rows(), "stars": stars.tocoo().data}
    source = write(tmp_path / "in", table)
    recvae.write_lists(of_ratings, source, tmp_path / "out", K, rating_column="stars")
    same(listed(tmp_path / "out"), expected(of_ratings, stars))
    with pytest.raises(InputError, match="name the column of ratings"):
        recvae.write_lists(of_ratings, source, tmp_path / "other", K)
    conditional = recvae.ConditionalVAE(hidden=8, latent=4, epochs=1, device="cpu", seed=1)
    conditional.fit(BOARD, item_ids=ITEMS, item_tags=TAGS)
    wish = ["even" if user % 3 else "" for user in range(60)]
    table = {**rows(), "wish": [wish[user] for user in BOARD.tocoo().row]}
    recvae.write_lists(conditional, write(tmp_path / "in", table), tmp_path / "wishes", K, condition_columns=["wish"])
    same(listed(tmp_path / "wishes"), expected(conditional, conditions=[[name] if name else [] for name in wish]))


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    at_once=st.integers(1, 5),
    entries=st.integers(1, 20),
)
def test_batches_depend_on_the_rows_and_not_on_the_pieces(lengths, cuts, at_once, entries):
    table = pa.table({"user": np.repeat(np.arange(len(lengths)), lengths), "item": np.arange(sum(lengths))})
    whole = table.combine_chunks().to_batches()
    pieces, start = [], 0
    while start < table.num_rows:
        pieces += table.slice(start, cuts[len(pieces) % len(cuts)]).to_batches()
        start += cuts[(len(pieces) - 1) % len(cuts)]
    before, parts.ENTRIES = parts.ENTRIES, entries
    try:
        one, other = ([b.to_pylist() for b in parts.grouped(iter(of), Columns(), at_once)] for of in (whole, pieces))
    finally:
        parts.ENTRIES = before
    assert one == other
    assert [user["user"] for batch in one for user in batch] == [*range(len(lengths))]
    assert [item for batch in one for user in batch for item in user["item"]] == [*range(sum(lengths))]
    for batch in one:
        assert len(batch) <= at_once
        assert len(batch) == 1 or sum(len(user["item"]) for user in batch) <= entries


def test_the_function_of_a_cluster_has_plain_columns(model):
    batch = pa.record_batch({"user": ["a", "b"], "item": [["002", "004"], []]})
    lister = Lister(model, Asked(3))
    lists = lister(batch)
    assert lists.schema == lister.schema
    assert lists.column("user").to_pylist() == ["a"] * 3 + ["b"] * 3


def test_users_in_several_parts_need_a_sort(model, tmp_path, little, monkeypatch):
    pytest.importorskip("duckdb")
    table = pa.table(rows())
    order = np.random.default_rng(2).permutation(table.num_rows)
    source = write(tmp_path / "in", table.take(order[:200]), table.take(order[200:]))
    with pytest.raises(InputError, match=r"is in part-0.parquet and in part-1.parquet, and \d+ more users are.*--sort"):
        recvae.write_lists(model, source, tmp_path / "out", K)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    monkeypatch.setattr(ordered, "PART_ROWS", 150)
    written = recvae.write_lists(model, source, tmp_path / "out", K, sort=True)
    assert written.parts == len([*(tmp_path / "out").glob("part-*.parquet")]) > 2
    names = sorted(f"u{user}" for user in range(60))
    same(listed(tmp_path / "out"), expected(model, BOARD[[int(name[1:]) for name in names]], names))
    again = recvae.write_lists(model, source, tmp_path / "other", K, sort=True, resume=True, version="1")
    assert again.counts == written.counts


def test_equal_hashes_are_no_equal_users(model, tmp_path, monkeypatch):
    monkeypatch.setattr(users, "hash", lambda _: 1, raising=False)
    source = write(tmp_path / "in", rows(BOARD[:5]), rows(BOARD[5:], 5))
    recvae.write_lists(model, source, tmp_path / "out", K)
    found = listed(tmp_path / "out")
    assert len(found) == 60
