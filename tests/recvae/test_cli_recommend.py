"""recommend and similar: items by id and title, histories in files, lists as files."""

import csv
import json
import os
import subprocess
from importlib import import_module
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import checkerboard

from recvae.cli.items import find_item, plain_title, suggestion
from recvae.cli.wording import ordinal
from recvae.errors import InputError, did_you_mean
from recvae.recommender import load
from recvae.training.vocabulary import Vocabulary

TITLES = ("Matrix, The (1999)", "Toy Story (1995)", "Toy Story 2 (1999)", "Twin", "Twin", "", "Boot, Das (1981)")


def catalogue():
    ids = [f"{i:02}" for i in range(len(TITLES))]
    return SimpleNamespace(items=Vocabulary(ids, TITLES))


@pytest.mark.parametrize(
    ("asked", "column"),
    [
        ("01", 1),
        ("Toy Story (1995)", 1),
        ("toy story (1995)", 1),
        ("toy story", 1),
        ("TOY STORY 2", 2),
        ("the matrix", 0),
        ("Matrix, The", 0),
        ("matr", 0),
        ("story 2", 2),
        ("das boot", 6),
        ("1", None),
        ("nothing like it", None),
        ("", None),
        ("  ", None),
    ],
)
def test_an_item_is_found_by_what_people_call_it(asked, column):
    assert find_item(catalogue(), asked) == column


@pytest.mark.parametrize(("asked", "candidate"), [("twin", "'Twin' (id 04)"), ("toy", "'Toy Story 2 (1999)' (id 02)")])
def test_what_could_be_several_items_names_them(asked, candidate):
    with pytest.raises(InputError, match="could be") as caught:
        find_item(catalogue(), asked)
    assert candidate in str(caught.value)


def test_plain_title():
    assert plain_title("Matrix, The (1999)") == "the matrix"
    assert plain_title("2001") == "2001"


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("teh matirx", "Matrix, The (1999)"),
        ("THE MATRIXX", "Matrix, The (1999)"),
        ("matrixes (2003)", "Matrix, The (1999)"),
        ("Toy Stroy", "Toy Story (1995)"),
        ("a toy stori 2 (1998)", "Toy Story 2 (1999)"),
        ("boat", "Boot, Das (1981)"),
    ],
)
def test_a_hint_ignores_case_year_and_article(asked, hint):
    model = catalogue()
    assert find_item(model, asked) is None
    assert suggestion(model, asked) == f" Did you mean '{hint}'?"


@pytest.mark.parametrize("asked", ["1", "010", "2", "1999", "12-3", ""])
def test_a_number_is_never_the_answer_to_a_number(asked):
    assert suggestion(catalogue(), asked) == ""
    assert did_you_mean(asked, ["01", "02", "1998", "12-4"]) == ""


def test_similar_answers_for_every_item(cli, ease):
    one = [cli("similar", ease, "--item", item, "-k", 3, "--json").json for item in ("002", "000")]
    both = cli("similar", ease, "--item", "toy story (1995)", "--item", "000", "-k", 3, "--json")
    assert both.json == {"items": one, "unknown_items": []}
    text = cli("similar", ease, "--item", "toy story (1995)", "--item", "the matrix", "-k", 3)
    assert text.out.index("Most like Toy Story (1995):") < text.out.index("Most like Matrix, The (1999):")
    some = cli("similar", ease, "--item", "nowhere", "--item", "000", "-k", 3)
    assert some.status == 0
    assert "Warning: This item is not in the model's catalogue: 'nowhere'." in some.err
    none = cli("similar", ease, "--item", "nowhere", "--item", "999")
    assert none.status == 2
    assert none.err.count("\n") == 1


def lists(answer):
    return [user["items"] for user in answer.json["users"]]


def test_items_on_the_command_line(cli, ease):
    answer = cli("recommend", ease, "--item", "toy story", "--item", "006", "-k", 5, "--json")
    assert answer.status == 0
    model = load(ease)
    expected, _ = model.recommend_ids([["002", "006"]], 5)
    (rows,) = lists(answer)
    assert [row["item_id"] for row in rows] == expected[0]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(set(row) == {"rank", "item_id", "title", "score"} for row in rows)
    assert all(int(row["item_id"]) % 2 == 0 for row in rows[:3])  # the taste of those who like even items
    text = cli("recommend", ease, "--item", "toy story", "--item", "006", "-k", 3)
    assert "For you, after Twin (1990), Toy Story (1995):" in text.out
    assert rows[0]["title"] in text.out


def test_include_seen(cli, ease):
    with_seen = cli("recommend", ease, "--item", "002", "-k", 40, "--include-seen", "--json")
    assert len(lists(with_seen)[0]) == 40
    assert len(lists(cli("recommend", ease, "--item", "002", "-k", 40, "--json"))[0]) == 39


def test_titles_with_brackets_are_no_markup(cli, ease):
    answer = cli("recommend", ease, "--item", "001", "-k", 40)
    assert 'after Say "Hello", [twice] (2001):' in answer.out


def test_unknown_items_are_named_and_skipped(cli, ease):
    answer = cli("recommend", ease, "--item", "002", "--item", "Toy Tory", "--item", "zebra", "--json")
    assert answer.status == 0
    assert answer.json["unknown_items"] == ["Toy Tory", "zebra"]
    assert "Warning: These 2 items are not in the model's catalogue: 'Toy Tory', 'zebra'." in answer.err
    assert "Did you mean 'Toy Story" in answer.err
    only = cli("recommend", ease, "--item", "zebra")
    assert only.status == 2
    assert "This item is not in the model's catalogue: 'zebra'." in only.err


@pytest.fixture
def histories(tmp_path):
    """Four users: one even, one odd with a double click, one with an unknown item only, one with both."""
    file = tmp_path / "histories.csv"
    pairs = [("even", "000"), ("odd", "001"), ("odd", "001"), ("odd", "003"), ("lost", "999"), ("both", "008")]
    pairs += [("both", "998"), ("even", "002")]
    file.write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in pairs))
    return file


def test_histories_from_csv(cli, ease, histories):
    answer = cli("recommend", ease, "--histories", histories, "-k", 4, "--json")
    assert answer.status == 0
    model = load(ease)
    expected, _ = model.recommend_ids([["000", "002"], ["001", "003"], [], ["008"]], 4)
    assert [user["user"] for user in answer.json["users"]] == ["even", "odd", "lost", "both"]
    assert [[row["item_id"] for row in rows] for rows in lists(answer)] == expected
    assert answer.json["unknown_items"] == ["999", "998"]
    text = cli("recommend", ease, "--histories", histories, "-k", 4)
    assert "For user even, after Matrix, The (1999), Toy Story (1995):" in text.out
    assert "For user lost, who has no known item" in text.out
    assert "1 more user is not shown" in text.out


def test_histories_from_standard_input(cli, ease, histories, tmp_path):
    plain = cli("recommend", ease, "--histories", histories, "--json").json
    before = os.dup(0)
    try:
        with subprocess.Popen(["gzip", "-c", histories], stdout=subprocess.PIPE) as packed:
            os.dup2(packed.stdout.fileno(), 0)
            assert cli("recommend", ease, "--histories", "-", "--json").json == plain
    finally:
        os.dup2(before, 0)
        os.close(before)


def test_histories_from_parquet_with_other_names(cli, ease, tmp_path):
    file = tmp_path / "h.parquet"
    pq.write_table(pa.table({"who": ["a", "b"], "what": ["000", "001"]}), file)
    answer = cli(
        "recommend", ease, "--histories", file, "--user-column", "who", "--item-column", "what", "-k", 1, "--json"
    )
    assert len(lists(answer)) == 2


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_lists_as_files(cli, ease, histories, tmp_path, suffix):
    out = tmp_path / f"lists.{suffix}"
    command = ("recommend", ease, "--histories", histories, "-k", 39, "--out", out)
    document = cli(*command, "--json").json
    if suffix == "csv":
        with out.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    elif suffix == "parquet":
        rows = pq.read_table(out).to_pylist()
    else:
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert list(rows[0]) == ["user", "rank", "item_id", "title", "score"]
    assert document == {"file": str(out), "users": 4, "rows": len(rows), "unknown_items": ["999", "998"]}
    assert len(rows) == 38 + 38 + 39 + 39  # what is seen is left out, and the padding with it
    assert [str(row["rank"]) for row in rows[:38]] == [str(rank) for rank in range(1, 39)]
    assert {row["user"] for row in rows} == {"even", "odd", "lost", "both"}
    assert 'Say "Hello", [twice] (2001)' in {row["title"] for row in rows}
    refused = cli(*command)
    assert refused.status == 2
    assert f"{out} exists already" in refused.err
    assert cli(*command, "--overwrite").status == 0


def test_many_users_go_in_blocks(cli, ease, tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("recvae.cli.recommend"), "_BLOCK", 7)
    file = tmp_path / "h.csv"
    clicks = checkerboard(users=30, seed=5).tocoo()
    pairs = zip(clicks.row, clicks.col, strict=True)
    file.write_text("user,item\n" + "".join(f"{user},{item:03}\n" for user, item in pairs))
    answer = cli("recommend", ease, "--histories", file, "-k", 3, "--json")
    monkeypatch.undo()
    assert answer.json == cli("recommend", ease, "--histories", file, "-k", 3, "--json").json


def test_similar(cli, recvae_run):
    answer = cli("similar", recvae_run, "--item", "the matrix", "-k", 4, "--json")
    assert answer.json["item"] == {"item_id": "000", "title": "Matrix, The (1999)"}
    assert len(answer.json["similar"]) == 4
    assert "000" not in [row["item_id"] for row in answer.json["similar"]]
    text = cli("similar", recvae_run, "--item", "000", "-k", 4)
    assert "Most like Matrix, The (1999):" in text.out
    assert cli("similar", recvae_run, "--item", "000", "-k", 4, "--quiet").out in text.out


def test_a_list_longer_than_any_catalogue_is_the_catalogue(cli, ease):
    answer = cli("recommend", ease, "--item", load(ease).items.ids[0], "-k", "2000000000", "--include-seen", "--json")
    assert answer.status == 0
    assert len(answer.json["users"][0]["items"]) == load(ease).n_items


@pytest.mark.parametrize(
    ("number", "text"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (13, "13th"), (21, "21st"),
     (101, "101st"), (111, "111th"), (1_021, "1,021st"), (20_112, "20,112th")],
)  # fmt: skip
def test_ordinals(number, text):
    assert ordinal(number) == text


def test_reasons_of_items_on_the_command_line(cli, ease, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    command = ("recommend", ease, "--item", "toy story", "--item", "006", "-k", 3)
    rows = lists(cli(*command, "--reasons", 2, "--json"))[0]
    plain = lists(cli(*command, "--json"))[0]
    assert [{key: row[key] for key in plain[0]} for row in rows] == plain
    model = load(ease)
    (named,) = model.recommend(model.encode([["002", "006"]])[0], 3, reasons=2).named(model.items.ids)
    for row, (item, score, rank, because) in zip(rows, named, strict=True):
        assert (row["item_id"], row["score"], row["rank_by_score"]) == (item, round(score, 6), rank)
        assert [(r["item_id"], r["score"], r["rank"]) for r in row["reasons"]] == [
            (name, round(without, 6), place) for name, without, place in because
        ]
    assert rows[0]["reasons"], "a linear model's first item has a reason"
    first = rows[0]["reasons"][0]
    text = cli(*command, "--reasons", 2).out
    assert f"because of {first['title']}: 1st with it, {ordinal(first['rank'])} without" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "because of" not in cli(*command).out


def test_reasons_there_are_not(cli, dataset, ease, tmp_path):
    assert cli("train", dataset, "--model", "popularity", "--out", tmp_path / "run", "--quiet").status == 0
    text = cli("recommend", tmp_path / "run", "--item", "002", "--reasons", 1)
    assert "No item of the history raises any of these" in text.out
    for asked in ("-1", "101"):
        refused = cli("recommend", ease, "--item", "002", "--reasons", asked)
        assert refused.status == 2
        assert f"--reasons must be from 0 to 100, and is {asked}." in refused.err


def test_reasons_as_files(cli, ease, histories, tmp_path, monkeypatch):
    """The files say the same as the document, in CSV in a column for each part of a reason."""
    monkeypatch.setattr(import_module("recvae.cli.recommend"), "_EXPLAINED", 3)
    command = ("recommend", ease, "--histories", histories, "-k", 3, "--reasons", 2)
    expected = [row | {"user": user["user"]} for user in cli(*command, "--json").json["users"] for row in user["items"]]
    outs = {suffix: tmp_path / f"lists.{suffix}" for suffix in ("csv", "parquet", "jsonl")}
    for out in outs.values():
        assert cli(*command, "--out", out).status == 0
    tables = [pq.read_table(outs["parquet"]).to_pylist()]
    tables.append([json.loads(line) for line in outs["jsonl"].read_text(encoding="utf-8").splitlines()])
    for table in tables:
        assert list(table[0]) == ["user", "rank", "item_id", "title", "score", "rank_by_score", "reasons"]
        for row, said in zip(table, expected, strict=True):
            rounded = [reason | {"score": round(reason["score"], 6)} for reason in row["reasons"]]
            assert row | {"score": round(row["score"], 6), "reasons": rounded} == said
    with outs["csv"].open(encoding="utf-8", newline="") as file:
        for row, said in zip(csv.DictReader(file), expected, strict=True):
            assert row["rank_by_score"] == str(said["rank_by_score"])
            for n in range(2):
                parts = [row[f"reason_{n + 1}_{part}"] for part in ("item_id", "title", "score", "rank")]
                if n < len(said["reasons"]):
                    reason = said["reasons"][n]
                    assert parts[:2] == [reason["item_id"], reason["title"]]
                    assert float(parts[2]) == pytest.approx(reason["score"], abs=1e-6)
                    assert parts[3] == str(reason["rank"])
                else:
                    assert parts == ["", "", "", ""]
