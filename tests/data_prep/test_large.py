"""Clicks prepared in limited memory: the folder is, byte for byte, the one that is prepared in memory."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from data_prep import Dataset, prepare, prepare_large
from data_prep.large import matrices as written
from data_prep.large.prepare import bytes_of
from recvae.cli import main
from recvae.errors import DataError, InputError, RecvaeError, WorkError

COLUMNS = {"user_column": "user", "item_column": "item"}
RATED = {**COLUMNS, "rating_column": "stars", "time_column": "time"}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def both(folder: Path, source: object, **options: object) -> dict[str, bytes]:
    """Prepare in both ways; return the files, which are the same, or raise the error, which is the same."""
    errors, warnings = [], [[], []]
    for way in (0, 1):
        out = folder / f"way-{way}"
        try:
            if way:
                prepare_large(source, out, memory="256MiB", overwrite=True, warn=warnings[1].append, **options)
            else:
                prepare(source, warn=warnings[0].append, **options).save(out, overwrite=True)
        except RecvaeError as error:
            errors.append(error)
            assert not (out / "scratch").exists()
    if errors:
        assert len(errors) == 2
        assert (type(errors[0]), str(errors[0])) == (type(errors[1]), str(errors[1]))
        raise errors[0]
    assert warnings[0] == warnings[1]
    one, other = (contents(folder / f"way-{way}") for way in (0, 1))
    assert one.keys() == other.keys()
    assert json.loads(one["manifest.json"]) == json.loads(other["manifest.json"])
    for name, data in one.items():
        assert data == other[name], name
    return other


def table(draw: np.random.Generator, rows: int, users: int, items: int, form: str) -> pd.DataFrame:
    user, item = draw.integers(0, users, rows), draw.zipf(1.3, rows) % items
    names = {
        "numbers": lambda codes: codes,
        "negative": lambda codes: [str(code - 7) for code in codes],
        "long": lambda codes: [f"{'9' * 20}{code}" for code in codes],
        "zeros": lambda codes: [f"{code:04}" for code in codes],
        "floats": lambda codes: [f"{code}.0" for code in codes],
        "texts": lambda codes: [f'é "{code}", x' for code in codes],
        "mixed": lambda codes: [str(code) if code % 5 else f"x{code}" for code in codes],
    }[form]
    return pd.DataFrame(
        {
            "user": names(user),
            "item": names(item),
            "stars": draw.integers(1, 6, rows) / 1.0,
            "time": draw.integers(0, 30, rows) if rows % 2 else draw.integers(0, 30, rows) / 4,
        }
    )


def write(frame: pd.DataFrame, folder: Path, parts: int) -> None:
    """Write a table as CSV and Parquet files in turn."""
    folder.mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(frame)), parts)):
        some = frame.iloc[part]
        if number % 2:
            # Numbers are written as texts, so that the parts are of one type.
            as_text = some.assign(user=some["user"].astype(str), item=some["item"].astype(str))
            pq.write_table(pa.Table.from_pandas(as_text, preserve_index=False), folder / f"{number:02}.parquet")
        else:
            some.to_csv(folder / f"{number:02}.csv", index=False)


FORMS = ("numbers", "negative", "long", "zeros", "floats", "texts", "mixed")


@settings(
    max_examples=12,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(60, 700),
    parts=st.integers(1, 5),
    form=st.sampled_from(FORMS),
    method=st.sampled_from(["strong", "random", "last-out", "temporal"]),
    min_rating=st.sampled_from([None, 1, 3, 5]),
    least=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    k_core=st.booleans(),
    size=st.sampled_from([1, 13, 1 << 20]),
)
def test_both_ways_write_the_same_bytes(
    tmp_path_factory, monkeypatch, seed, rows, parts, form, method, min_rating, least, k_core, size
):
    folder = tmp_path_factory.mktemp("large")
    write(table(np.random.default_rng(seed), rows, 40, 30, form), folder / "clicks", parts)
    with monkeypatch.context() as patch:
        patch.setattr("data_prep.readers._ROWS", 50)
        patch.setattr("data_prep.separated._PIECE", 1000)
        patch.setattr("data_prep.large.engine._BATCH", 2048)
        patch.setattr("data_prep.large.prepare._CLICKS", size)
        options = {"min_rating": min_rating, "min_items_per_user": least[0], "min_users_per_item": least[1]}
        try:
            both(folder, folder / "clicks", **RATED, **options, k_core=k_core, split=method, seed=seed % 1000)
        except DataError as error:
            assert any(part in str(error) for part in ("leaves", "too few", "too little"))  # noqa: PT017 - none is fine


def test_order_of_users_is_of_those_that_are_left(tmp_path):
    """A user whose id is no number, and who is filtered out, does not make the order of the others one of texts."""
    users = [str(n) for n in (9, 10, 100, 2, 30, -4, 7, 8) for _ in range(8)] + ["x"]
    items = [str(n) for _ in range(8) for n in range(8)] + ["0"]
    pd.DataFrame({"user": users, "item": items}).to_csv(tmp_path / "clicks.csv", index=False)
    both(tmp_path, tmp_path / "clicks.csv", **COLUMNS, held_out_users=1)
    data = Dataset.load(tmp_path / "way-1")
    train = [int(user) for user in data.user_ids("train")]
    assert train == sorted(train)
    assert data.name == "clicks"


def test_titles_and_attributes(tmp_path):
    write(table(np.random.default_rng(3), 900, 40, 30, "floats"), tmp_path / "clicks", 3)
    (tmp_path / "titles.csv").write_text("id,title,genres\n3,Three,War|Sea\n4,Four,\n999,None,War\n")
    (tmp_path / "people.csv").write_text("user,side\n5,A\n6,B\n999,C\n")
    files = {"titles": tmp_path / "titles.csv", "user_tags": tmp_path / "people.csv"}
    found = both(tmp_path, f"{tmp_path}/clicks/*", **COLUMNS, **files)
    assert {"item_tags.csv", "user_tags.csv"} <= set(found)
    assert b"Three" in found["items.csv"]
    for option, text in (("titles", "id,title\nx,y\n"), ("user_tags", "user,side\nx,A\n")):
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(DataError, match="names none of the"):
            both(tmp_path, tmp_path / "clicks", **COLUMNS, **{option: tmp_path / "other.csv"})


def test_errors_are_those_of_the_other_way(tmp_path):
    write(table(np.random.default_rng(3), 300, 40, 30, "texts"), tmp_path / "clicks", 2)
    for options, said in (
        ({"min_rating": 9}, "rating at least 9' leaves nothing"),
        ({"min_items_per_user": 500}, "at least 500 items per user' leaves nothing"),
        ({"min_users_per_item": 500}, "at least 500 users per item' leaves nothing"),
        ({"min_users_per_item": 99, "k_core": True}, "repeated to a core' leaves nothing"),
        ({"held_out_users": 30}, "too few to hold out 30"),
        ({"split": "strng"}, "Did you mean 'strong'"),
        ({"held_out_share": 2}, "must lie between 0 and 1"),
        ({"split": "random", "held_out_users": 3}, "belongs to the strong split"),
        ({"split": "temporal", "time_column": None}, "needs times"),
        ({"user_column": "usr"}, "Did you mean 'user'"),
        ({"user_column": None}, "the data have user, item, stars, time"),
        ({"rating_column": None, "min_rating": 3}, "needs the column of the ratings"),
        ({"name": " "}, "cannot be used"),
    ):
        with pytest.raises(InputError, match=said):
            both(tmp_path, tmp_path / "clicks", **{**RATED, **options})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clicks"]


def test_what_limited_memory_cannot_do_is_a_sentence(tmp_path, capfd):
    write(table(np.random.default_rng(3), 300, 40, 30, "texts"), tmp_path / "clicks", 2)
    for source, said in (("-", "Standard input is read into memory"), ("ml-1m", "ml-1m fits into memory")):
        with pytest.raises(InputError, match=said):
            prepare_large(source, tmp_path / "out", memory="1GB", **COLUMNS)
    for memory, said in (("much", "is no amount"), ("3MB", "256 MiB are needed"), ("-1GB", "is no amount")):
        with pytest.raises(InputError, match=said):
            prepare_large(tmp_path / "clicks", tmp_path / "out", memory=memory, **COLUMNS)
    with pytest.raises(InputError, match=r"There is no folder .*nowhere for temporary files"):
        prepare_large(tmp_path / "clicks", tmp_path / "out", memory="1GB", temp=tmp_path / "nowhere", **COLUMNS)
    for more, said in (
        (["--ratings", "--memory", "1GB"], "--memory and --ratings do not go together"),
        (["--temp", tmp_path], "--temp belongs to --memory"),
    ):
        command = ["prepare", tmp_path / "clicks", "--user-column", "user", "--item-column", "item", *more]
        assert main([*map(str, command), "--out", str(tmp_path / "out")]) == 2
        assert said in " ".join(capfd.readouterr().err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clicks"]


def test_amounts_of_memory():
    given = {"2GB": 2 * 10**9, "1.5 GiB": 3 << 29, "800mb": 8 * 10**8, "300000000": 3 * 10**8, "1T": 10**12}
    assert {text: bytes_of(text) for text in given} == given


def test_the_command_line_and_another_folder_for_temporary_files(tmp_path, capfd):
    write(table(np.random.default_rng(3), 900, 40, 30, "texts"), tmp_path / "clicks", 3)
    (tmp_path / "temp").mkdir()
    command = ["prepare", tmp_path / "clicks", "--user-column", "user", "--item-column", "item", "--out"]
    more = ["--memory", "300MB", "--temp", tmp_path / "temp"]
    documents = []
    for out, options in (("one", []), ("other", more)):
        assert main([str(part) for part in (*command, tmp_path / out, *options, "--json")]) == 0
        printed = capfd.readouterr()
        documents.append(json.loads(printed.out)["dataset"])
    assert documents[0] == documents[1]
    assert "sort the clicks ..." in printed.err
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    assert not list((tmp_path / "temp").iterdir())


FULL = """
import resource, signal, sys
from data_prep import prepare_large
from recvae.errors import WorkError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    prepare_large(sys.argv[1], sys.argv[2], memory="256MiB", user_column="user", item_column="item")
except WorkError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
@pytest.mark.parametrize("limit", [20_000, 700_000])
def test_a_disk_that_is_too_small_is_a_sentence_and_nothing_stays(tmp_path, limit):
    write(table(np.random.default_rng(3), 120_000, 9000, 3000, "texts"), tmp_path / "clicks", 2)
    command = [sys.executable, "-c", FULL, str(tmp_path / "clicks"), str(tmp_path / "out"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert "cannot be written" in done.stdout or "Cannot write" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["clicks"]


def test_an_interrupted_sort_leaves_nothing(tmp_path, monkeypatch):
    write(table(np.random.default_rng(3), 900, 40, 30, "texts"), tmp_path / "clicks", 2)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("data_prep.large.prepare.filtered", stop)
    for temp in (None, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            prepare_large(tmp_path / "clicks", tmp_path / "out", memory="256MiB", temp=temp, **COLUMNS)
        assert [path.name for path in tmp_path.iterdir()] == ["clicks"]


def test_temporary_files_of_a_killed_process_are_removed_by_the_next(tmp_path):
    write(table(np.random.default_rng(3), 900, 40, 30, "texts"), tmp_path / "clicks", 2)
    (tmp_path / "temp").mkdir()
    code = (
        "import os, sys, data_prep.large.prepare as p;"
        "p.filtered = lambda *_: os._exit(9);"
        "p.prepare_large(sys.argv[1], sys.argv[2], memory='256MiB', temp=sys.argv[3], user_column='user',"
        " item_column='item')"
    )
    arguments = [str(tmp_path / name) for name in ("clicks", "out", "temp")]
    subprocess.run([sys.executable, "-c", code, *arguments], timeout=120, check=False)
    assert len(list((tmp_path / "temp").iterdir())) == 1
    prepare_large(arguments[0], arguments[1], memory="256MiB", temp=arguments[2], **COLUMNS)
    assert not list((tmp_path / "temp").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clicks", "out", "temp"]


def test_too_little_memory_is_a_sentence(tmp_path, monkeypatch):
    import duckdb

    from data_prep.large import engine

    for error in (
        duckdb.OutOfMemoryException("could not allocate block of size 256.0 KiB"),
        OSError(errno.ENOSPC, "x"),
    ):
        with pytest.raises(WorkError, match="with --temp") as raised, engine._failures():
            raise error
        assert "\n" not in str(raised.value)
    with pytest.raises(duckdb.ParserException), engine._failures():
        raise duckdb.ParserException("a mistake of ours")
    monkeypatch.setitem(sys.modules, "duckdb", None)
    write(table(np.random.default_rng(3), 900, 40, 30, "texts"), tmp_path / "clicks", 2)
    with pytest.raises(InputError, match=r"pip install 'recvae\[large\]'"):
        prepare_large(tmp_path / "clicks", tmp_path / "out", memory="256MiB", **COLUMNS)


def test_columns_of_64_bits_are_those_of_numpy(tmp_path, monkeypatch):
    monkeypatch.setattr(written, "index_type", lambda *_: np.int64)
    with written.Matrices(tmp_path) as made:
        made.begin(9)
        for name in made.counts:
            made.add(name, 3, np.array([0, 0, 2]), np.array([8, 1, 3], np.int32))
            made.add(name, 1, np.array([0]), np.array([5], np.int32))
    np.save(tmp_path / "expected.npy", np.array([1, 8, 3, 5]))
    assert (tmp_path / "train.indices.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    assert np.load(tmp_path / "train.indptr.npy").tolist() == [0, 2, 2, 3, 4]
    assert not list(tmp_path.glob("*.wide"))
