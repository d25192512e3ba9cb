"""Histories as files of parts, and their lists as files, for tests of lists by parts."""

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from conftest import checkerboard

BOARD = checkerboard(users=60)
ITEMS = [f"{item:03}" for item in range(BOARD.shape[1])]
TAGS = {item: ["even" if int(item) % 2 == 0 else "odd"] for item in ITEMS}
K = 6


def rows(matrix=BOARD, first=0):
    """Long rows of a matrix: users u0, u1, ..., and item ids."""
    coo = matrix.tocoo()
    return {"user": [f"u{user + first}" for user in coo.row], "item": [ITEMS[item] for item in coo.col]}


def write(folder, *tables, suffix="parquet"):
    folder.mkdir(exist_ok=True)
    for number, table in enumerate(tables):
        table = table if isinstance(table, pa.Table) else pa.table(table)
        place = folder / f"part-{number}.{suffix}"
        pq.write_table(table, place) if suffix == "parquet" else pc.write_csv(table, place)
    return folder


def listed(folder):
    """The lists of a folder: items and scores by user, in file order."""
    found = {}
    for file in sorted(folder.glob("part-*")):
        table = pq.read_table(file) if file.suffix == ".parquet" else pc.read_csv(
            file, convert_options=pc.ConvertOptions(column_types={"item": pa.string(), "user": pa.string()})
        )  # fmt: skip
        for row in table.to_pylist():
            assert row["rank"] == len(found.get(row["user"], ())) + 1
            found.setdefault(row["user"], []).append((row["item"], row["score"]))
    return found


def expected(model, matrix=BOARD, names=None, **rules):
    ids, scores = model.recommend(matrix, K, **rules)
    names = names or [f"u{user}" for user in range(matrix.shape[0])]
    return {
        user: [(ITEMS[i], score) for i, score in zip(row, values, strict=True) if i >= 0]
        for user, row, values in zip(names, ids.tolist(), scores.tolist(), strict=True)
        if row[0] >= 0
    }


def same(found, wanted):
    assert [*found] == [*wanted]
    for user, items in wanted.items():
        assert [item for item, _ in found[user]] == [item for item, _ in items], user
        np.testing.assert_allclose([s for _, s in found[user]], [s for _, s in items], rtol=1e-5, atol=1e-7)
