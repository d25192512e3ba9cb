"""Histories, places and options that lists by parts cannot be made with: one sentence each."""

import pyarrow as pa
import pytest
from listed import K, rows, write

import recvae
from recvae.errors import InputError, WorkError
from recvae.serving.lists import users


def text(folder, content, name="part-0.csv"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def cut(folder, keep=0.6):
    write(folder, rows())
    data = (folder / "part-0.parquet").read_bytes()
    (folder / "part-0.parquet").write_bytes(data[: int(len(data) * keep)])
    return folder


def spoiled(folder):
    """Wrong bytes in the first column's pages: the footer is whole."""
    write(folder, rows())
    data = bytearray((folder / "part-0.parquet").read_bytes())
    data[40:160] = b"\xff" * 120
    (folder / "part-0.parquet").write_bytes(bytes(data))
    return folder


BAD = {
    "a truncated part": (cut, r"part-0.parquet is a truncated or damaged Parquet file"),
    "a spoiled part": (spoiled, r"part-0.parquet is a truncated or damaged Parquet file"),
    "another column": (lambda f: write(f, {"user": ["a"], "items": ["1"]}), r"no column 'item'.*Did you mean 'items'"),
    "a CSV without a column": (lambda f: text(f, "user,film\na,1\n"), r"part-0.csv has no column 'item'; it has user"),
    "a ragged CSV": (lambda f: text(f, "user,item\na,1\nb\n"), r"damaged text file .*Expected 2 columns, got 1"),
    "text that is not UTF-8": (lambda f: text(f, "user,item\nä,1\n".encode("latin1")), r"part-0.csv"),
    "a column of numbers with fractions": (lambda f: write(f, {"user": ["a"], "item": [1.5]}), r"part-0.*the id 1.5"),
    "a column of dates": (
        lambda f: write(f, {"user": ["a"], "item": pa.array([0], pa.date32())}),
        r"part-0.parquet: The column 'item' holds date32",
    ),
    "a missing user": (
        lambda f: write(f, {"user": ["a", None], "item": ["002", "002"]}),
        r"part-0.parquet, row 2 .*'user'",
    ),
    "an empty user": (lambda f: text(f, "user,item\n,002\n"), r"part-0.csv: .*user has no id"),
    "a missing item": (
        lambda f: write(f, {"user": ["a", "b"], "item": ["002", None]}),
        r"User 'b' has an item without",
    ),
    "an empty item": (lambda f: text(f, "user,item\na,002\nb,\n"), r"User 'b' has an item without an id"),
    "a missing list": (
        lambda f: write(f, {"user": ["a"], "item": pa.array([None], pa.list_(pa.string()))}),
        r"missing in row 1",
    ),
    "a user with two rows": (
        lambda f: write(f, {"user": ["a", "b", "a"], "item": [["002"]] * 3}),
        r"two rows of the user 'a'",
    ),
    "another catalogue": (
        lambda f: write(f, {"user": ["a"], "item": ["zebra"]}),
        r"names no item that the model knows.*'zebra'",
    ),
    "an empty folder": (lambda f: text(f, "", "_SUCCESS"), r"is an empty folder"),
    "an empty file": (lambda f: text(f, ""), r"part-0.csv is empty"),
    "no rows": (lambda f: text(f, "user,item\n"), r"has no rows"),
    "another file": (lambda f: text(f, "x", "notes.md"), r"notes.md is neither Parquet nor CSV by its name"),
    "a folder in it": (lambda f: (write(f, rows()) / "sub").mkdir() or f, r"sub is a folder"),
    "two parts of one name": (
        lambda f: text(write(f, rows()), "user,item\na,1\n"),
        r"part-0.csv and part-0.parquet would have their lists in files of one name",
    ),
    "nothing": (lambda f: f / "nowhere", r"There is no file or folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_histories(model, tmp_path, name):
    make, sentence = BAD[name]
    source = make(tmp_path / "in")
    with pytest.raises(InputError, match=sentence) as caught:
        recvae.write_lists(model, source, tmp_path / "out", K)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"in"}


def test_a_large_part_must_be_in_order(model, tmp_path, monkeypatch, little):
    monkeypatch.setattr(users, "IN_MEMORY", 20)
    source = write(tmp_path / "in", {"user": ["a", "b"] * 15, "item": ["002", "004"] * 15})
    with pytest.raises(InputError, match=r"rows of the user 'a' are in several places of .*more than 20 rows.*--sort"):
        recvae.write_lists(model, source, tmp_path / "out", K)


def test_places_that_cannot_be_written_to(model, tmp_path):
    source = write(tmp_path / "in", rows())
    with pytest.raises(InputError, match="is read, so it cannot be written"):
        recvae.write_lists(model, source, source, K)
    with pytest.raises(InputError, match=r"is in .*in, which is read"):
        recvae.write_lists(model, source, source / "out", K)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("kept")
    with pytest.raises(InputError, match="exists already"):
        recvae.write_lists(model, source, tmp_path / "other", K)
    with pytest.raises(InputError, match=r"has no _lists.json, so it is not replaced"):
        recvae.write_lists(model, source, tmp_path / "other", K, overwrite=True)
    with pytest.raises(WorkError, match="Cannot write"):
        recvae.write_lists(model, source, tmp_path / "other" / "precious" / "out", K)


def test_options_that_do_not_go_together(model, tmp_path):
    source = write(tmp_path / "in", rows(), suffix="csv")
    for options, sentence in (
        ({"wide": True}, "list columns, which CSV does not have"),
        ({"rating_column": "stars"}, "trained on clicks"),
        ({"condition_columns": ["wish"]}, "has no conditions"),
        ({"deny_tags": ["evn"]}, "Did you mean 'even'"),
        ({"resume": True}, "name its weights with version"),
        ({"k": 0}, "k must be a whole number of at least 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            recvae.write_lists(model, source, tmp_path / "out", **{"k": K, **options})
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
