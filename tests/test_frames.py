"""Data frames of every library: the same results from the same clicks, and one sentence for each mistake."""

import re
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import checkerboard
from scipy.sparse import csr_array

import recvae
from data_prep import column_names, prepare, prepare_given, read_interactions
from eval import evaluate
from recvae.errors import DataError, InputError, RecvaeError

ROOT = Path(__file__).resolve().parent.parent
TO = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}
BACK = {
    "pandas": lambda frame: frame.to_dict("list"),
    "polars": lambda frame: frame.to_dict(as_series=False),
    "pyarrow": lambda frame: frame.to_pydict(),
}
KINDS = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.Table}


def board(user=str, item=str):
    """The clicks of a checkerboard as columns, rows in any order, with a repeated click."""
    users, items = checkerboard().nonzero()
    order = np.random.default_rng(1).permutation(len(users))
    order = [*order, order[0]]
    return {"user": [user(100 + n) for n in users[order]], "item": [item(n) for n in items[order]]}


def matrix_of(clicks):
    """An oracle: the matrix of columns of clicks, users and items in ascending order of whole numbers."""
    users, items = ({x: n for n, x in enumerate(sorted(set(map(int, clicks[c]))))} for c in ("user", "item"))
    made = np.zeros((len(users), len(items)), np.float32)
    for user, item in zip(clicks["user"], clicks["item"], strict=True):
        made[users[int(user)], items[int(item)]] = 1
    return csr_array(made), [str(item) for item in items]


def sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    return text


@pytest.mark.parametrize(("user", "item"), [(str, str), (int, int), (float, str), (str, float)])
@pytest.mark.parametrize("library", TO)
def test_fit_recommend_and_evaluate_are_those_of_the_matrix(library, user, item):
    clicks = board(user, item)
    matrix, ids = matrix_of(clicks)
    plain = recvae.EASE().fit(matrix, item_ids=ids)
    model = recvae.EASE().fit(TO[library](clicks))
    assert model.items.ids == ids
    assert all(np.array_equal(a, b) for a, b in zip(model.tensors().values(), plain.tensors().values(), strict=True))

    asked = {"user": [user(9), user(7), user(9)], "item": [item(2), item(5), item(4)]}
    histories = [["2", "4"], ["5"]]
    lists, scores = plain.recommend_ids(histories, k=3)
    frame = TO[library](asked)
    got = model.recommend_frame(frame, k=3)
    assert type(got) is KINDS[library]
    assert BACK[library](got) == {
        "user": [user(9)] * 3 + [user(7)] * 3,
        "item": [item(i) for row in lists for i in row],
        "rank": [1, 2, 3] * 2,
        "score": [score for row in scores for score in row],
    }
    np.testing.assert_array_equal(model.recommend(frame, k=3).ids, plain.recommend(plain.encode(histories)[0], k=3).ids)

    wanted = {"user": [user(7), user(8)], "item": [item(1), item(2)]}
    answer = np.zeros((3, 40), np.float32)
    answer[1, ids.index("1")] = answer[2, ids.index("2")] = 1
    shown = csr_array(np.vstack([plain.encode(histories)[0].toarray(), np.zeros((1, 40), np.float32)]))
    measured = evaluate(model, frame, TO[library](wanted), "recall@5,ndcg@10")
    assert measured.metrics == evaluate(plain, shown, csr_array(answer), "recall@5,ndcg@10").metrics
    assert measured.left_out == 1


@pytest.mark.parametrize("library", TO)
def test_prepare_takes_the_same_frames(library):
    clicks = {key: values * 2 for key, values in board().items()} | {"stars": [5, 1] * len(board()["user"])}
    other = {"u" if name == "user" else name: values for name, values in clicks.items()}
    options = {"min_rating": 4, "rating_column": "stars", "held_out_users": 10}
    data = prepare(TO[library](other), user_column="u", item_column="item", **options)
    wanted = prepare(pd.DataFrame(other), user_column="u", item_column="item", **options)
    assert data.item_ids.tolist() == wanted.item_ids.tolist()
    for name in ("train", "validation_in", "validation_out", "test_in", "test_out"):
        np.testing.assert_array_equal(data.matrix(name).toarray(), wanted.matrix(name).toarray())
    columns = {"user_column": "user", "item_column": "item"}
    half = len(clicks["user"]) // 4
    train, test = ({name: values[part] for name, values in clicks.items()} for part in (slice(half), slice(half, None)))
    given = prepare_given(TO[library](train), TO[library](test), **columns)
    assert given.train.nnz == prepare_given(pa.table(train), pa.table(test), **columns).train.nnz
    warned = []
    prepare(TO[library](clicks), **columns, warn=warned.append)
    assert len(warned) == 1
    assert "has a column 'stars', which is not used" in warned[0]
    with pytest.raises(InputError, match=r"user_column=..., item_column=... \(there are user, item, stars\)"):
        prepare(TO[library](clicks))


def test_a_model_of_ratings_and_a_blend_say_what_to_do():
    frame = pd.DataFrame(board())
    with pytest.raises(InputError, match="learns from ratings, and the rows of a data frame are clicks"):
        recvae.VAEAC(ratings=True, device="cpu").fit(frame)
    blend = recvae.Blend([recvae.EASE().fit(frame), recvae.Popularity().fit(frame)], checkerboard(), [1, 1])
    assert list(blend.recommend_frame(frame.head(5), k=2).columns) == ["user", "item", "rank", "score"]


def test_other_frames_are_read_too_and_streams_once():
    clicks = board(int, int)
    table = pa.table(clicks)
    wanted = recvae.EASE().fit(table).tensors()["weights"]
    chunked = pa.concat_tables([table.slice(0, 7), table.slice(7)])
    batches = chunked.to_batches()
    categories = pd.DataFrame(clicks).astype({"user": pd.CategoricalDtype(range(99, 200)), "item": "category"})
    enums = pl.DataFrame(clicks).cast(str).cast({"user": pl.Categorical, "item": pl.Enum([str(n) for n in range(50)])})
    twice = pa.DictionaryArray.from_arrays([*table["item"].to_pylist(), 40], [*map(str, range(40)), "0"])
    doubled = pa.table({"user": [*clicks["user"], clicks["user"][clicks["item"].index(0)]], "item": twice})
    frames = {
        "record batch": pa.record_batch(clicks),
        "chunks": chunked,
        "stream": pa.RecordBatchReader.from_batches(table.schema, iter(batches)),
        "duckdb": duckdb.connect().from_arrow(table),
        "pandas with other columns": pd.DataFrame(clicks).assign(other=[object()] * len(clicks["user"])),
        "pandas with missing values elsewhere": pd.DataFrame(clicks, index=range(5, 5 + len(clicks["user"]))),
        "nullable pandas": pd.DataFrame(clicks).convert_dtypes(),
        "pandas of arrow": pd.DataFrame(clicks).convert_dtypes(dtype_backend="pyarrow"),
        "categories": categories,
        "polars categories": enums,
        "a dictionary with a value twice": doubled,
    }
    for name, frame in frames.items():
        assert np.array_equal(recvae.EASE().fit(frame).tensors()["weights"], wanted), name
    stream = pa.RecordBatchReader.from_batches(table.schema, iter(batches))
    assert prepare(stream, user_column="user", item_column="item", held_out_users=5).train.nnz > 0
    model = recvae.EASE().fit(table)
    for frame in (categories, enums):
        got = model.recommend_frame(frame.head(9), k=1)
        first = list(dict.fromkeys(clicks["user"][:9]))
        assert [int(user) for user in got["user"]] == first
    assert type(model.recommend_frame(pa.record_batch(clicks), k=1)) is pa.Table


def test_the_order_of_rows_changes_nothing():
    clicks = pd.DataFrame(board())
    brief = {"seed": 3, "device": "cpu", "epochs": 1, "hidden": (8,), "latent": 4}
    one, other = (recvae.MultDAE(**brief).fit(frame).tensors() for frame in (clicks, clicks.iloc[::-1]))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_masks_unknown_items_and_empty_histories():
    model = recvae.EASE().fit(pl.DataFrame(board()))
    frame = pl.DataFrame({"user": ["x", "y", "x"], "item": ["2", "i 77", "4"]})
    with pytest.raises(InputError, match="does not know the item 'i 77'"):
        model.recommend_frame(frame)
    with pytest.raises(InputError, match="'nothing'"):
        model.recommend_frame(frame.filter(pl.col("user") == "x"), deny=["nothing"])
    got = model.recommend_frame(frame, skip_unknown=True, allow=["1", "3", "4", "odd"], deny=[["3"], ["1"]])
    assert sorted(got.select("user", "item").rows()) == [("x", "1"), ("y", "3"), ("y", "4")]
    seen = model.recommend_frame(frame, k=40, skip_unknown=True, exclude_seen=False)
    assert len(seen) == 80
    with pytest.raises(InputError, match="does not know the item 'i 77'"):
        evaluate(model, frame, frame)
    held_out = pl.DataFrame({"user": ["x", "x"], "item": ["6", "i 77"]})
    assert evaluate(model, frame, held_out, "recall@20", skip_unknown=True).metrics["recall@20"].mean == 1.0


MIXED = {
    "a number and its text": [1, "1"],
    "text and its bytes": [b"a", "a"],
    "a float and its text": [1.5, "1.5"],
    "true and its text": [True, "True"],
}


@pytest.mark.parametrize("values", MIXED.values(), ids=MIXED)
def test_ids_of_several_types_are_never_merged(values):
    frame = pd.DataFrame({"user": pd.Series(values, dtype=object), "item": ["a", "b"]})
    for read in (
        lambda: read_interactions(frame, "user", "item"),
        lambda: recvae.EASE().fit(frame),
        lambda: recvae.EASE().fit(frame.rename(columns={"user": "item", "item": "user"})),
    ):
        with pytest.raises(DataError) as error:
            read()
        assert "row 2 (header not counted)" in sentence(error)
        assert "would become one" in str(error.value)


def test_ids_that_differ_as_written_stay_apart():
    values = ["7", "007", " 7", "7.0", "07"]
    for frame in (TO[library]({"user": values, "item": values}) for library in TO):
        model = recvae.Popularity().fit(frame)
        assert sorted(model.items.ids) == sorted(values)
        got = model.recommend_frame(frame, k=9, exclude_seen=False)
        assert len(set(map(str, got["item"].to_pylist() if isinstance(got, pa.Table) else got["item"]))) == 5
    mixed = pd.DataFrame({"user": pd.Series([1, "1.0", "b"], dtype=object), "item": [1, 2, 3]})
    assert read_interactions(mixed, "user", "item").n_users == 3


def test_an_item_that_is_no_number_is_not_made_one():
    model = recvae.Popularity().fit(pl.DataFrame({"user": [1, 1, 2], "item": ["7", "007", "9"]}))
    with pytest.raises(InputError, match=r"A list has the item '007', and column 'item' of the frame holds numbers"):
        model.recommend_frame(pl.DataFrame({"user": [1], "item": [9]}))
    small = recvae.Popularity().fit(pl.DataFrame({"user": [1, 1, 2], "item": [300, 7, 9]}))
    with pytest.raises(InputError, match="numbers of type int8"):
        small.recommend_frame(pa.table({"user": [1], "item": pa.array([9], pa.int8())}))


def mistakes():
    for library, make in TO.items():
        yield library, make({"user": ["a", None], "item": ["x", "y"]}), "the data frame, row 2 (header not counted)"
        yield library, make({"user": ["a", "b"], "item": [1, None]}), "the id in column 'item' is missing"
        yield library, make({"user": ["a", ""], "item": ["x", "y"]}), "the id in column 'user' is empty"
        yield library, make({"usr": ["a"], "item": ["x"]}), "has no column 'user'; it has usr, item. Did you mean 'usr'"
        yield library, make({"user": [1.5], "item": ["x"]}), "id 1.5 in column 'user' is not whole"
        yield library, make({"user": [[1]], "item": ["x"]}), "ids must be text or whole numbers"
        empty = make({"user": np.array([], "int64"), "item": np.array([], "int64")})
        yield library, empty, "The data frame has no rows."
    yield "pandas", pd.DataFrame([[1, 2, 3]], columns=["user", "item", "item"]), "has 2 columns named 'item'"
    yield "pyarrow", pa.table([[1], [2], [3]], ["user", "item", "item"]), "has 2 columns named 'item'. Rename all but"
    objects = pl.DataFrame({"user": pl.Series([object()], dtype=pl.Object), "item": ["x"]})
    yield "polars objects", objects, "ids must be text or whole numbers"
    yield "pandas without rows", pd.DataFrame({"user": [], "item": []}), "The data frame has no rows."
    yield "series", pd.Series([1, 2]), "The Series cannot be read as a table of Arrow"


@pytest.mark.parametrize(
    ("frame", "part"), [pytest.param(f, p, id=f"{k}-{n}") for n, (k, f, p) in enumerate(mistakes())]
)
def test_each_mistake_has_one_sentence(frame, part):
    for use in (
        lambda: recvae.EASE().fit(frame),
        lambda: recvae.EASE().fit(checkerboard()).recommend_frame(frame),
        lambda: prepare(frame, user_column="user", item_column="item"),
    ):
        with pytest.raises(RecvaeError) as error:
            use()
        assert part in sentence(error)


def test_values_that_are_no_frames():
    with pytest.raises(InputError, match=r"stream interface\), not a LazyFrame. Call its collect\(\) first."):
        prepare(pl.DataFrame(board()).lazy(), user_column="user", item_column="item")
    with pytest.raises(InputError, match="not a dict"):
        column_names({"user": [1]})
    with pytest.raises(DataError, match=r"scipy\.sparse matrix, got dict"):
        recvae.EASE().fit(board())
    model, frame = recvae.EASE().fit(pd.DataFrame(board())), pd.DataFrame(board())
    with pytest.raises(InputError, match="not a list"):
        model.recommend_frame([1])
    with pytest.raises(InputError, match="a data frame has its own item ids"):
        recvae.EASE().fit(frame, item_ids=["a"])
    with pytest.raises(InputError, match="two purposes"):
        recvae.EASE().fit(frame, item_column="user")
    with pytest.raises(InputError, match="The name of a column is a text, and not 3"):
        recvae.EASE().fit(frame, user_column=3)
    with pytest.raises(InputError, match="Rename the frame's column 'rank'"):
        model.recommend_frame(frame.rename(columns={"user": "rank"}), user_column="rank")
    with pytest.raises(InputError, match="not fitted"):
        recvae.EASE().recommend_frame(frame)
    with pytest.raises(InputError, match="two data frames or two matrices"):
        evaluate(model, frame, checkerboard())
    with pytest.raises(DataError, match="the held-out frame has no column 'item'"):
        evaluate(model, frame, frame.rename(columns={"item": "film"}))

    class Plain:
        def answer(self, query):
            return model.answer(query)

    with pytest.raises(InputError, match="Plain reads no data frames"):
        evaluate(Plain(), frame, frame)
    conditional = recvae.ConditionalVAE(device="cpu")
    with pytest.raises(InputError, match="give the clicks as a matrix too"):
        conditional.fit(frame, user_attributes=[{}])


def test_no_package_imports_polars():
    files = [file for package in ("recvae", "data_prep", "eval") for file in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    imports = re.compile(r"^\s*(?:import|from) polars", re.MULTILINE)
    assert [str(file) for file in files if imports.search(file.read_text())] == []


def test_the_guides_example_runs(capsys):
    text = (ROOT / "docs/guide.md").read_text("utf-8").split("### Data frames")[1]
    block = re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    known = {}
    exec(block[1], known)  # noqa: S102 - the page's own code
    assert known["lists"].columns == ["user", "item", "rank", "score"]
    assert known["lists"].schema["item"] == pl.Int64
    assert known["data"].train.nnz > 0
    assert "recall@5" in capsys.readouterr().out


def test_the_readmes_example_runs(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text("utf-8")
    block = next(b for b in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if "prepare(" in b)
    pd.DataFrame(board()).to_parquet(tmp_path / "clicks.parquet")
    monkeypatch.chdir(tmp_path)
    known = {}
    exec(block, known)  # noqa: S102 - the page's own code
    assert list(known["lists"].columns) == ["user", "item", "rank", "score"]
    assert known["data"].train.nnz > 0


def test_the_readme_says_which_figures_are_of_one_split():
    text = (ROOT / "README.md").read_text("utf-8")
    table, commands, said = (
        text.index(part) for part in ("five splits of 600", "recvae evaluate", "figures of one split")
    )
    assert table < commands < said < text.index("recvae prepare ratings.csv")
