"""Data that arrive already split: lines and tables, what becomes of every click, and what is refused."""

import gzip
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import Dataset, prepare_given, read_interactions, split_given
from data_prep.dataset import MATRICES, SPLITS
from data_prep.lines import looks_like_lines, read_lines
from recvae.errors import DataError, InputError

COLUMNS = {"user_column": "user", "item_column": "item"}


def clicks_of(dataset, name):
    matrix = dataset.matrix(name).tocoo()
    users = dataset.user_ids(name.split("_")[0])
    return {(users[r], dataset.item_ids[c]) for r, c in zip(matrix.row, matrix.col, strict=True)}


def write(folder: Path, train, test, form: str) -> tuple[Path, Path]:
    """Write clicks, given as lists of (user, item) grouped by user, in one of the two forms."""
    paths = []
    for name, pairs in (("train", train), ("test", test)):
        if form == "lines":
            lines = {}
            for user, item in pairs:
                lines.setdefault(user, []).append(item)
            text = "".join(f"{user} {' '.join(items)}\n" for user, items in lines.items())
        else:
            text = "user,item\n" + "".join(f"{user},{item}\n" for user, item in pairs)
        path = folder / f"{name}.{'txt' if form == 'lines' else 'csv'}"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths[0], paths[1]


def both_forms(folder: Path, train, test, **options) -> tuple[Dataset, Dataset]:
    lines = prepare_given(*write(folder, train, test, "lines"), **options)
    return lines, prepare_given(*write(folder, train, test, "csv"), **COLUMNS, **options)


def same(a: Dataset, b: Dataset) -> bool:
    matrices = all(
        np.array_equal(getattr(a.matrix(name), part), getattr(b.matrix(name), part))
        for name in MATRICES
        for part in ("indptr", "indices", "shape")
    )
    users = all(a.user_ids(name).tolist() == b.user_ids(name).tolist() for name in SPLITS)
    about = all(a.manifest[key] == b.manifest[key] for key in ("dropped", "before_split", "protocol", "counts"))
    return matrices and users and about and a.item_ids.tolist() == b.item_ids.tolist()


ids = st.text("0127aé-_.", min_size=1, max_size=4)
histories = st.dictionaries(ids, st.lists(ids, max_size=14), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(histories, histories, st.sampled_from([0.1, 0.25, 0.5, 0.9]), st.integers(0, 2**32 - 1))
def test_every_click_is_where_it_belongs_whatever_the_form(train, test, share, seed):
    rows, test_rows = ([(u, i) for u, items in part.items() for i in items] for part in (train, test))
    clicks = set(rows)
    to_find = set(test_rows) - clicks
    per_user = {u: len(set(items)) for u, items in train.items()}
    cut = {u: int(share * n) for u, n in per_user.items() if int(share * n)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not rows or not to_find or not cut:
            with pytest.raises(DataError):
                both_forms(folder, rows, test_rows, validation_share=share, seed=seed)
            return
        data, of_table = both_forms(folder, rows, test_rows, validation_share=share, seed=seed)
        assert same(data, of_table)
        data.save(folder / "out")
        data = Dataset.load(folder / "out")
        data.verify()
        assert same(data, of_table)

    train_clicks, shown, hidden = (clicks_of(data, part) for part in ("train", "validation_in", "validation_out"))
    assert train_clicks | hidden == clicks
    assert not train_clicks & hidden
    assert shown == {click for click in train_clicks if click[0] in cut}
    assert {u: sum(click[0] == u for click in hidden) for u in cut} == cut
    assert set(data.user_ids("validation")) == set(cut)
    assert set(data.user_ids("train")) == {u for u, _ in clicks}
    assert clicks_of(data, "test_out") == to_find
    assert set(data.user_ids("test")) == {u for u, _ in to_find}
    assert clicks_of(data, "test_in") == {click for click in clicks if click[0] in {u for u, _ in to_find}}
    assert data.item_ids.tolist() == list(dict.fromkeys([*(i for _, i in rows), *(i for u, i in test_rows)]))
    dropped = data.manifest["dropped"]
    assert dropped["duplicate_clicks"] == len(rows) - len(clicks) + len(test_rows) - len(set(test_rows))
    assert dropped["test_clicks_also_in_training"] == len(set(test_rows) & clicks)
    assert dropped["test_users_left_without_clicks"] == len({u for u, _ in test_rows} - {u for u, _ in to_find})


TRAIN = "7 a b c d\n07 b\n8\n9 c d\n"
TEST = "7 e a\n10 f\n9 a b\n07 b\n"


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    """Items e and f and user 10 only in the test file; 7-a and 07-b in both; 8 without a click."""
    folder = tmp_path / "gowalla"
    folder.mkdir()
    (folder / "train.txt").write_text(TRAIN)
    (folder / "test.txt").write_text(TEST)
    return folder / "train.txt", folder / "test.txt"


def test_the_published_protocol_by_hand(files):
    data = prepare_given(*files, validation_share=0.5)
    assert data.name == "gowalla"
    assert data.item_ids.tolist() == ["a", "b", "c", "d", "e", "f"]
    assert data.user_ids("train").tolist() == ["07", "7", "9"]  # not all are canonical integers, so as texts
    assert data.user_ids("test").tolist() == ["10", "7", "9"]
    assert clicks_of(data, "test_out") == {("7", "e"), ("10", "f"), ("9", "a"), ("9", "b")}
    assert data.test_in.toarray().tolist() == [[0] * 6, [1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0]]  # 10 is a blank history
    assert np.diff(data.validation_out.indptr).tolist() == [2, 1]  # of 4 and 2 clicks; 07's one click stays
    assert data.manifest["protocol"] == {"split": "given", "validation_share": 0.5, "seed": 98765}
    assert data.manifest["before_split"] == {
        **{"users": 4, "items": 6, "clicks": 13},
        **{"users_only_in_test": 1, "items_only_in_test": 2},
    }
    assert data.manifest["dropped"] == {
        **{"rows_below_min_rating": 0, "duplicate_clicks": 0, "clicks_of_rare_items_or_users": 0},
        **{"test_clicks_also_in_training": 2, "test_users_left_without_clicks": 1},
    }
    source = data.manifest["source"]
    assert (source["file"], source["test_file"]) == ("train.txt", "test.txt")
    assert source["sha256"] != source["test_sha256"]


def test_the_seed_draws_the_validation_clicks_and_the_test_file_has_no_say(files):
    folder = files[0].parent
    files[0].write_text("".join(f"{u} {' '.join(f'i{(u * 7 + i * i) % 41}' for i in range(12))}\n" for u in range(30)))
    other = folder / "other.txt"
    other.write_text("x y\n3 z\n")
    one, two = (prepare_given(files[0], test) for test in (files[1], other))
    assert clicks_of(one, "validation_out") == clicks_of(two, "validation_out")
    assert clicks_of(one, "train") == clicks_of(two, "train")
    again = prepare_given(*files, seed=1)
    assert clicks_of(one, "validation_out") != clicks_of(again, "validation_out")
    # the first or the last click of a line is cut off no more often than others
    places = [
        line.split()[1:].index(item)
        for line in files[0].read_text().splitlines()
        for user, item in clicks_of(one, "validation_out") | clicks_of(again, "validation_out")
        if line.split()[0] == user
    ]
    assert len(set(places)) > 5


def test_users_are_merged_and_clicks_collapsed(tmp_path):
    path = tmp_path / "clicks.txt"
    path.write_bytes(b"\xef\xbb\xbf  1 a  b a \r\n\r\n2\r\n1\tb c\r3 \xc3\xa9\xc2\xa0x")
    data = read_lines(path)
    assert [(data.user_ids[u], data.item_ids[i]) for u, i in zip(data.user, data.item, strict=True)] == [
        *(("1", "a"), ("1", "b"), ("1", "a"), ("1", "b"), ("1", "c")),
        ("3", "é\u00a0x"),  # only blanks of ASCII part ids
    ]
    (tmp_path / "test.txt").write_text("1 d d\n1 d\n")
    given = prepare_given(path, tmp_path / "test.txt", validation_share=0.5)
    assert given.name == "clicks"
    assert given.manifest["dropped"]["duplicate_clicks"] == 4
    assert clicks_of(given, "train") | clicks_of(given, "validation_out") == {
        *(("1", "a"), ("1", "b"), ("1", "c")),
        ("3", "é\u00a0x"),
    }


def test_gzip_frames_ratings_and_titles(files, tmp_path):
    packed = [path.with_name(path.name + ".gz") for path in files]
    for path, to in zip(files, packed, strict=True):
        to.write_bytes(gzip.compress(path.read_bytes()))
    data = prepare_given(*files, validation_share=0.5)
    assert prepare_given(*packed, validation_share=0.5).name == "gowalla"
    assert same(data, prepare_given(*packed, validation_share=0.5))

    frames = []
    for path in files:
        pairs = [(line.split()[0], item) for line in path.read_text().splitlines() for item in line.split()[1:]]
        frames.append(pd.DataFrame(pairs, columns=["user", "item"]).assign(stars=5.0))
    low = pd.DataFrame({"user": ["9", "9"], "item": ["zz", "a"], "stars": [1.0, 2.0]})
    titles = tmp_path / "titles.csv"
    titles.write_text("id,title\nf,Only in the test file\n")
    rated = prepare_given(
        *(pd.concat([frame, low]) for frame in frames),
        **COLUMNS,
        rating_column="stars",
        min_rating=4,
        titles=titles,
        validation_share=0.5,
    )
    assert rated.item_titles.tolist() == ["", "", "", "", "", "Only in the test file"]
    assert rated.manifest["dropped"]["rows_below_min_rating"] == 4
    assert rated.manifest["source"]["file"] is None
    assert all((data.matrix(name) != rated.matrix(name)).nnz == 0 for name in MATRICES)
    frames[0].to_parquet(tmp_path / "train.parquet")
    frames[1].to_csv(tmp_path / "test.tsv", sep="\t", index=False)
    assert same(data, prepare_given(tmp_path / "train.parquet", tmp_path / "test.tsv", **COLUMNS, validation_share=0.5))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("0 1 2\n1 4\n", True),
        ("\n\n0\n1 4\n", True),
        ("0\n1\n", False),  # no line holds an item
        ("user,item\n0,1\n", False),
        ("user\titem\n0\t1\n", False),
        ("1::2::5\n", False),
        ("1;2\n", False),
        ("1|2\n", False),
    ],
)
def test_what_looks_like_lines(tmp_path, text, lines):
    (tmp_path / "x").write_text(text)
    assert looks_like_lines(tmp_path / "x") is lines


def files_with(tmp_path, train: str | bytes, test: str | bytes = "1 z\n") -> tuple[Path, Path]:
    for name, content in (("train.txt", train), ("test.txt", test)):
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return tmp_path / "train.txt", tmp_path / "test.txt"


@pytest.mark.parametrize(
    ("train", "test", "options", "said"),
    [
        ("", "1 z\n", {}, "train.txt is empty."),
        ("1 a b\n", "  \n", {}, "test.txt is empty."),
        ("1\n2\n", "1 z\n", {}, "train.txt holds no lines of 'user item item ...'"),
        (b"1 a b\n2 \xff c\n", "1 z\n", {}, "train.txt is not UTF-8 text (line 2)"),
        (b"PK\x03\x04", "1 z\n", {}, "is a zip archive"),
        ("1 a b\n", "1 b\n1 a\n", {"validation_share": 0.5}, "Every click of"),
        ("1 a b\n", "1 z\n", {}, "A validation share of 0.1 takes no click of"),
        ("1 a b\n", "1 z\n", {"validation_share": 1.0}, "validation share must lie between 0 and 1"),
        ("1 a b\n", "1 z\n", {"seed": -1}, "The seed must be"),
        ("1 a b\n", "1 z\n", {"min_rating": 4.0}, "A minimum rating needs a rating column"),
        ("1 a b\n", "1 z\n", {"min_rating": float("inf")}, "The minimum rating must be a number"),
        ("1 a b\n", "1 z\n", {"user_column": "user"}, "which have no columns: leave out the options about columns"),
        ("1 a b\n", "1 z\n", COLUMNS, "which have no columns"),
        ("user,item\n1,a\n", "1 z\n", {}, "name the columns with --user-column and --item-column (it has user, item)"),
        ("user,item\n1,a\n", "1 z\n", {"user_column": "user"}, "--item-column"),
        ("user,item\n1,a\n", "user,thing\n1,a\n", COLUMNS, "test.txt has no column 'item'"),
        ("user,item\n1,a\n", "user,item\n1,\n", COLUMNS, "test.txt, row 1 (header not counted)"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, train, test, options, said):
    with pytest.raises(InputError) as error:
        prepare_given(*files_with(tmp_path, train, test), **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files_and_frames_without_names(tmp_path):
    train, test = files_with(tmp_path, "1 a b\n")
    with pytest.raises(InputError, match="There is no file"):
        prepare_given(train, tmp_path / "none.txt")
    with pytest.raises(InputError, match="is a folder"):
        prepare_given(tmp_path, test)
    with pytest.raises(InputError, match=r"^The data frame holds no lines .* \(it has user, item\)"):
        prepare_given(pd.DataFrame({"user": [1], "item": [2]}), test)


def test_a_table_separated_by_blanks_is_read_when_it_says_so(tmp_path):
    train, test = files_with(tmp_path, "user item\n1 a\n1 b\n2 a\n", "user item\n1 c\n")
    data = prepare_given(train, test, **COLUMNS, separator=" ", validation_share=0.5)
    assert clicks_of(data, "test_out") == {("1", "c")}
    assert data.manifest["counts"]["users"]["train"] == 2


def test_splitting_wants_clicks_without_duplicates(tmp_path):
    train, test = files_with(tmp_path, "user,item\n1,a\n1,b\n1,b\n", "user,item\n1,c\n")
    parts = [read_interactions(path, "user", "item") for path in (train, test)]
    with pytest.raises(DataError, match="collapse duplicates"):
        split_given(*parts, validation_share=0.4)
    with pytest.raises(DataError, match="has no clicks"):
        split_given(parts[1].select(np.zeros(1, bool)), parts[1])
