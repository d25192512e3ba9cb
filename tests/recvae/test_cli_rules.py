"""recommend and similar within rules: --allow, --deny, --allow-tag, --deny-tag."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import checkerboard

from recvae.cli import main
from recvae.errors import InputError
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


@pytest.fixture(scope="module")
def untagged(files, model):
    """The same run without tags, as older versions wrote it."""
    bare = load(model)
    bare.items = replace(bare.items, tags=())
    bare.save(files / "untagged")
    return files / "untagged"


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
@pytest.mark.parametrize("tags_from", ["run", "dataset"])
def test_lists_hold_what_the_rules_leave_and_are_full(cli, model, untagged, tagged, rules, left, tags_from):
    tags = ()
    if tags_from == "dataset":
        model, tags = untagged, ("--dataset", tagged) if any("tag" in rule for rule in rules) else ()
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
        (("--deny-tag", "evne"), "No item has the tag 'evne'. Did you mean 'even'? There are 'even', 'low'."),
        (on, "--dataset is read for the tags of rules such as --allow-tag alone: leave it out."),
    ]  # fmt: skip


def test_a_mistake_is_one_sentence(cli, model, untagged, tagged, dataset, tmp_path):
    for options, said in mistakes(tmp_path, tagged, dataset):
        for verb in ("recommend", "similar"):
            answer = cli(verb, untagged if "needs the tags" in said else model, "--item", "002", *options)
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


@pytest.fixture
def histories(tmp_path):
    """Clicks of four users; the last is not in any file of rules."""
    file = tmp_path / "h.csv"
    file.write_text("user,item\nann,002\nann,004\nbob,003\ncleo,000\ndan,001\n")
    return file


def each(folder, name, kind, rows):
    file = folder / name
    file.write_text(f"user,{kind}\n" + "".join(f"{user},{value}\n" for user, value in rows))
    return file


def test_rules_for_each_user_go_with_rules_for_all(cli, model, histories, tmp_path):
    command = ("recommend", model, "--histories", histories, "-k", 40, "--json")
    plain = listed(cli(*command))
    own = {"ann": {"006", "010", "021"}, "bob": {"010"}, "cleo": {"005", "021"}, "dan": set()}
    items = each(tmp_path, "own.csv", "item", [(user, item) for user, of in own.items() for item in of])
    answer = cli(*command, "--allow-each", items)
    assert listed(answer) == [[i for i in row if i in of] for row, of in zip(plain, own.values(), strict=True)]
    assert f"--allow-each {items} has no row for 1 of 4 users: nothing is listed" in " ".join(answer.err.split())
    assert answer.json["allow_each"] == str(items)
    assert listed(cli(*command, "--deny-each", items)) == [
        [i for i in row if i not in of] for row, of in zip(plain, own.values(), strict=True)
    ]
    tags = each(tmp_path, "tags.csv", "tag", [("ann", "even"), ("ann", "low"), ("bob", "low"), ("cleo", "even")])
    of_tags = {"ann": EVEN | LOW, "bob": LOW, "cleo": EVEN, "dan": set()}
    both = ("--allow-each", items, "--deny-each", tags, "--deny", "021", "--allow-tag", "even")
    assert listed(cli(*command, *both)) == [
        [i for i in row if i in own[user] & EVEN - of_tags[user] - {"021"}]
        for user, row in zip(own, plain, strict=True)
    ]
    assert listed(cli(*command, "--allow-each", tags, "--allow", "006", "--allow", "021", "--allow", "003")) == [
        [i for i in row if i in of_tags[user] & {"006", "003"}] for user, row in zip(own, plain, strict=True)
    ]
    narrowed = cli(*command, "--deny-each", items, "--deny", "030", "--deny-tag", "low")
    assert listed(narrowed) == [
        [i for i in row if i not in own[user] | LOW | {"030"}] for user, row in zip(own, plain, strict=True)
    ]


def test_a_list_is_mixed(cli, model, untagged, tagged, histories):
    command = ("recommend", model, "--histories", histories, "-k", 6, "--json")
    loaded = load(model)
    clicks = [["002", "004"], ["003"], ["000"], ["001"]]
    for options, rules in [
        (("--most-per-tag", 2), {"most_per_tag": 2}),
        (("--diversity", 0.5), {"diversity": 0.5}),
        (("--most-per-tag", 1, "--diversity", 0.9), {"most_per_tag": 1, "diversity": 0.9}),
    ]:
        answer = cli(*command, *options)
        assert listed(answer) == loaded.recommend_ids(clicks, 6, **rules)[0]
        assert {key: answer.json[key] for key in rules} == rules
        assert set(answer.json) == {"users", "unknown_items", *rules}
    plain = cli(*command)
    zero = cli(*command, "--diversity", 0)
    assert zero.json == plain.json
    without = ("recommend", untagged, "--histories", histories, "-k", 6, "--json", "--most-per-tag", 2)
    assert "--most-per-tag needs the tags of the items" in " ".join(cli(*without).err.split())
    assert listed(cli(*without, "--dataset", tagged)) == loaded.recommend_ids(clicks, 6, most_per_tag=2)[0]


def test_evaluate_measures_the_lists_of_the_rules(cli, model, untagged, tagged):
    metrics = ("--metrics", "ndcg@5,diversity@5,coverage@5,gini@5,recall@10", "--json")
    measured = {}
    for name, rules in {
        "plain": (),
        "zero": ("--diversity", 0),
        "tags": ("--most-per-tag", 1),
        "diverse": ("--diversity", 0.9),
    }.items():
        answer = cli("evaluate", model, tagged, *metrics, *rules)
        assert answer.status == 0, answer.err
        measured[name] = {key: value["mean"] for key, value in answer.json["models"]["ease"]["metrics"].items()}
        assert ("rules" in answer.json) == (name in ("tags", "diverse"))
    assert measured["plain"] == measured["zero"]
    assert measured["diverse"]["diversity@5"] > measured["plain"]["diversity@5"]
    assert measured["tags"]["ndcg@5"] < measured["plain"]["ndcg@5"]
    again = cli("evaluate", untagged, tagged, *metrics, "--most-per-tag", 1)  # the tags are the dataset's
    assert again.json["models"]["ease"]["metrics"]["ndcg@5"]["mean"] == measured["tags"]["ndcg@5"]


def test_mistakes_of_rules_for_each_user_and_of_mixed_lists(cli, model, histories, tmp_path):
    tags = each(tmp_path, "tags.csv", "tag", [("ann", "evne")])
    items = each(tmp_path, "items.csv", "item", [("ann", "002"), ("bob", "777")])
    on = ("--histories", histories)
    for options, said in [
        ((*on, "--allow-each", tags), "No item has the tag 'evne'. Did you mean 'even'?"),
        ((*on, "--deny-each", tmp_path / "none.csv"), "There is no file"),
        ((*on, "--deny-each", each(tmp_path, "x.csv", "sku", [("ann", "1")])), "x.csv has no column 'item'"),
        (("--item", "002", "--deny-each", items), "--allow-each and --deny-each are about the users of --histories."),
        ((*on, "--most-per-tag", 0), "--most-per-tag must be at least 1, and is 0."),
        ((*on, "--diversity", 1.5), "--diversity must be a number from 0 to 1, and is 1.5."),
        ((*on, "--diversity", "nan"), "--diversity must be a number from 0 to 1, and is nan."),
        ((*on, "--allow-each", items, "--out", items, "--overwrite"), "items.csv"),
    ]:
        answer = cli("recommend", model, *options)
        assert answer.status == 2, (options, answer.err)
        assert said in " ".join(answer.err.split()), (options, answer.err)
    assert items.read_text().startswith("user,item")
    answer = cli("recommend", model, *on, "--deny-each", items, "--json")
    assert "The model does not know the item '777' of --deny-each" in " ".join(answer.err.split())
    popular = tmp_path / "popular"
    with pytest.raises(InputError, match="not which are alike"):
        load_popularity(popular).recommend_ids([["a"]], 2, diversity=0.5)


def load_popularity(folder):
    import recvae

    recvae.Popularity().fit(checkerboard(6, 4), item_ids=list("abcd")).save(folder)
    return load(folder)


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
