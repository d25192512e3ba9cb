import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import Interactions, column_names, read_ids, read_interactions, read_titles, read_user_tags
from data_prep.streams import ByteSource, Separated, Stream
from recvae.errors import DataError, InputError, RecvaeError

NASTY = st.one_of(
    st.sampled_from(
        ["007", "7", " 7", "a b", 'say "hi"', "a,b", "NaN", "None", "null", "-0", "1e3", "'", '"', "é", " "]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=6),
)


def users(data: Interactions) -> list[str]:
    return list(data.user_ids[data.user])


def items(data: Interactions) -> list[str]:
    return list(data.item_ids[data.item])


def write(folder: Path, content: bytes | str, name: str = "x.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def sentence(error: pytest.ExceptionInfo[RecvaeError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith((".", ">", "NEW"))
    return text


def refused(path: Path, **options: object) -> str:
    given = {"user_column": "u", "item_column": "i", "rating_column": "r"} | options
    with pytest.raises(DataError) as error:
        read_interactions(path, **given)  # type: ignore[arg-type]
    text = sentence(error)
    assert str(path) in text
    return text


def test_a_quote_is_found_wherever_it_is(tmp_path):
    """A file without quotes is read line by line, and a quoted id may hold a line break, be it the last of many."""
    lines = "".join(f"{row % 700:012},{row % 90:012}\n" for row in range(220_000))  # several blocks
    for packed in (bytes, gzip.compress):
        plain = read_interactions(write(tmp_path, packed(f"u,i\n{lines}".encode())), "u", "i")
        assert len(plain) == 220_000
        quoted = read_interactions(write(tmp_path, packed(f'u,"i"\n{lines}7,"8\n9,9"\n'.encode())), "u", "i")
        assert users(quoted) == [*users(plain), "7"]
        assert items(quoted) == [*items(plain), "8\n9,9"]


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(NASTY, min_size=1, max_size=20), packed=st.booleans())
def test_any_list_of_ids_comes_back_as_written(ids, packed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    text = "price,item_id\n" + "".join('1,"' + item.replace('"', '""') + '"\n' for item in ids)
    table = write(folder, gzip.compress(text.encode()) if packed else text)
    pd.DataFrame({"item_id": ids}).to_parquet(folder / "x.parquet")
    for path in (table, folder / "x.parquet"):
        assert read_ids(path, "item", "item_id") == list(dict.fromkeys(ids))
    plain = [item for item in ids if item.strip() and not set(item) & set('"\n\r,;|\t:')]
    if plain and plain[0] != "item":  # which is a header
        assert read_ids(write(folder, "\n".join(plain), "lines"), "item") == list(dict.fromkeys(plain))


def test_a_list_of_ids_written_as_floats(tmp_path):
    frame = pd.DataFrame({"item": [1.0, 2.0, 1.0]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    for name in ("x.csv", "x.parquet"):
        assert read_ids(tmp_path / name, "item") == ["1", "2"]
    with pytest.raises(DataError, match=r"x\.parquet has no column 'items'; it has item. Did you mean 'item'\?"):
        read_ids(tmp_path / "x.parquet", "items")


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(NASTY, NASTY, st.integers(-5, 5)), min_size=1, max_size=20), tab=st.booleans())
def test_any_id_comes_back_as_written(rows, tab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ids")
    frame = pd.DataFrame(rows, columns=["u", "i", "r"])
    quoted = [",".join('"' + str(v).replace('"', '""') + '"' for v in row) for row in rows]
    text = "u,i,r\n" + "".join(line + "\n" for line in quoted)
    sources = [write(folder, text), write(folder, gzip.compress(text.encode()), "x.csv.gz"), frame]
    if tab:
        frame.to_parquet(folder / "x.parquet", compression="gzip")
        sources.append(folder / "x.parquet")
    for source in sources:
        data = read_interactions(source, "u", "i", rating_column="r")
        assert users(data) == [row[0] for row in rows]
        assert items(data) == [row[1] for row in rows]
        assert data.rating is not None
        assert data.rating.tolist() == [row[2] for row in rows]
        assert data.user.dtype == data.item.dtype == np.int32
        assert len(set(data.user_ids)) == len(data.user_ids)


@settings(max_examples=60, deadline=None)
@given(
    text=st.text("a:b\n", max_size=60),
    pieces=st.integers(3, 7),  # not shorter than a separator
    separator=st.sampled_from(["::", ":a:", "ab"]),
)
def test_long_separators_are_found_across_pieces(text, pieces, separator):
    stream = Separated(Stream(io.BytesIO(text.encode()), "", None, None), separator, "x")
    out = b""
    while piece := stream.read(pieces):
        assert len(piece) <= pieces
        out += piece
    assert out == text.encode().replace(separator.encode(), b"\x1f")


def test_headerless_and_long_separator(tmp_path):
    path = write(tmp_path, "1::10::5::100\n01::11::3.5::101.5\n", "ratings.dat")
    data = read_interactions(path, "u", "i", rating_column="r", time_column="t", columns=["u", "i", "r", "t"])
    assert users(data) == ["1", "01"]
    assert items(data) == ["10", "11"]
    assert data.rating.tolist() == [5, 3.5]
    assert data.time.tolist() == [100, 101.5]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "::"])
def test_the_separator_is_guessed(tmp_path, separator):
    path = write(tmp_path, separator.join("uir") + "\n" + separator.join("123") + "\n", "x.txt")
    assert column_names(path) == ["u", "i", "r"]
    assert items(read_interactions(path, "u", "i")) == ["2"]


def test_times_are_integers_fractions_or_timestamps(tmp_path):
    path = write(tmp_path, "u,i,t\n1,2,2020-01-01 00:00:01\n1,3,2020-01-01 00:00:02\n")
    assert np.diff(read_interactions(path, "u", "i", time_column="t").time).tolist() == [1_000_000]
    path = write(tmp_path, "u,i,t\n1,2,9007199254740993\n")
    assert read_interactions(path, "u", "i", time_column="t").time.tolist() == [9007199254740993]
    frame = pd.DataFrame({"u": [1], "i": [2], "t": pd.to_datetime(["1970-01-01 00:00:01"])})
    assert read_interactions(frame, "u", "i", time_column="t").time.tolist() == [1_000_000]


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    path = write(tmp_path, "\ufeffu,i,r\r\n1,2,3\r\n4,5,6\r\n")
    assert items(read_interactions(path, "u", "i", rating_column="r")) == ["2", "5"]


def test_progress_reaches_the_total(tmp_path):
    calls = []
    path = write(tmp_path, "u,i\n" + "1,2\n" * 1000)
    read_interactions(path, "u", "i", progress=lambda *call: calls.append(call))
    assert calls[-1] == ("read x.csv", path.stat().st_size, path.stat().st_size)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("u,i,r\n", "no rows"),
        ("u,i,r\n1,2,3\n4,5,abc\n", "row 2 (header not counted): the rating 'abc' in column 'r'"),
        ("u,i,r\n1,2,\n", "row 1 (header not counted): the rating ''"),
        ("u,i,r\n1,2,3\n1,2,nan\n", "row 2"),
        ("u,i,r\n1,2,inf\n", "row 1"),
        ("u,i,r\n1,2,3\n,2,3\n", "row 2 (header not counted): the id in column 'u' is empty"),
        ("u,i,r\n1,2,3\n1,2\n", "row 2 (header not counted): it has 2 fields, and the header has 3"),
        ('u,i,r\n1,"2,3\n1,2,3\n', "row 1"),
        ("user,i,r\n1,2,3\n", "has no column 'u'; it has user, i, r"),
        ("u;i;r\n1;2;3\n", None),
        ("u,i,u,r\n1,2,3,4\n", "2 columns named 'u'"),
        (b"u,i,r\n1,2,3\n1,\xe9,2\n", "not UTF-8 text (column 'i', row 2)"),
        (b"u,i,r,\xe9\n1,2,3,4\n", "not UTF-8 text (in the header)"),
        ("u,i,r\n1,2,3\n".encode("utf-16"), "UTF-16"),
        (b"PK\x03\x04 and more", "zip archive"),
        (b"PAR1 and no more", "truncated or damaged Parquet"),
        (gzip.compress(b"u,i,r\n" + bytes(range(48, 58)) * 500, mtime=0)[:-12], "truncated or damaged"),
    ],
)
def test_bad_files_get_a_sentence(tmp_path, content, part):
    path = write(tmp_path, content)
    if part is None:  # not an error: the separator is seen
        assert len(read_interactions(path, "u", "i", rating_column="r")) == 1
    else:
        assert part in refused(path)


def test_the_row_is_right_in_a_long_file(tmp_path):
    lines = [f"{n},{n * 7},1" for n in range(400_000)]
    lines[399_990] = "1,2,bad"
    path = write(tmp_path, "u,i,r\n" + "\n".join(lines))
    assert "row 399,991 " in refused(path)
    lines[399_990] = "1,,1"
    assert "row 399,991 " in refused(write(tmp_path, "u,i,r\n" + "\n".join(lines)))


def test_bad_options_get_a_sentence(tmp_path):
    path = write(tmp_path, "1,2,3\n")
    assert "has 3 fields, and 2 columns are named" in refused(path, rating_column=None, columns=["u", "i"])
    assert "separator" in refused(write(tmp_path, "u;i;r\n1;2;3\n"), separator=",")
    with pytest.raises(InputError, match="two purposes"):
        read_interactions(path, "u", "u", columns=["u", "i", "r"])
    with pytest.raises(InputError, match=r"There is no file .*nope\.csv"):
        read_interactions(tmp_path / "nope.csv", "u", "i")
    with pytest.raises(InputError, match="is a folder"):
        read_interactions(tmp_path, "u", "i")
    with pytest.raises(InputError, match="cannot be used"):
        read_interactions(path, "u", "i", separator='"')
    with pytest.raises(DataError, match=r"0x1F"):
        read_interactions(write(tmp_path, "u::i\n1::\x1f\n"), "u", "i")
    with pytest.raises(InputError, match="not a list"):
        read_interactions([1, 2], "u", "i")  # type: ignore[arg-type]


def test_frames():
    frame = pd.DataFrame({"u": pd.Categorical([3, 1, 3]), "i": ["a", 7, "007"], "r": [1, 2, 3.5]})
    data = read_interactions(frame, "u", "i", rating_column="r")
    assert users(data) == ["3", "1", "3"]
    assert items(data) == ["a", "7", "007"]
    table = pa.table({"u": [1.0, 2.0], "i": pa.array(["x", "x"]).dictionary_encode()})
    assert users(read_interactions(table, "u", "i")) == ["1", "2"]
    assert column_names(table) == ["u", "i"]
    assert users(read_interactions(pd.DataFrame([[5, 6]]), "0", "1")) == ["5"]


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        ({"u": [1, None], "i": [1, 2]}, "row 2 (header not counted): the id in column 'u' is missing"),
        ({"u": ["a", ""], "i": [1, 2]}, "row 2 (header not counted): the id in column 'u' is empty"),
        ({"u": [1.0, 2.5], "i": [1, 2]}, "id 2.5 in column 'u' is not whole"),
        ({"u": [1.0, float("inf")], "i": [1, 2]}, "id inf in column 'u' is not whole"),
        ({"u": [[1]], "i": [1]}, "ids must be text or whole numbers"),
        ({"u": [1, 2], "i": [1, 2], "r": [1.0, None]}, "row 2 (header not counted): the rating in column 'r'"),
        ({"u": [1, 2], "i": [1, 2], "r": ["1", "x"]}, "rating 'x'"),
        ({"u": [1, 2], "i": [1, 2], "t": [1.0, float("inf")]}, "the time in column 't'"),
        ({"u": [], "i": []}, "no rows"),
        ({"a": [1], "i": [2]}, "has no column 'u'; it has a, i"),
    ],
)
def test_bad_frames_get_a_sentence(columns, part):
    options = {"rating_column": "r"} if "r" in columns else {"time_column": "t"} if "t" in columns else {}
    with pytest.raises(DataError) as error:
        read_interactions(pd.DataFrame(columns), "u", "i", **options)
    assert part in sentence(error)


def everywhere(folder: Path, ids: list[object], text: str) -> list[list[str]]:
    """A column's user ids as read from CSV, packed CSV, Parquet, pandas and Arrow."""
    frame = pd.DataFrame({"u": ids, "i": range(len(ids))})
    frame.to_parquet(folder / "x.parquet")
    path = write(folder, "u,i\n" + "".join(f"{line},{n}\n" for n, line in enumerate(text.split())))
    sources = [path, write(folder, gzip.compress(path.read_bytes()), "x.csv.gz"), folder / "x.parquet", frame]
    return [users(read_interactions(source, "u", "i")) for source in (*sources, pa.Table.from_pandas(frame))]


@pytest.mark.parametrize(
    ("ids", "text", "read"),
    [
        ([1.0, 2.0, 10.0], "1.0 2.0 10.0", ["1", "2", "10"]),
        ([1, 2, 10], "1 2 10", ["1", "2", "10"]),
        ([-3.0, 0.0], "-3.0 0.0", ["-3", "0"]),
        (["1.0", "2.0"], "1.0 2.0", ["1", "2"]),
        (["1.0", "1.5"], "1.0 1.5", ["1.0", "1.5"]),  # versions: text that stays as it is
        (["1.0", "1"], "1.0 1", ["1.0", "1"]),
        (["01.0", "1.0"], "01.0 1.0", ["01.0", "1.0"]),
        ([2.0**53 - 1], "9007199254740991.0", ["9007199254740991"]),
        (["9007199254740993.0"], "9007199254740993.0", ["9007199254740993"]),  # text is never rounded
    ],
)
def test_an_id_is_the_same_from_text_parquet_and_frames(tmp_path, ids, text, read):
    assert everywhere(tmp_path, ids, text) == [read] * 5


def test_titles_and_attributes_follow_the_rule_of_ids(tmp_path):
    found = read_titles(write(tmp_path, "id,title,tags\n1.0,A,x|y\n2.0,B,\n"))
    assert (found.titles, found.tags) == ({"1": "A", "2": "B"}, {"1": ("x", "y")})
    assert read_titles(write(tmp_path, "id,title\n1.0,A\nv2,B\n")).titles == {"1.0": "A", "v2": "B"}
    assert read_user_tags(write(tmp_path, "user,age\n1.0,7\n2.0,8\n")) == {"1": {"age": "7"}, "2": {"age": "8"}}


@pytest.mark.parametrize(
    ("values", "row"),
    [
        (np.array([1.0, 2.0**53]), 2),
        (np.array([2.0**53 + 1, 2.0**53, 1]), 1),  # two users that have become one
        (np.array([1.0, 3, -(2.0**60)]), 3),
        (np.array([5, 2**24], dtype=np.float32), 2),
        (np.array([5, 2**11], dtype=np.float16), 2),
    ],
)
def test_floats_that_stand_for_several_ids_are_refused(tmp_path, values, row):
    table = pa.table({"u": values, "i": np.arange(len(values))})
    for source in (table, table.to_pandas()):
        with pytest.raises(DataError) as error:
            read_interactions(source, "u", "i")
        assert f"row {row} (header not counted): the id" in sentence(error)
        assert "different ids" in str(error.value)


def test_times_beyond_what_fits_and_dates_as_text(tmp_path):
    table = {"u": [1, 1], "i": [1, 2], "t": np.array([1, 2**63], dtype=np.uint64)}
    for source in (pd.DataFrame(table), pa.table(table)):
        with pytest.raises(DataError, match=r"row 2 .* the time 9223372036854775808 in column 't' is larger than"):
            read_interactions(source, "u", "i", time_column="t")
    table["t"] = np.array([1, 2**63 - 1], dtype=np.uint64)
    assert read_interactions(pa.table(table), "u", "i", time_column="t").time.tolist() == [1, 2**63 - 1]
    for dates in (["2020-01-31", "2020-02-01"], ["2020-01-31 10:20:30", "2020-02-01"], ["2020-01-31T10:20:30Z"] * 2):
        text = write(tmp_path, "u,i,t\n" + "".join(f"1,{n},{date}\n" for n, date in enumerate(dates)))
        frame = pd.DataFrame({"u": [1, 1], "i": [0, 1], "t": dates})
        read = [read_interactions(source, "u", "i", time_column="t").time for source in (text, frame)]
        assert read[0].tolist() == read[1].tolist()
        assert read[0].dtype == np.int64
    forms = "is not a time: times are numbers, or dates such as 2020-01-31, 2020-01-31 10:20:30 or 2020-01-31T10:20:30Z"
    path = write(tmp_path, "u,i,t\n1,2,31.01.2020\n")
    for source in (path, pd.read_csv(path)):
        with pytest.raises(DataError) as error:
            read_interactions(source, "u", "i", time_column="t")
        assert f"row 1 (header not counted): the time '31.01.2020' in column 't' {forms}" in sentence(error)


def test_ids_that_no_arrow_column_holds():
    frame = pd.DataFrame({"u": pd.Series([2**70, 1], dtype=object), "i": [1, 2]})
    assert users(read_interactions(frame, "u", "i")) == [str(2**70), "1"]
    for texts in (["a\ud800", "b"], ["a\ud800", 7]):
        frame = pd.DataFrame({"u": pd.Series(texts, dtype=object), "i": [1, 2]})
        with pytest.raises(DataError, match="holds text that is not valid Unicode"):
            read_interactions(frame, "u", "i")


def test_parquet(tmp_path):
    frame = pd.DataFrame({"u": [1, 2], "i": ["a", "b"], "r": [1, 2]})
    frame.to_parquet(tmp_path / "x.parquet")
    assert column_names(tmp_path / "x.parquet") == ["u", "i", "r"]
    content = (tmp_path / "x.parquet").read_bytes()
    zipped = write(tmp_path, gzip.compress(content), "x.parquet.gz")
    assert users(read_interactions(zipped, "u", "i")) == ["1", "2"]
    assert "damaged Parquet" in refused(write(tmp_path, content[:-20], "y.parquet"))
    assert "has no column 'x'" in refused(tmp_path / "x.parquet", user_column="x")


def test_titles(tmp_path):
    path = write(
        tmp_path, 'movieId,title,genres\n1,"Usual Suspects, The (1995)",Crime|Thriller\n02,B,(no genres listed)\n'
    )
    found = read_titles(path)
    assert found.titles == {"1": "Usual Suspects, The (1995)", "02": "B"}
    assert found.tags == {"1": ("Crime", "Thriller")}
    assert read_titles(write(tmp_path, "1::A, the: B::X|Y\n2::C\n", "t.dat")).titles == {"1": "A, the: B", "2": "C"}
    assert read_titles(write(tmp_path, "1\tA\n", "t.tsv")).titles == {"1": "A"}
    assert read_titles(write(tmp_path, gzip.compress(b"id,year,name\n1,1999,A\n"), "t.csv.gz")).titles == {"1": "A"}


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is empty"),
        (b"1,caf\xe9\n", "not UTF-8 text (line 1). Convert it, for example: iconv"),
        (b"1,A\n2\n", "row 2 (header not counted) has 1 fields"),
        (b"title,id\nA,1\n", "first column must be the item id"),
    ],
)
def test_bad_titles_get_a_sentence(tmp_path, content, part):
    with pytest.raises(DataError) as error:
        read_titles(write(tmp_path, content, "titles.csv"))
    assert part in str(error.value)


def test_byte_source_names():
    assert ByteSource(Path("a/ratings.csv.gz")).name == "ratings.csv"
    assert str(ByteSource(Path("a.zip"), "m/r.dat")) == "m/r.dat in a.zip"
