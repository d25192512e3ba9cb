"""train --refit: the same settings, the best epoch, all clicks but the test part, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from sealing import reseal

from data_prep import Dataset
from recvae.cli import main
from recvae.cli.terminal import Epochs
from recvae.models.mult import MultVAE
from recvae.recommender import load
from recvae.training import run_folder

QUICK = ("--set", "model.hidden=[8]", "--set", "model.latent=4", "--set", "train.batch_size=40")
STOPS = ("--set", "train.epochs=60", "--set", "train.patience=2", "--set", "train.learning_rate=0.02")
SHARE = ("--set", "model.anneal=share")


@pytest.fixture(scope="module")
def weak(tmp_path_factory, clicks):
    """A dataset whose validation users are trained on."""
    folder = tmp_path_factory.mktemp("weak") / "tastes"
    columns = ("--user-column", "user", "--item-column", "item")
    assert main(["prepare", str(clicks), *columns, "--split", "random", "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, weak):
    """A Mult-VAE that stopped early; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = ("train", weak, "--model", "mult-vae", *QUICK, *STOPS, *SHARE, "--metric", "ndcg@5", "--seed", 5)
    assert main([str(argument) for argument in (*arguments, "--out", out, "--quiet")]) == 0
    return out


def weights(folder):
    return run_folder.read_weights(folder)[0]


def same_bits(one, two):
    return one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)


def test_the_best_epoch_on_all_clicks_with_the_schedule_of_the_whole_run(cli, run, weak, tmp_path):
    before = run_folder.read_run(run)
    rows = run_folder.read_metrics(run)
    best = before.best_epoch
    assert best < len(rows) < 60  # it stopped early, after its best epoch
    out = tmp_path / "all"
    answer = cli("train", weak, "--refit", run, "--out", out)
    assert answer.status == 0, answer.err
    data = Dataset.load(weak)
    matrix = data.refit_matrix()
    assert f"Mult-VAE on clicks: 200 users, 40 items, {matrix.nnz:,} clicks" in answer.out
    assert f"Refitted on the training and validation clicks for {best} epochs, " in answer.out
    assert "Validation" not in answer.out
    lines = [line for line in answer.err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == best
    assert lines[0].split("/")[1].startswith(f"{best} ")

    after = run_folder.read_run(out)
    assert after.best_epoch == best
    assert after.metrics == {}
    assert after.config == {**before.config, "train": {**before.config["train"], "stop_after": best}}
    assert after.vocabulary == before.vocabulary
    assert after.dataset["refit"] == {
        **{"epoch": best, "metric": "ndcg@5", "score": before.metrics["validation"]},
        **{"users": 200, "clicks": matrix.nnz},
    }
    assert after.dataset["protocol"] == before.dataset["protocol"]
    assert "validation_metric" not in after.dataset
    ours = run_folder.read_metrics(out)
    assert [row["score"] for row in ours] == [None] * best
    betas = [[row["phases"][name]["beta"] for name in row["phases"]] for row in rows[:best]]
    assert betas == [[row["phases"][name]["beta"] for name in row["phases"]] for row in ours]  # as many users, so steps
    assert betas[-1][0] > 0

    refused = cli("evaluate", out, weak, "--split", "validation")
    assert refused.status == 2
    assert "refitted on the validation clicks too" in refused.err
    described = " ".join(cli("info", out).out.split())
    assert f"refitted on all {matrix.nnz:,} clicks but the test part for {best} epochs" in described

    literal = MultVAE(
        **{**before.config["model"], **before.config["train"], "stop_after": best}, seed=5, device="cpu"
    ).fit(matrix)
    assert same_bits(literal.tensors(), weights(out))
    assert not same_bits(weights(out), weights(run))


def test_a_strong_split_gives_the_validation_users_whole_histories(cli, dataset, ease, tmp_path):
    answer = cli("train", dataset, "--refit", ease, "--out", tmp_path / "all", "--json")
    assert answer.status == 0, answer.err
    document = answer.json
    data = Dataset.load(dataset)
    assert (document["best_epoch"], document["epochs"], document["metrics"]) == (None, None, {})
    assert document["dataset"]["refit"]["users"] == 180
    assert document["dataset"]["refit"]["epoch"] is None
    # EASE by its equations, from the matrices of the dataset
    X = np.vstack([data.train.toarray(), (data.validation_in + data.validation_out).toarray()]).astype(np.float64)
    P = np.linalg.inv(X.T @ X + document["config"]["model"]["l2"] * np.eye(data.n_items))
    B = -P / np.diag(P)
    np.fill_diagonal(B, 0)
    histories = data.test_in
    scores = load(tmp_path / "all", "cpu").scores(histories).numpy()
    assert np.allclose(scores, histories.toarray() @ B, atol=1e-4)
    assert not np.allclose(scores, load(ease, "cpu").scores(histories).numpy(), atol=1e-3)


def test_a_refitted_run_is_evaluated_on_the_test_part(cli, dataset, recvae_run, tmp_path):
    out = tmp_path / "all"
    assert cli("train", dataset, "--refit", recvae_run, "--out", out, "--quiet").status == 0
    answer = cli("evaluate", out, dataset, "--metrics", "recall@5", "--json")
    assert answer.status == 0, answer.err
    assert 0 < answer.json["models"]["recvae"]["metrics"]["recall@5"]["mean"] <= 1


@pytest.mark.parametrize("again", [(), ("--refit",)], ids=["as it says", "with --refit"])
def test_an_interrupted_refit_goes_on_bit_for_bit(cli, run, weak, tmp_path, monkeypatch, again):
    assert cli("train", weak, "--refit", run, "--out", tmp_path / "whole", "--quiet").status == 0
    show = Epochs.epoch

    def interrupted(self, row):
        show(self, row)
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Epochs, "epoch", interrupted)
    out = tmp_path / "parts"
    stopped = cli("train", weak, "--refit", run, "--out", out)
    assert stopped.status == 130
    assert stopped.err.endswith(f"recvae train {weak} --out {out} --resume\n")
    monkeypatch.setattr(Epochs, "epoch", show)
    refused = cli("train", weak, "--out", out, "--resume", "--metric", "ndcg@5")
    assert refused.status == 2
    assert f"{out} is refitted, without validation: leave --metric out." in refused.err
    answer = cli("train", weak, *again, *([run] if again else []), "--out", out, "--resume", "--quiet")
    assert answer.status == 0, answer.err
    assert same_bits(weights(out), weights(tmp_path / "whole"))
    ours, theirs = (json.loads((folder / "run.json").read_text()) for folder in (out, tmp_path / "whole"))
    assert ours == theirs


@pytest.mark.parametrize(
    ("options", "listed"),
    [
        (("--model", "mult-vae"), "--model"),
        (("--config", "x.toml"), "--config"),
        (("--set", "train.epochs=3"), "--set"),
        (("--seed", "1", "--metric", "ndcg@5"), "--seed, --metric"),
    ],
)
def test_options_that_would_change_the_run_are_refused(cli, run, weak, tmp_path, options, listed):
    refuse(cli, weak, run, tmp_path, f"--refit takes everything from {run}: leave out {listed}.", *options)


def refuse(cli, dataset, run, tmp_path, said, *options):
    answer = cli("train", dataset, "--refit", run, "--out", tmp_path / "out", *options)
    assert answer.status == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert answer.out == ""
    assert not (tmp_path / "out").exists()


def test_runs_that_cannot_be_refitted_get_a_sentence(cli, run, weak, dataset, ease, clicks, tmp_path):
    refuse(cli, weak, tmp_path / "none", tmp_path, "none does not exist")
    refuse(cli, weak, weak, tmp_path, "is a dataset folder, not a run folder")

    columns = ("--user-column", "user", "--item-column", "item")
    few = tmp_path / "few.csv"
    few.write_text("\n".join(clicks.read_text().splitlines()[:900]))
    assert cli("prepare", few, *columns, "--out", tmp_path / "other", "--quiet").status == 0
    assert cli("prepare", clicks, *columns, "--seed", 3, "--out", tmp_path / "seed", "--quiet").status == 0
    for folder in (tmp_path / "other", tmp_path / "seed"):  # the same ids in another order are other columns too
        said = f"{ease} was trained on another catalogue (clicks) than that of {folder}"
        refuse(cli, folder, ease, tmp_path, said)

    assert cli("train", dataset, "--refit", ease, "--out", tmp_path / "all", "--quiet").status == 0
    refuse(cli, dataset, tmp_path / "all", tmp_path, "all was refitted itself, without validation.")

    begun = shutil.copytree(run, tmp_path / "begun")
    rows = run_folder.read_metrics(begun)
    best = run_folder.read_run(begun).best_epoch
    run_folder.write_metrics(begun, rows[: best + 1])  # one epoch of patience left
    refuse(cli, weak, begun, tmp_path, f"has done {best + 1} of its 60 epochs, and a later one may be best. Finish it")
    facts = json.loads((begun / "run.json").read_text())
    (begun / "run.json").write_text(json.dumps({**facts, "best_epoch": None}))
    reseal(begun)
    refuse(cli, weak, begun, tmp_path, "has no best epoch yet. Finish it first")
    (begun / "run.json").write_text(json.dumps({**facts, "config": {**facts["config"], "seed": "x"}}))
    reseal(begun)
    refuse(cli, weak, begun, tmp_path, "run.json was altered, or is another version's.")
    taken = cli("train", weak, "--refit", run, "--out", begun)
    assert taken.status == 2
    assert "exists already" in taken.err
