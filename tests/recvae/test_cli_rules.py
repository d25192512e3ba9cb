"""recommend and similar within rules: --allow, --deny, --allow-tag, --deny-tag."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import checkerboard

from recvae.cli import main
from recvae.recommender import load


@pytest.fixture(scope="module")
def files(tmp_path_factory, clicks):
    """Titles of 40 items, all but the last five with tags."""
    place = tmp_path_factory.mktemp("tagged")
    tags = ["|".join(t for t, has in (("even", i % 2 == 0), ("low", i < 20)) if has) for i in range(40)]
    rows = [f"{i:03},{'Alien' if i == 7 else f'Film {i}'},{tags[i] if i < 35 else ''}\n" for i in range(40)]
    (place / "titles.csv").write_text("id,title,genres\n" + "".join(rows))
    return place


@pytest.fixture(scope="module")
def tagged(files, clicks):
    """A dataset folder with item tags; not to be changed."""
    columns = ("--user-column", "user", "--item-column", "item", "--titles", str(files / "titles.csv"))
    folder = str(files / "tagged")
    assert main(["prepare", str(clicks), *columns, "--held-out-users", "20", "--out", folder, "--quiet"]) == 0
    return files / "tagged"


@pytest.fixture(scope="module")
def model(files, tagged):
    """A run folder of EASE of these items; not to be changed."""
    assert main(["train", str(tagged), "--model", "ease", "--out", str(files / "run"), "--quiet"]) == 0
    return files / "run"


def listed(answer):
    assert answer.status == 0, answer.err
    return [[row["item_id"] for row in user["items"]] for user in answer.json["users"]]


EVEN = {f"{i:03}" for i in range(0, 35, 2)}
LOW = {f"{i:03}" for i in range(20)}


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        (("--allow", "003", "--allow", "004"), {"003", "004"}),
        (("--deny", "003", "--deny", "004"), {f"{i:03}" for i in range(40)} - {"003", "004"}),
        (("--allow-tag", "even"), EVEN),
        (("--allow-tag", "even", "--allow-tag", "low"), EVEN | LOW),
        (("--deny-tag", "even", "--deny-tag", "low"), {f"{i:03}" for i in range(40)} - EVEN - LOW),
        (("--allow-tag", "low", "--allow", "003", "--allow", "030"), {"003"}),
        (("--allow-tag", "even", "--deny-tag", "low", "--deny", "020"), EVEN - LOW - {"020"}),
        (("--allow", "002", "--deny", "002"), set()),
    ],
)
def test_lists_hold_what_the_rules_leave_and_are_full(cli, model, tagged, rules, left):
    tags = ("--dataset", tagged) if any("tag" in rule for rule in rules) else ()
    everything = listed(cli("recommend", model, "--item", "002", "-k", 40, "--json"))[0]
    expected = [item for item in everything if item in left]
    answer = cli("recommend", model, "--item", "002", "-k", 40, *rules, *tags, "--json")
    assert listed(answer) == [expected]
    assert listed(cli("recommend", model, "--item", "002", "-k", 2, *rules, *tags, "--json")) == [expected[:2]]
    named = {}
    for option, value in zip(rules[::2], rules[1::2], strict=True):
        named.setdefault(option.removeprefix("--").replace("-", "_"), []).append(value)
    assert {key: answer.json[key] for key in answer.json if key not in ("users", "unknown_items")} == named


def test_nothing_left_is_said(cli, model):
    answer = cli("recommend", model, "--item", "002", "--allow", "002")
    assert answer.status == 0
    assert "No item is left to list." in answer.out


def write(folder, kind):
    """Ids 003, 004, 005 and one that is not known, as people keep such files."""
    ids = ["003", "004", "003", "999", "005"]
    file = folder / kind.replace(" ", "-").replace("parquet", "x.parquet")
    if kind == "lines":
        file.write_text("\n".join(ids) + "\n\n")
    elif kind == "parquet":
        pd.DataFrame({"item_id": ids, "price": 1.5}).to_parquet(file)
    else:
        name = {"csv item": "item", "csv item_id": "item_id", "csv sku": "sku"}[kind]
        file.write_text(f"price,{name}\n" + "".join(f"1.5,{item}\n" for item in ids))
    return file


@pytest.mark.parametrize("kind", ["lines", "csv item", "csv item_id", "csv sku", "parquet"])
def test_a_file_of_ids(cli, model, tmp_path, kind):
    file = write(tmp_path, kind)
    names = ("--item-column", "sku") if kind == "csv sku" else ()
    answer = cli("recommend", model, "--item", "002", "--allow", file, *names, "--deny", "004", "--json")
    assert sorted(listed(answer)[0]) == ["003", "005"]
    warning = f"1 item is not in the model's catalogue, of --allow {file}: '999'. Skipped."
    assert warning in " ".join(answer.err.split())
    denied = cli("recommend", model, "--item", "002", "--deny", file, *names, "-k", 40, "--json")
    assert len(listed(denied)[0]) == 40 - 4


def test_many_users_in_blocks_and_lists_as_files(cli, model, tagged, tmp_path, monkeypatch):
    from importlib import import_module

    histories = tmp_path / "h.csv"
    board = checkerboard(users=30, seed=5).tocoo()
    pairs = zip(board.row, board.col, strict=True)
    histories.write_text("user,item\n" + "".join(f"{user},{item:03}\n" for user, item in pairs))
    command = ("recommend", model, "--histories", histories, "-k", 3, "--allow-tag", "low", "--dataset", tagged)
    whole = listed(cli(*command, "--json"))
    clicked = [[f"{column:03}" for column in np.flatnonzero(row)] for row in board.toarray()]
    assert whole == load(model).recommend_ids(clicked, 3, allow=sorted(LOW))[0]
    monkeypatch.setattr(import_module("recvae.cli.recommend"), "_BLOCK", 7)
    assert listed(cli(*command, "--json")) == whole
    document = cli(*command, "--out", tmp_path / "lists.csv", "--json").json
    assert document["allow_tag"] == ["low"]
    rows = pd.read_csv(tmp_path / "lists.csv", dtype=str)
    assert rows["item_id"].tolist() == [item for row in whole for item in row]
    again = cli("recommend", model, "--item", "002", "--allow", tmp_path / "lists.csv", "--json")  # its own lists
    assert set(listed(again)[0]) <= set(rows["item_id"])


def test_similar_within_rules(cli, model, tagged):
    rules = ("--allow-tag", "even", "--deny", "004", "--dataset", tagged)
    everything = [row["item_id"] for row in cli("similar", model, "--item", "002", "-k", 40, "--json").json["similar"]]
    answer = cli("similar", model, "--item", "002", "-k", 5, *rules, "--json").json
    assert [row["item_id"] for row in answer["similar"]] == [i for i in everything if i in EVEN - {"004"}][:5]
    assert (answer["allow_tag"], answer["deny"]) == (["even"], ["004"])
    assert "No item is left to list." in cli("similar", model, "--item", "002", "--allow", "002").out


def mistakes(tmp_path, tagged, dataset):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "head.csv").write_text("item\n")
    (tmp_path / "other.csv").write_text("sku,price\n1,2\n")
    (tmp_path / "ragged.csv").write_text("item,price\n003,1\n004\n")
    (tmp_path / "gap.csv").write_text("item,price\n003,1\n,1\n")
    (tmp_path / "unknown.txt").write_text("998\n999\n")
    (tmp_path / "two.csv").write_text("item,item\n1,2\n")
    on = ("--dataset", tagged)
    return [
        (("--allow", "Alein"), "--allow 'Alein' is neither a file nor the id of an item that the model knows. Did you "
                               "mean '007'?"),
        (("--deny", "stock.csv"), "--deny 'stock.csv' is neither a file nor the id of an item that the model knows."),
        (("--deny", "x" * 5000), "is neither a file nor the id"),
        (("--deny", tmp_path), f"{tmp_path} is a folder"),
        (("--allow", tmp_path / "empty.csv"), "empty.csv is empty."),
        (("--allow", tmp_path / "head.csv"), "head.csv has a header and no rows."),
        (("--allow", tmp_path / "other.csv"), "other.csv has no column 'item'; it has sku, price."),
        (("--deny", tmp_path / "ragged.csv"), "ragged.csv: row 2 (header not counted) has 1 fields, and the first one"),
        (("--deny", tmp_path / "gap.csv"), "gap.csv: row 2 (header not counted) has no id."),
        (("--deny", tmp_path / "two.csv"), "two.csv has 2 columns named 'item'. Rename all but one."),
        (("--allow", tmp_path / "unknown.txt"), "names no item that the model knows: it has '998', '999'."),
        (("--allow-tag", "even"), "--allow-tag needs the tags of the items, which"),
        (("--deny-tag", "even"), "--deny-tag needs the tags of the items, which"),
        (("--deny-tag", "evne", *on), "No item has the tag 'evne'. Did you mean 'even'?"),
        (("--allow-tag", "even", "--dataset", dataset), f"{dataset} has no item tags. Prepare it again with --titles"),
        (("--allow-tag", "even", "--dataset", tmp_path), "manifest.json"),
        (on, "--dataset is read for the tags of --allow-tag and --deny-tag alone: leave it out."),
    ]  # fmt: skip


def test_a_mistake_is_one_sentence(cli, model, tagged, dataset, tmp_path):
    for options, said in mistakes(tmp_path, tagged, dataset):
        for verb in ("recommend", "similar"):
            answer = cli(verb, model, "--item", "002", *options)
            assert answer.status == 2, (verb, options)
            assert said in " ".join(answer.err.split()), (verb, options, answer.err)
            assert not answer.out
            assert "Traceback" not in answer.err


def test_tags_of_another_catalogue_are_refused(cli, model, clicks, tmp_path):
    fewer = ("--user-column", "user", "--item-column", "item", "--min-users-per-item", "60")
    other = tmp_path / "other"
    assert cli("prepare", clicks, *fewer, "--held-out-users", "10", "--out", other).status == 0
    answer = cli("recommend", model, "--item", "002", "--allow-tag", "even", "--dataset", other)
    assert answer.status == 2
    assert "was trained on another catalogue" in answer.err


def test_out_may_not_be_a_file_of_rules(cli, model, tmp_path):
    file = tmp_path / "ids.csv"
    file.write_text("item\n003\n")
    answer = cli("recommend", model, "--item", "002", "--allow", file, "--out", file, "--overwrite")
    assert answer.status == 2
    assert file.read_text() == "item\n003\n"


@pytest.mark.slow
def test_as_a_process_with_ids_from_a_pipe(model, tagged):
    command = [sys.executable, "-m", "recvae", "recommend", model, "--item", "002", "--json"]
    rules = ["--allow", "-", "--deny-tag", "low", "--dataset", tagged]
    done = subprocess.run([*command, *rules], input="003\n030\n031\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert sorted(row["item_id"] for row in document["users"][0]["items"]) == ["030", "031"]
    assert (document["allow"], document["deny_tag"]) == (["-"], ["low"])
    wrong = subprocess.run([*command, "--deny", "nothing"], capture_output=True, text=True, timeout=120)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.count("\n") == 1
