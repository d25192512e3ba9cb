"""prepare and info: what they say, and the JSON they print."""

import json
import os
from pathlib import Path

import pytest

from data_prep import Dataset

COLUMNS = ("--user-column", "user", "--item-column", "item")


def test_prepare_says_what_was_read_kept_and_split(cli, clicks, titles, tmp_path):
    out = tmp_path / "my data"
    answer = cli("prepare", clicks, *COLUMNS, "--titles", titles, "--held-out-users", 20, "--out", out)
    assert answer.status == 0
    data = Dataset.load(out)
    data.verify()
    assert data.name == "clicks"
    rows = len(clicks.read_text().splitlines()) - 1
    for said in (
        "clicks from clicks.csv",
        f"read        {rows:,} rows",
        f"{data.train.nnz:,} clicks, 160 users, 40 items",
        "validation  20 users",
        "test        20 users",
        f"Written to {out}.",
        f"recvae train '{out}' --model recvae-edlae --out runs/clicks-recvae-edlae",
    ):
        assert said in answer.out
    assert answer.err == "read clicks.csv ...\n"


def test_quiet_prepare_says_nothing_and_json_is_one_document(cli, clicks, tmp_path):
    quiet = cli("prepare", clicks, *COLUMNS, "--out", tmp_path / "a", "--quiet")
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")
    answer = cli("prepare", clicks, *COLUMNS, "--out", tmp_path / "b", "--json")
    assert answer.json["folder"] == str(tmp_path / "b")
    assert answer.json["dataset"]["items"] == 40
    assert answer.err


def test_options_reach_the_manifest(cli, tmp_path):
    file = tmp_path / "ratings.dat"
    file.write_text("".join(f"{u}::{i}::{1 + (u + i) % 5}::{i}\n" for u in range(60) for i in range(20)))
    answer = cli(
        *("prepare", file, "--columns", "who, what,stars,when", "--separator", "::", "--user-column", "who"),
        *("--item-column", "what", "--rating-column", "stars", "--time-column", "when", "--min-rating", 3),
        *("--min-items-per-user", 2, "--min-users-per-item", 3, "--k-core", "--split", "last-out", "--seed", 7),
        *("--out", tmp_path / "d", "--json"),
    )
    assert answer.status == 0, answer.err
    about = answer.json["dataset"]
    assert about["filters"] == {"min_rating": 3.0, "min_items_per_user": 2, "min_users_per_item": 3, "k_core": True}
    assert about["protocol"]["split"] == "last-out"
    assert about["protocol"]["seed"] == 7


def test_a_dataset_can_be_named(cli, clicks, tmp_path):
    answer = cli("prepare", clicks, *COLUMNS, "--name", "Film club 2026", "--out", tmp_path / "d")
    assert answer.status == 0
    assert "'runs/Film club 2026-recvae-edlae'" in answer.out
    assert Dataset.load(tmp_path / "d").name == "Film club 2026"
    for name in ("", " ", "a\nb", "\x1b[31m", "x" * 201):
        answer = cli("prepare", clicks, *COLUMNS, "--name", name, "--out", tmp_path / "e")
        assert answer.status == 2
        assert "cannot be used: at most 200 characters that can be printed" in answer.err


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_a_file_whose_name_is_not_utf8(cli, clicks, tmp_path):
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.csv"))
    try:
        file.write_bytes(clicks.read_bytes())
    except OSError:
        pytest.skip("the file system takes no such name")
    assert cli("prepare", file, *COLUMNS, "--out", tmp_path / "d").status == 0
    data = Dataset.load(tmp_path / "d")
    assert (data.name, data.manifest["source"]["file"]) == ("caf\ufffd", "caf\ufffd.csv")
    answer = cli("prepare", "--train", file, "--test", file, *COLUMNS, "--out", tmp_path / "e")
    assert "is also one of" in answer.err


def warnings(answer) -> list[str]:
    assert answer.status == 0, answer.err
    return [line for line in answer.err.splitlines() if line.startswith("Warning: ")]


def test_what_is_probably_not_meant_is_one_line(cli, tmp_path):
    rows = "".join(f"{u},{i},{1 + (u + i) % 5}\n" for u in range(60) for i in range(20))
    table, bare = tmp_path / "t.csv", tmp_path / "bare.csv"
    table.write_text("user,item,stars\n" + rows)
    bare.write_text(rows)
    place = 0

    def said(file, *more):
        nonlocal place
        place += 1
        return warnings(cli("prepare", file, *COLUMNS, *more, "--out", tmp_path / str(place), "--quiet"))

    assert said(table) == [
        f"Warning: {table} has a column 'stars', which is not used: every row is a click. To keep the clicks of those"
        " who liked the item, add --rating-column stars --min-rating, such as 4."
    ]
    rated = ("--rating-column", "stars")
    (line,) = said(table, *rated)
    assert line.startswith("Warning: The ratings in column 'stars' are not used: every row is a click. To keep")
    assert said(table, *rated, "--min-rating", 4, "--min-items-per-user", 1) == []
    assert said(table, *rated, "--ratings") == []
    named = ("--columns", "user,item,x")
    assert said(bare, *named) == []
    (line,) = said(table, *named)
    assert "t.csv ('user', 'item') looks like a header, and counts as a click" in line
    assert line.endswith("leave --columns out.")
    table.write_text("who,what,x\n" + rows)
    assert "looks like a header" in said(table, *named)[0]
    answer = cli(
        "prepare", table, *COLUMNS, "--columns", "user,item,r", "--rating-column", "r", "--out", tmp_path / "no"
    )
    assert "the rating 'x' in column 'r' is not a number. If it is the header, leave --columns out." in answer.err
    titles = tmp_path / "titles.csv"
    bare.write_text(rows + "60,rare,3\n")
    titles.write_text("rare,A film\n")
    (line,) = said(bare, *named, "--titles", titles, "--min-users-per-item", 2)
    assert line == f"Warning: {titles} has no title for any of the 20 items of the catalogue."


def test_tab_can_be_written_as_a_shell_can(cli, tmp_path):
    file = tmp_path / "clicks.txt"
    file.write_text("user\titem\n" + "".join(f"{u}\t{i}\n" for u in range(30) for i in range(8)))
    assert cli("prepare", file, *COLUMNS, "--separator", "\\t", "--out", tmp_path / "d").status == 0


def test_overwrite_replaces_a_dataset_and_nothing_else(cli, clicks, tmp_path):
    out = tmp_path / "d"
    assert cli("prepare", clicks, *COLUMNS, "--out", out).status == 0
    assert cli("prepare", clicks, *COLUMNS, "--min-items-per-user", 6, "--out", out, "--overwrite").status == 0
    assert json.loads((out / "manifest.json").read_text())["filters"]["min_items_per_user"] == 6
    mine = tmp_path / "photos"
    mine.mkdir()
    (mine / "cat.jpg").write_text("meow")
    answer = cli("prepare", clicks, *COLUMNS, "--out", mine, "--overwrite")
    assert answer.status == 2
    assert "has no manifest.json, so it is not replaced" in answer.err
    assert (mine / "cat.jpg").read_text() == "meow"


def test_info_describes_a_dataset(cli, dataset, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # narrower, the table is another one
    answer = cli("info", dataset, "--verify")
    assert answer.status == 0
    for said in ("clicks / user", "most popular tenth", "split strong", "40 of 40 items have a title", "Verified"):
        assert said in answer.out
    document = cli("info", dataset, "--json").json
    assert document["kind"] == "dataset"
    assert document["dataset"]["splits"]["train"]["users"] == 160


def test_info_describes_a_run(cli, recvae_run):
    answer = cli("info", recvae_run, "--verify")
    assert answer.status == 0
    for said in ("RecVAE, trained on clicks: 40 items", "hidden=16", "3 done, best", "ndcg@5", "torch", "Verified"):
        assert said in answer.out
    document = cli("info", recvae_run, "--json").json
    assert document["kind"] == "run"
    assert document["run"]["model"] == "recvae"
    assert document["bytes"]["model.safetensors"] > 0


@pytest.mark.parametrize("what", ["ml-1m", "recvae", "arXiv 1802.05814", "ml-20m-recvae"])
def test_info_without_a_path_lists_what_there_is(cli, what):
    assert what in cli("info").out
    assert what in json.dumps(cli("info", "--json").json)
