"""The conditional VAE from the command line: tags and attributes from files, and conditions in answers."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import checkerboard

from data_prep import Dataset, prepare_given, read_user_tags
from eval import evaluate
from recvae.errors import DataError, InputError
from recvae.experiments.bounds import evidence
from recvae.experiments.diagnose import diagnose
from recvae.experiments.measure import validate_with
from recvae.nn.batches import Batch
from recvae.nn.noise import Noise
from recvae.queries import Query
from recvae.recommender import load
from recvae.training.run_folder import read_run

SETTINGS = ("model.hidden=[]", "model.latent=8", "train.epochs=30", "train.batch_size=40", "train.learning_rate=0.01")
TASTE = ("even", "odd")
USER = ("--user-column", "user", "--item-column", "item")


def write(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Clicks of 200 users, titles with tags, and users' attributes; user 7 has none, user 9 no row."""
    place = tmp_path_factory.mktemp("files")
    board = checkerboard(users=200).tocoo()
    write(
        place / "clicks.csv",
        [("user", "item"), *((f"u{u}", f"{i:03}") for u, i in zip(board.row, board.col, strict=True))],
    )
    write(
        place / "titles.csv",
        [
            ("id", "title", "genres"),
            *((f"{i:03}", f"Film {i}", "low|any" if i < 20 else "high|any") for i in range(40)),
        ],
    )
    people = [(f"u{u}", *(("", "") if u == 7 else (TASTE[u % 2], str(u % 3)))) for u in range(200) if u != 9]
    write(place / "people.csv", [("user", "taste", "group"), *people])
    return place


@pytest.fixture(scope="module")
def folder(files):
    from recvae.cli import main

    out = files / "set"
    tables = ("--titles", files / "titles.csv", "--user-tags", files / "people.csv")
    command = ["prepare", files / "clicks.csv", *USER, *tables, "--held-out-users", "30", "--out", out, "--quiet"]
    assert main([str(word) for word in command]) == 0
    return out


@pytest.fixture(scope="module")
def run(files, folder):
    from recvae.cli import main

    out = files / "run"
    settings = [word for setting in (*SETTINGS, 'model.user_attributes=["taste"]') for word in ("--set", setting)]
    command = ["train", folder, "--model", "conditional-vae", *settings, "--metric", "ndcg@5", "--out", out, "--quiet"]
    assert main([str(word) for word in command]) == 0
    return out


def test_tags_and_attributes_travel_from_files_to_the_model(folder, run):
    data = Dataset.load(folder)
    assert data.item_tags["003"] == ("low", "any")
    assert data.user_tags["u4"] == {"taste": "even", "group": "1"}
    assert "u9" not in data.user_tags
    assert not data.user_tags.get("u7")
    assert load(run).condition_names == ("any", "high", "low", "taste=even", "taste=odd")


def test_recommend_under_conditions(cli, run):
    answer = cli("recommend", run, "--item", "000", "--item", "024", "-k", "6", "--condition", "low")
    assert answer.status == 0
    assert "after Film 0, Film 24, asked for low:" in answer.out
    document = cli("recommend", run, "--item", "000", "-k", "5", "--condition", "high", "--json").json
    assert document["conditions"] == ["high"]
    assert all(int(item["item_id"]) >= 20 for item in document["users"][0]["items"])
    both = ("--condition", "taste=odd", "--condition", "low")
    document = cli("recommend", run, "--item", "039", "-k", "5", *both, "--json").json
    assert all(int(item["item_id"]) < 20 and int(item["item_id"]) % 2 for item in document["users"][0]["items"])
    assert "conditions" not in cli("recommend", run, "--item", "039", "--json").json


def test_conditions_that_there_are_not(cli, run, folder, files):
    answer = cli("recommend", run, "--item", "000", "--condition", "lo")
    assert answer.status == 2
    assert "no condition 'lo'. Did you mean 'low'?" in answer.err
    assert cli("train", folder, "--model", "ease", "--out", files / "ease", "--quiet").status == 0
    answer = cli("recommend", files / "ease", "--item", "000", "--condition", "low")
    assert answer.status == 2
    assert "This EASE model has no conditions" in answer.err
    answer = cli("recommend", run, "--item", "000", "--condition", "taste=odd", "--condition", "taste=even")
    assert answer.status == 2
    assert "A user has one 'taste', not both 'taste=odd' and 'taste=even'" in answer.err


def test_held_out_users_are_told_by_their_attributes(cli, run, folder):
    model, data = load(run), Dataset.load(folder)
    users = model.held_out_inputs(data, "test")
    tastes = [data.user_tags.get(user, {}).get("taste", "") for user in data.user_ids("test")]
    np.testing.assert_array_equal(users.query.conditions.toarray()[:, 3:], [[t == "even", t == "odd"] for t in tastes])
    assert not users.query.conditions.toarray()[:, :3].any()
    document = cli("evaluate", run, folder, "--metrics", "ndcg@5", "--json").json
    told = evaluate(model, users.query, users.clicks, "ndcg@5").metrics["ndcg@5"].mean
    untold = evaluate(model, users.query.histories, users.clicks, "ndcg@5").metrics["ndcg@5"].mean
    assert document["models"]["conditional-vae"]["metrics"]["ndcg@5"]["mean"] == pytest.approx(told)
    assert told != untold
    best = read_run(run).metrics["validation"]  # the epoch was chosen by users who were told of
    assert validate_with(data, "ndcg@5")(model) == pytest.approx(best)
    with pytest.raises(InputError, match="The conditions are 29 x 5, but there are 30 histories"):
        Query(users.query.histories, conditions=users.query.conditions[:29])


@pytest.mark.parametrize("split", ["test", "train"])
def test_diagnose_tells_the_users_attributes(run, folder, split):
    model, data = load(run, "cpu"), Dataset.load(folder)
    found = diagnose(model, data, [], split=split, samples=5, users=20)
    assert found["latent"]["users"] == 20
    assert found["likelihood"]["samples"] == 5
    clicks = data.train if split == "train" else data.test_in
    rows = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(np.diff(clicks.indptr)))[:20])
    tastes = [data.user_tags.get(user, {}).get("taste") for user in data.user_ids(split)[rows]]
    assert len(set(tastes)) > 1
    told = torch.tensor([[0.0] * 3 + [float(taste == value) for value in TASTE] for taste in tastes])
    batch = replace(Batch.of(clicks[rows]), conditions=told)
    with torch.no_grad():
        mu, logvar = (part.double() for part in model.network.posterior(batch))
    kl = 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(1).mean().item()
    assert found["latent"]["kl"]["mean"] == pytest.approx(kl, rel=1e-5)
    bound = evidence(model.network, batch, Noise(0), 5).bounds[5].mean()
    assert found["likelihood"]["log_p"]["mean"] == pytest.approx(bound, rel=1e-5)
    assert split == "train" or found["recall"]["overall"]["users"] == 30


def test_refit_learns_from_the_validation_users_attributes(cli, run, folder, files):
    data = Dataset.load(folder)
    given = load(run).training_inputs(data, refit=True)
    assert len(given["user_attributes"]) == given["train"].shape[0] == 170
    assert given["user_attributes"][140] == data.user_tags.get(data.user_ids("validation")[0], {})
    assert cli("train", folder, "--refit", run, "--out", files / "refitted", "--quiet").status == 0
    assert load(files / "refitted").condition_names == load(run).condition_names


def test_a_resumed_run_keeps_its_conditions(cli, run, folder, files):
    settings = [word for setting in (*SETTINGS[:2], "train.epochs=2") for word in ("--set", setting)]
    some = ("--set", 'model.user_attributes=["group", "taste"]')
    out = files / "short"
    assert cli("train", folder, "--model", "conditional-vae", *settings, *some, "--out", out, "--quiet").status == 0
    more = cli("train", folder, "--out", out, "--resume", "--set", "train.epochs=3", "--json", "--quiet")
    assert more.status == 0, more.err
    assert more.json["epochs"] == 3
    assert load(out).condition_names[3:] == ("group=0", "group=1", "group=2", "taste=even", "taste=odd")


def test_a_dataset_without_tags(cli, dataset, files):
    answer = cli("train", dataset, "--model", "conditional-vae", "--out", files / "none")
    assert answer.status == 2
    assert "has no item tags to condition on. Prepare it again with --titles FILE" in answer.err
    off = ("--set", "model.item_tags=false", "--set", 'model.user_attributes=["age"]')
    answer = cli("train", dataset, "--model", "conditional-vae", *off, "--out", files / "none")
    assert answer.status == 2
    assert "has no user attributes to condition on. Prepare it again with --user-tags FILE" in answer.err
    assert not (files / "none").exists()


def test_a_dataset_without_the_attributes_that_a_model_knows(cli, run, files, tmp_path):
    tables = (files / "clicks.csv", *USER, "--titles", files / "titles.csv")
    assert cli("prepare", *tables, "--held-out-users", "30", "--out", tmp_path / "set", "--quiet").status == 0
    answer = cli("evaluate", run, tmp_path / "set", "--metrics", "ndcg@5")
    assert answer.status == 2
    assert f"{tmp_path / 'set'} has no user attributes to condition on. Prepare it again with --user-tags" in answer.err


def test_an_attribute_that_there_is_not(cli, folder, files):
    answer = cli("train", folder, "--model", "conditional-vae", "--set", 'model.user_attributes=["tast"]', "--out",
                 files / "none")  # fmt: skip
    assert answer.status == 2
    assert "No user has an attribute 'tast'; there are group, taste. Did you mean 'taste'?" in answer.err
    assert not (files / "none").exists()


def test_data_that_arrive_split_take_attributes_too(files, tmp_path):
    rows = [line.split(",") for line in (files / "clicks.csv").read_text().splitlines()]
    parts = [write(tmp_path / f"{name}.csv", [rows[0], *rows[1:][n::3]]) for n, name in enumerate(("test", "train"))]
    columns = {"user_column": "user", "item_column": "item"}
    data = prepare_given(parts[1], parts[0], **columns, user_tags=files / "people.csv", validation_share=0.3)
    assert data.user_tags["u4"] == {"taste": "even", "group": "1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u1\nu2\n", "must begin with a header"),
        ("user,age,age\nu1,1,2\n", "must begin with a header"),
        ("user,age,\nu1,1,2\n", "must begin with a header"),
        ("user,age\nu1,1\nu2,1,2\n", r"row 2 \(header not counted\) has 3 fields, and the header has 2"),
        ("user,age\nu1,1\nu1,2\n", "row 2 .* is a second row of user 'u1'"),
        ("", "is empty"),
    ],
)
def test_files_of_attributes_that_cannot_be_read(text, message, tmp_path):
    (tmp_path / "people.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_user_tags(tmp_path / "people.csv")


def test_attributes_of_nobody_here(cli, files, tmp_path):
    people = write(tmp_path / "people.csv", [("user", "age"), ("someone", "30")])
    answer = cli("prepare", files / "clicks.csv", *USER, "--user-tags", people, "--out", tmp_path / "set")
    assert answer.status == 2
    assert "names none of the users of" in answer.err
    assert "'someone'" in answer.err
    with pytest.raises(InputError, match="missing"):
        read_user_tags(tmp_path / "missing.csv")


def test_its_options_can_be_searched(cli, folder, tmp_path):
    settings = [word for setting in (*SETTINGS[:2], "train.epochs=1") for word in ("--set", setting)]
    search = ("--search", "model.unconditioned=0.2:0.4", "--trials", "2")
    answer = cli(
        "tune", folder, "--model", "conditional-vae", *settings, *search, "--out", tmp_path / "study", "--json"
    )
    assert answer.status == 0, answer.err
    assert answer.json["counts"]["complete"] == 2


@pytest.mark.slow
def test_the_benchmark_program(cli, folder, run, files):
    plain, out = files / "plain", files / "record.json"
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    assert cli("train", folder, "--model", "mult-vae", *settings, "--out", plain, "--quiet").status == 0
    program = ("-m", "benchmarks.accuracy.conditional")
    done = subprocess.run(
        [sys.executable, *program, folder, run, plain, "--least", "20", "--out", out],
        capture_output=True, text=True, timeout=170, check=False, cwd=Path(__file__).resolve().parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(out.read_text())
    assert set(record["genres"]) == {"any", "high", "low"}
    assert record["genres"]["any"]["share"] == record["genres"]["any"]["unasked_share"] == 1
    low = record["genres"]["low"]
    data, model = Dataset.load(folder), load(run)
    hidden = data.test_out.toarray() * (data.item_ids.astype(int) < 20)
    ids, _ = model.recommend(data.test_in, k=20, conditions=["low"])
    found = [len(set(row) & set(np.flatnonzero(of_user))) for row, of_user in zip(ids, hidden, strict=True)]
    has = hidden.any(axis=1)
    assert low["asked"] == pytest.approx((np.array(found)[has] / hidden.sum(axis=1)[has]).mean(), rel=1e-5)
    assert low["users"] == has.sum()
    assert low["ratio"] == pytest.approx(low["asked"] / low["filtered"], rel=1e-5)


def test_json_of_conditions_is_kept_with_the_weights(run):
    from safetensors import safe_open

    with safe_open(run / "model.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["recvae"])["facts"]
    assert facts["conditions"] == ["any", "high", "low", "taste=even", "taste=odd"]
