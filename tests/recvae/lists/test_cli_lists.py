"""recommend from and into folders."""

import pytest
from conftest import checkerboard

from recvae.cli import lists
from recvae.cli.lists import duration
from recvae.serving.lists.batch import Lister


@pytest.fixture
def folder(tmp_path):
    """Two parts of users of the catalogue of the fixtures, and a third in text."""
    place = tmp_path / "histories"
    place.mkdir()
    for part in range(3):
        coo = checkerboard(users=8, seed=part).tocoo()
        pairs = zip(coo.row, coo.col, strict=True)
        rows = "".join(f"p{part}u{user},{item:03}\n" for user, item in pairs)
        (place / f"part-{part}.csv").write_text("user,item\n" + rows)
    return place


def command(run, folder, out, *more):
    return ("recommend", run, "--histories", folder, "--out", out, "-k", 4, *more)


def test_a_folder_becomes_a_folder(cli, ease, folder, tmp_path):
    out = tmp_path / "lists"
    answer = cli(*command(ease, folder, out, "--json"))
    assert answer.status == 0, answer.err
    assert answer.json == {
        "folder": str(out), "parts": 3, "parts_kept": 0, "users": 24, "items_listed": 96, "empty_lists": 0,
        "clicks": answer.json["clicks"], "unknown_clicks": 0, "unknown_items": [],
    }  # fmt: skip
    for part in range(3):
        wanted = cli(*command(ease, folder / f"part-{part}.csv", tmp_path / f"{part}.csv"))
        assert wanted.status == 0
        whole = (tmp_path / f"{part}.csv").read_text().splitlines()[1:]
        found = (out / f"part-{part}.csv").read_text().splitlines()[1:]
        for one, other in zip(found, whole, strict=True):
            user, rank, item, _, score = other.rsplit(",", 4) if other.count(",") == 4 else _parts(other)
            assert one.split(",")[:3] == [user, rank, item]
            assert float(one.split(",")[3]) == pytest.approx(float(score), abs=1e-6)
    assert cli(*command(ease, folder, out)).status == 2
    again = cli(*command(ease, folder, out, "--resume"))
    assert again.status == 0
    assert "3 parts had been finished before" in again.out
    text = cli(*command(ease, folder, out, "--overwrite"))
    assert "Wrote 96 items for 24 users to" in text.out


def _parts(line):
    """The five fields of a line whose title has commas."""
    user, rank, item, rest = line.split(",", 3)
    title, score = rest.rsplit(",", 1)
    return user, rank, item, title, score


def test_a_file_into_a_folder_with_rules(cli, ease, folder, tmp_path):
    (tmp_path / "deny.csv").write_text("user,item\np0u0,000\np0u1,001\n")
    (tmp_path / "allow.csv").write_text(
        "user,item\n" + "".join(f"p0u{user},{n:03}\n" for user in range(4) for n in range(40))
    )
    out = tmp_path / "lists"
    rules = (
        "--deny-each",
        tmp_path / "deny.csv",
        "--allow-each",
        tmp_path / "allow.csv",
        "--deny",
        "002",
        "--include-seen",
    )
    answer = cli(*command(ease, folder / "part-0.csv", out, *rules, "--json"))
    assert answer.status == 0, answer.err
    assert "Nothing is listed for 4 users" in answer.err
    assert (answer.json["users"], answer.json["empty_lists"], answer.json["deny"]) == (8, 4, ["002"])
    wanted = cli("recommend", ease, "--histories", folder / "part-0.csv", "-k", 4, *rules, "--json").json["users"]
    rows = [line.replace('"', "").split(",") for line in (out / "part-0.csv").read_text().splitlines()[1:]]
    assert [(user, item) for user, _, item, _ in rows] == [
        (user["user"], row["item_id"]) for user in wanted for row in user["items"]
    ]


def test_ctrl_c_and_on(cli, ease, folder, tmp_path, monkeypatch):
    out = tmp_path / "lists"
    assert cli(*command(ease, folder, tmp_path / "whole", "--threads", 1)).status == 0
    made, count = Lister.coded_lists, [0]

    def counted(*arguments):
        count[0] += 1
        if count[0] == 3:  # the second part's
            raise KeyboardInterrupt
        return made(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Lister, "coded_lists", counted)
        answer = cli(*command(ease, folder, out, "--threads", 1))
    assert answer.status == 130
    assert "go on with --resume" in answer.err
    assert not out.exists()
    refused = cli(*command(ease, folder, out))
    assert refused.status == 2
    assert "Go on with --resume, or begin anew with --overwrite." in refused.err
    assert lists.begun_with(out) == "1"
    assert cli(*command(ease, folder, out, "--resume", "--json")).json["parts_kept"] == 1
    assert (out / "_lists.json").is_file()
    for file in out.iterdir():
        assert file.read_bytes() == (tmp_path / "whole" / file.name).read_bytes()


def test_one_rule_for_folders(cli, ease, folder, tmp_path):
    for arguments, sentence in (
        (("--histories", folder), "is a folder, whose lists are a folder too: name one with --out"),
        (("--histories", folder, "--out", tmp_path / "l.parquet"), "is a folder, whose lists are a folder too"),
        (("--histories", folder / "part-0.csv", "--wide"), "are for lists in a folder: name it with --out DIR"),
        (("--item", "002", "--resume"), "are for lists in a folder"),
        (
            ("--histories", folder / "part-0.csv", "--out", tmp_path / "l.xlsx"),
            "must end in one of .parquet, .csv, .jsonl",
        ),
        (("--histories", folder, "--out", folder / "lists"), "which is read. Write to another place"),
        (("--histories", folder, "--out", tmp_path / "l", "--item-column", "film"), "no column 'film'"),
        (("--histories", "-", "--out", tmp_path / "l"), "There is no file or folder -"),
    ):
        answer = cli("recommend", ease, *arguments)
        assert answer.status == 2, arguments
        assert answer.err.count("\n") == 1
        assert sentence in answer.err
    assert {path.name for path in tmp_path.iterdir()} == {"histories"}


def test_unknown_items_are_counted(cli, ease, folder, tmp_path):
    file = folder / "part-1.csv"
    file.write_text(file.read_text() + "other,zebra\n")
    answer = cli(*command(ease, folder, tmp_path / "lists", "--json"))
    assert answer.json["unknown_clicks"] == 1
    assert "1 of " in answer.err and "such as 'zebra'. Skipped." in answer.err  # noqa: PT018


def test_progress_has_rate_and_time_left(cli, ease, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "EVERY", 0.0)
    answer = cli(*command(ease, folder, tmp_path / "lists"))
    assert "rank users: 24 of 24" in answer.err
    assert "left" in answer.err
    assert [duration(s) for s in (5, 99, 600, 12_000)] == ["5 s", "99 s", "10 min", "3 h 20 min"]
