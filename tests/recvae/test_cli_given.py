"""prepare --train --test, train and evaluate: the figures of the published protocol, from the two files alone."""

import math
from pathlib import Path

import numpy as np
import pytest

from data_prep import Dataset
from recvae.recommender import load

COLUMNS = ("--user-column", "user", "--item-column", "item")
METRICS = "recall@20,plain_recall@20,ndcg@20,recall@5,plain_recall@5,ndcg@5,plain_recall@1000,ndcg@1000"


@pytest.fixture(scope="module")
def histories() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """60 users of two tastes: training and test items by user.

    Some test clicks are training clicks, some test items and one test user are in no training click.
    """
    draw = np.random.default_rng(11)
    train, test = {}, {}
    for user in range(60):
        mine = draw.permutation(np.arange(user % 2, 50, 2))[: 14 + user % 7].astype(str).tolist()
        cut = 9 + user % 4
        train[f"u{user}"], test[f"u{user}"] = mine[:cut], mine[cut:]
        if user % 10 == 0:
            test[f"u{user}"] = [mine[0], *test[f"u{user}"], f"new{user % 20}"]
    del train["u7"]
    test["u8"] = []
    return train, test


@pytest.fixture(scope="module")
def files(histories, tmp_path_factory):
    """The same clicks as lines and as tables: two pairs of files."""
    folder = tmp_path_factory.mktemp("given")
    pairs = {"lines": [], "tables": []}
    for name, part in zip(("train", "test"), histories, strict=True):
        lines, table = folder / f"{name}.txt", folder / f"{name}.csv"
        lines.write_text("".join(" ".join((user, *items)) + "\n" for user, items in part.items()))
        table.write_text("user,item\n" + "".join(f"{u},{i}\n" for u, items in part.items() for i in items))
        pairs["lines"].append(lines)
        pairs["tables"].append(table)
    return pairs


def prepare(cli, files, out, *more):
    return cli("prepare", "--train", files[0], "--test", files[1], *more, "--out", out)


def read_lines(path) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in path.read_text().splitlines()}


def slow_metrics(files, ranking) -> dict[str, float]:
    """Means over users of the metrics at their k, from the files' text; ``ranking(history)``: all items, best first."""
    train, test = (read_lines(path) for path in files)
    means = {name: [] for name in METRICS.split(",")}
    for user, clicked in test.items():
        seen = set(train.get(user, []))
        wanted = set(clicked) - seen
        if not wanted:
            continue
        ranked = [item for item in ranking(train.get(user, [])) if item not in seen]
        for name, values in means.items():
            kind, k = name.split("@")[0], int(name.split("@")[1])
            hits = [place for place, item in enumerate(ranked[:k], start=1) if item in wanted]
            most = min(k, len(wanted))
            if kind == "recall":
                values.append(len(hits) / most)
            elif kind == "plain_recall":
                values.append(len(hits) / len(wanted))
            else:
                ideal = sum(1 / math.log2(place + 1) for place in range(1, most + 1))
                values.append(sum(1 / math.log2(place + 1) for place in hits) / ideal)
    return {name: sum(values) / len(values) for name, values in means.items()}


def test_a_folder_that_holds_the_input_is_not_the_place_to_write_to(cli, files, tmp_path):
    folder = files["lines"][0].parent
    for more in ([], ["--overwrite"]):
        answer = prepare(cli, files["lines"], folder, *more)
        assert answer.status == 2
        assert answer.err == (
            f"Error: {files['lines'][0]}, which is read, is in {folder}. Write to another place, such as --out"
            f" {folder}-new.\n"
        )
    assert prepare(cli, files["lines"], f"{folder}-dataset").status == 0


def test_documented_commands_do_not_write_to_what_they_read():
    pages = [Path(__file__).parents[2] / name for name in ("docs/guide.md", "docs/formats.md")]
    lines = [line for page in pages for line in page.read_text().splitlines() if "prepare --train " in line]
    assert len(lines) == 3
    for line in lines:
        words = line.split()
        read, out = (Path(words[words.index(option) + 1]) for option in ("--train", "--out"))
        assert out not in read.parents


def test_both_forms_make_the_same_dataset(cli, files, histories, tmp_path):
    said = prepare(cli, files["lines"], tmp_path / "a", "--validation-share", "0.2")
    assert said.status == 0, said.err
    assert prepare(cli, files["tables"], tmp_path / "b", *COLUMNS, "--validation-share", "0.2", "--quiet").status == 0
    for file in (tmp_path / "a").iterdir():
        if file.name != "manifest.json":  # which names the files that were read
            assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    train, test = histories
    n_rows = sum(map(len, [*train.values(), *test.values()]))
    for line in (
        f"read        {n_rows:,} rows",
        f"kept        {n_rows:,} clicks, 60 users, 52 items",
        "test only   1 users and 2 items that training does not have",
        "training    ",
        "validation  59 users",
        "test        59 users",
        "left out    6 test clicks also in training",
    ):
        assert line in said.out
    data = Dataset.load(tmp_path / "a")
    data.verify()
    assert data.n_items == len({i for part in histories for items in part.values() for i in items})
    verified = cli("info", tmp_path / "a", "--verify", "--json").json["dataset"]
    assert verified["protocol"] == {"split": "given", "validation_share": 0.2, "seed": 98765}


@pytest.mark.parametrize("model", ["popularity", "ease", "mult-dae"])
@pytest.mark.parametrize("form", ["lines", "tables"])
def test_the_figures_are_those_of_the_two_files(cli, files, form, model, tmp_path):
    folder, run = tmp_path / "d", tmp_path / "run"
    assert prepare(cli, files[form], folder, *(COLUMNS if form == "tables" else ()), "--quiet").status == 0
    quick = ("--set", "model.latent=4", "--set", "train.epochs=3", "--set", "train.batch_size=20")
    train = ("train", folder, "--model", model, *(quick if model == "mult-dae" else ()), "--out", run, "--quiet")
    assert cli(*train).status == 0
    answer = cli("evaluate", run, folder, "--metrics", METRICS, "--json")
    assert answer.status == 0, answer.err
    recommender = load(run, "cpu")

    def ranking(history):
        return recommender.recommend_ids([history], k=1000, exclude_seen=False)[0][0]

    expected = slow_metrics(files["lines"], ranking)
    measured = answer.json["models"][model]["metrics"]
    for name, value in expected.items():
        assert measured[name]["mean"] == pytest.approx(value, abs=1e-6), name
        assert measured[name]["users"] == 59
    assert measured["plain_recall@1000"]["mean"] == 1.0  # every test item is in the catalogue
    assert 0 < measured["plain_recall@5"]["mean"] < measured["recall@5"]["mean"] < 1


def test_popularity_from_the_files_alone(cli, files, tmp_path):
    """Refitted, popularity counts all training clicks: its ranking needs no program of ours."""
    folder, run, again = tmp_path / "d", tmp_path / "run", tmp_path / "again"
    assert prepare(cli, files["lines"], folder, "--quiet").status == 0
    assert cli("train", folder, "--model", "popularity", "--out", run, "--quiet").status == 0
    assert cli("train", folder, "--refit", run, "--out", again, "--quiet").status == 0
    train, test = (read_lines(path) for path in files["lines"])
    catalogue = list(dict.fromkeys(item for part in (train, test) for items in part.values() for item in items))
    count = {item: sum(item in items for items in train.values()) for item in catalogue}
    ranked = sorted(catalogue, key=lambda item: -count[item])  # stable: equal counts stay in the catalogue's order
    expected = slow_metrics(files["lines"], lambda history: ranked)
    measured = cli("evaluate", again, folder, "--metrics", METRICS, "--json").json["models"]["popularity"]["metrics"]
    assert {name: measured[name]["mean"] for name in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Name a known dataset or a file, or give --train and --test"),
        (("--train", "a"), "--train needs --test"),
        (("--test", "a"), "--test needs --train"),
        (("ml-1m", "--train", "a", "--test", "b"), "Give either 'ml-1m' or --train and --test, not both."),
        (("--train", "a", "--test", "b", "--split", "random"), "taken as they are: leave out --split."),
        (
            ("--train", "a", "--test", "b", "--k-core", "--min-items-per-user", "5"),
            "out --min-items-per-user, --k-core",
        ),
        (("--train", "a", "--test", "b", "--held-out-share", "0.1"), "for validation is --validation-share."),
        (("--train", "a", "--test", "b", "--source", "c"), "leave out --source."),
        (("ml-1m", "--validation-share", "0.1"), "--validation-share belongs to --train and --test"),
        (("--train", "a", "--test", "b"), "There is no file a."),
    ],
)
def test_mistakes_get_one_sentence(cli, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    answer = cli("prepare", *arguments, "--out", tmp_path / "out")
    assert answer.status == 2
    assert said in answer.err
    assert answer.err.startswith("Error: ")
    assert answer.err.count("\n") == 1
    assert answer.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_another_cut_is_refused(cli, files, tmp_path):
    """The catalogue of a given split does not depend on the seed, so it cannot tell two cuts apart."""
    for seed in (1, 2):
        assert prepare(cli, files["lines"], tmp_path / f"cut{seed}", "--seed", seed).status == 0
        run = ("train", tmp_path / f"cut{seed}", "--model", "ease", "--out", tmp_path / f"run{seed}")
        assert cli(*run).status == 0
    one, two = (Dataset.load(tmp_path / f"cut{seed}") for seed in (1, 2))
    assert one.vocabulary_hash == two.vocabulary_hash
    for arguments in (
        ("evaluate", tmp_path / "run1", tmp_path / "cut2", "--split", "validation"),
        ("blend", tmp_path / "run2", tmp_path / "run1", tmp_path / "cut2", "--out", tmp_path / "out"),
        ("train", tmp_path / "cut2", "--refit", tmp_path / "run1", "--out", tmp_path / "out"),
    ):
        answer = cli(*arguments)
        assert answer.status == 2
        assert f"{tmp_path / 'run1'} was trained on another split" in answer.err
    assert cli("evaluate", tmp_path / "run1", tmp_path / "cut1", "--split", "validation").status == 0
