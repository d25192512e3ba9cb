"""diagnose: its tables, its document, its page, and what it refuses."""

import json
import shutil

import pytest
from sealing import reseal

import recvae
from data_prep import Dataset
from recvae.files import read_json, write_json

FEW = ("--samples", "20", "--device", "cpu")


def test_tables_say_what_there_is(cli, recvae_run, dataset):
    answer = cli("diagnose", recvae_run, dataset, *FEW)
    assert answer.status == 0, answer.err
    for said in (
        "Training (nats per user)",
        "encoder",
        "The code: dimensions by what they tell of the user",
        "of 4 dimensions are active",
        "A dimension is active where the posterior mean varies by more than 0.01",
        "log p(x), nats per user",
        "1 (ELBO)",
        "effective samples of 20",
        "RecVAE's composite prior depends on the user",
        "recall@20 by users' activity",
        "recall@20 by items' popularity",
        "--out FILE.html",
    ):
        assert said in answer.out
    quiet = cli("diagnose", recvae_run, dataset, *FEW, "--quiet")
    assert "--out FILE.html" not in quiet.out
    assert "1 (ELBO)" in quiet.out
    assert quiet.err == ""


def test_document_and_page_hold_the_same(cli, recvae_run, dataset, tmp_path):
    out = tmp_path / "report.html"
    answer = cli("diagnose", recvae_run, dataset, *FEW, "--out", out, "--json")
    assert answer.status == 0, answer.err
    value = answer.json
    keys = ["kind", "model", "split", "settings", "validation_metric", "training", "latent", "likelihood", "recall"]
    assert list(value) == [*keys, "items", "notes", "run", "dataset", "environment"]
    assert value["kind"] == "recvae-diagnosis"
    assert value["settings"] == {"samples": 20, "users": 500, "seed": 98765}
    assert value["validation_metric"] == "ndcg@5"
    assert len(value["training"]) == 6  # three epochs of two phases
    assert len(value["latent"]["dimensions"]) == 4
    assert [bound["samples"] for bound in value["likelihood"]["bounds"]] == [1, 10, 20]
    assert len(value["items"]["points"]) == 40
    text = out.read_text(encoding="utf-8")
    assert "<title>RecVAE on clicks</title>" in text
    assert "Say &quot;Hello&quot;, [twice] (2001)" in text
    start = text.index('id="diagnosis">') + len('id="diagnosis">')
    assert json.loads(text[start : text.index("</script>", start)]) == value
    refused = cli("diagnose", recvae_run, dataset, *FEW, "--out", out)
    assert refused.status == 2
    assert f"{out} exists already" in refused.err
    again = cli("diagnose", recvae_run, dataset, *FEW, "--split", "train", "--out", out, "--overwrite")
    assert again.status == 0
    assert f"Written to {out}." in again.out
    assert "no held-out clicks" in again.out


def test_the_seed_is_the_runs_unless_given(cli, recvae_run, dataset):
    one, two, other = (
        cli("diagnose", recvae_run, dataset, *FEW, "--json", *more).json["likelihood"]
        for more in ((), ("--seed", "98765"), ("--seed", "1"))
    )
    assert one == two
    assert one != other


def test_a_baseline_has_its_recall_and_a_sentence(cli, ease, dataset):
    answer = cli("diagnose", ease, dataset, *FEW)
    assert answer.status == 0
    assert "EASE is no variational model, so there is no KL" in answer.out
    assert "recall@20 by items' popularity" in answer.out
    assert "The code" not in answer.out


def test_a_blend_is_diagnosed_like_a_baseline(cli, ease, recvae_run, dataset, tmp_path):
    assert cli("blend", ease, recvae_run, dataset, "--out", tmp_path / "blend", "--quiet").status == 0
    answer = cli("diagnose", tmp_path / "blend", dataset, *FEW, "--json")
    assert answer.status == 0, answer.err
    assert answer.json["latent"] is None
    assert answer.json["recall"]["overall"]["users"] == 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--split", "tset"), "There is no split 'tset' to look at; use test, validation, train."),
        (("--samples", "1"), "--samples and --users must be at least 2, and are 1 and 500."),
        (("--out", "report.txt"), "report.txt must end in one of .html, .htm"),
        (("--device", "abacus"), "The device 'abacus' cannot be used here."),
    ],
)
def test_options_that_cannot_be_are_one_sentence(cli, recvae_run, dataset, options, said):
    answer = cli("diagnose", recvae_run, dataset, *options)
    assert answer.status == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert answer.out == ""


def test_another_catalogue_is_one_sentence(cli, recvae_run, clicks, tmp_path):
    other = tmp_path / "other"
    columns = ("--user-column", "user", "--item-column", "item", "--min-users-per-item", "60")
    assert cli("prepare", clicks, *columns, "--held-out-users", "20", "--out", other, "--quiet").status == 0
    answer = cli("diagnose", recvae_run, other, *FEW)
    assert answer.status == 2
    assert f"{recvae_run} was trained on another catalogue (clicks) than that of {other}" in answer.err
    assert answer.err.count("\n") == 1


def test_a_split_without_held_out_clicks_is_one_sentence(cli, clicks, tmp_path):
    """A share so small that no user gives a click."""
    folder, run = tmp_path / "none", tmp_path / "run"
    columns = ("--user-column", "user", "--item-column", "item", "--held-out-users", "20")
    assert cli("prepare", clicks, *columns, "--held-out-share", "0.01", "--out", folder, "--quiet").status == 0
    data = Dataset.load(folder)
    recvae.Popularity().fit(data.train, item_ids=data.item_ids.tolist()).save(run)
    answer = cli("diagnose", run, folder, *FEW)
    assert answer.status == 2
    assert f"{folder} has no test users with held-out clicks." in answer.err
    assert answer.err.count("\n") == 1


def test_a_refitted_run_is_not_measured_on_what_it_learned(cli, recvae_run, dataset, tmp_path):
    run = tmp_path / "refitted"
    shutil.copytree(recvae_run, run)
    record = read_json(run / "run.json")
    record["dataset"]["refit"] = {"epoch": 3, "metric": "ndcg@5", "score": 0.5, "users": 180, "clicks": 2000}
    write_json(run / "run.json", record)
    reseal(run)
    answer = cli("diagnose", run, dataset, *FEW, "--split", "validation")
    assert answer.status == 2
    assert "refitted on the validation clicks too" in answer.err
