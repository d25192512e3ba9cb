"""Ratings on the command line: prepared, learned from, measured, and answered for."""

import numpy as np
import pytest

from recvae.cli import main
from recvae.cli.train import METRIC
from recvae.experiments import study
from recvae.recommender import load

SETTINGS = ("hidden=8", "latent=3", "ratings=true", "likelihood=gaussian")
SETTINGS = tuple(part for setting in SETTINGS for part in ("--set", f"model.{setting}"))
COLUMNS = ("--user-column", "user", "--item-column", "item")


def item_id(column):
    return f"{column:03}"


def write_rows(path, rows):
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def rated(tmp_path_factory):
    """120 users of two tastes who rate half of 30 items: what they like with 4 or 5, the rest with 1 or 2."""
    rng = np.random.default_rng(1)
    rows = [("user", "item", "stars")]
    for user in range(120):
        for item in rng.permutation(30)[:15]:
            liked = user % 2 == item % 2
            rows.append((f"u{user}", item_id(item), int(rng.choice([4, 5] if liked else [1, 2]))))
    return write_rows(tmp_path_factory.mktemp("rated") / "rated.csv", rows)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, rated):
    out = tmp_path_factory.mktemp("graded") / "graded"
    arguments = ["prepare", rated, *COLUMNS, "--rating-column", "stars", "--min-rating", "4", "--ratings"]
    assert main([*map(str, arguments), "--held-out-users", "25", "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture(scope="session")
def run(tmp_path_factory, folder):
    out = tmp_path_factory.mktemp("runs") / "gaussian"
    epochs = ("--set", "train.epochs=30", "--set", "train.batch_size=20", "--set", "train.learning_rate=0.01")
    arguments = ["train", str(folder), "--model", "vaeac", *SETTINGS, *epochs, "--device", "cpu", "--out", str(out)]
    assert main([*arguments, "--quiet"]) == 0
    return out


def test_prepare_says_how_many(cli, rated, tmp_path):
    given = ("prepare", rated, *COLUMNS, "--rating-column", "stars", "--min-rating", 4, "--held-out-users", 10)
    said = cli(*given, "--ratings", "--out", tmp_path / "d")
    assert said.status == 0
    assert f"ratings     {118 * 15:,} of these users and items" in said.out
    again = cli(*given, "--ratings", "--json", "--out", tmp_path / "e")
    assert sum(again.json["dataset"]["ratings"].values()) == 118 * 15  # two users like too little
    assert cli("prepare", "--train", rated, "--test", rated, "--ratings", "--out", tmp_path / "f").status == 2
    refused = cli(*given, "--split", "random", "--ratings", "--out", tmp_path / "g")
    assert refused.status == 2


def test_the_epoch_is_chosen_by_r2_and_evaluate_prints_errors(cli, folder, run):
    model = load(run)
    assert model.dataset["validation_metric"] == "r2"
    assert 0.3 < model.metrics["validation"] < 1
    found = cli("evaluate", run, folder, "--metrics", "recall@5", "--json").json
    metrics = found["models"]["vaeac"]["metrics"]
    assert list(metrics) == ["recall@5", "rmse", "mae"]
    assert 0 < metrics["mae"]["mean"] < metrics["rmse"]["mean"] < 1.0
    assert metrics["rmse"]["se"] > 0
    said = cli("evaluate", run, folder).out
    assert {"rmse", "mae", "@100"} <= set(said.split())
    assert "@" not in said.split()


def test_a_ranking_metric_chooses_where_it_is_asked_for(cli, folder, tmp_path):
    given = ("train", folder, "--model", "vaeac", *SETTINGS, "--set", "train.epochs=2", "--device", "cpu")
    assert cli(*given, "--metric", "ndcg@10", "--out", tmp_path / "one").status == 0
    assert load(tmp_path / "one").dataset["validation_metric"] == "ndcg@10"
    refused = cli("train", folder, "--model", "ease", "--metric", "r2", "--out", tmp_path / "two")
    assert refused.status == 2
    assert "'r2' is about predicted ratings" in refused.err
    plain = cli("train", folder, "--model", "vaeac", "--set", "model.latent=2", "--set", "model.hidden=4",
                "--set", "train.epochs=1", "--out", tmp_path / "three")  # fmt: skip
    assert plain.status == 0
    assert load(tmp_path / "three").dataset["validation_metric"] == METRIC


def test_tune_searches_by_what_train_chooses_by(cli, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "find_spec", lambda name: None)  # no figure
    given = ("tune", folder, "--model", "vaeac", *SETTINGS, "--set", "train.epochs=1", "--device", "cpu")
    given = (*given, "--search", "model.beta=0.1,1.0", "--trials", 1)
    found = cli(*given, "--out", tmp_path / "a")
    assert found.status == 0, found.err
    assert study.read_study(tmp_path / "a").plan.metric == "r2"
    assert "--metric" not in found.out
    ranked = cli(*given, "--metric", "ndcg@100", "--out", tmp_path / "b")
    assert "--metric ndcg@100 --out RUN" in ranked.out  # train alone would take r2
    files = study.read_study(tmp_path / "a").dataset["files"]
    assert {"train_ratings.data.npy", "validation_in_ratings.data.npy", "validation_out_ratings.data.npy"} < set(files)


def test_what_is_liked_must_be_what_the_clicks_are(cli, rated, folder, tmp_path):
    least = ("--rating-column", "stars", "--min-rating", 3, "--ratings", "--held-out-users", 10)
    assert cli("prepare", rated, *COLUMNS, *least, "--out", tmp_path / "d", "--quiet").status == 0
    small = ("--set", "model.hidden=4", "--set", "model.latent=2", "--set", "train.epochs=1", "--device", "cpu")
    given = (
        "train",
        tmp_path / "d",
        "--model",
        "vaeac",
        "--set",
        "model.ratings=true",
        *small,
        "--out",
        tmp_path / "r",
    )
    refused = cli(*given)
    assert refused.status == 2
    assert "set model.liked_from=3.0" in refused.err
    assert not (tmp_path / "r").exists()
    assert cli(*given, "--set", "model.liked_from=3").status == 0


def test_a_benchmark_is_of_clicks(cli, folder, tmp_path):
    config = tmp_path / "ratings.toml"
    config.write_text('name = "vaeac"\nmodel = { ratings = true }\n')
    refused = cli("benchmark", folder, "--models", "vaeac,ease", "--config", config, "--out", tmp_path / "b")
    assert refused.status == 2
    assert "'vaeac' learns from ratings, and a benchmark compares models of clicks" in refused.err
    assert "popularity" not in refused.err
    assert not (tmp_path / "b").exists()


def test_clicks_alone_are_not_enough(cli, dataset, tmp_path):
    refused = cli("train", dataset, "--model", "vaeac", *SETTINGS, "--out", tmp_path / "r")
    assert refused.status == 2
    assert "Prepare the dataset with --ratings" in refused.err
    assert not (tmp_path / "r").exists()
    refused = cli("train", dataset, "--model", "vaeac", "--set", "model.likelihood=gaussian", "--out", tmp_path / "r")
    assert refused.status == 2
    assert "Set ratings = true" in refused.err


def test_recommend_reads_ratings(cli, run, tmp_path):
    """Who disliked the even items is told of odd ones, and the other way round."""
    rows = [("user", "item", "stars")]
    rows += [("odd", item_id(item), 1) for item in range(0, 12, 2)] + [("odd", item_id(1), 5)]
    rows += [("even", item_id(item), 5) for item in range(0, 12, 2)] + [("even", item_id(1), 1)]
    histories = write_rows(tmp_path / "h.csv", rows)
    found = cli("recommend", run, "--histories", histories, "--rating-column", "stars", "-k", 5, "--json").json
    for user, parity in zip(found["users"], (1, 0), strict=True):
        assert {int(item["item_id"]) % 2 for item in user["items"]} == {parity}
    liked = cli("recommend", run, "--item", item_id(2), "--item", item_id(4), "-k", 5, "--json").json
    assert {int(item["item_id"]) % 2 for item in liked["users"][0]["items"]} == {0}


def test_recommend_says_what_is_missing_or_means_nothing(cli, run, ease, tmp_path):
    histories = write_rows(tmp_path / "h.csv", [("user", "item", "stars"), ("a", item_id(1), 0)])
    missing = cli("recommend", run, "--histories", histories)
    assert missing.status == 2
    assert "with --rating-column" in missing.err
    meaningless = cli("recommend", ease, "--histories", histories, "--rating-column", "stars")
    assert meaningless.status == 2
    assert "leave --rating-column out" in meaningless.err
    assert "count as liked" in cli("recommend", run, "--item", item_id(1), "--rating-column", "stars").err
    assert "must be above 0" in cli("recommend", run, "--histories", histories, "--rating-column", "stars").err


def test_a_refit_and_a_diagnosis(cli, folder, run, tmp_path):
    assert cli("train", folder, "--refit", run, "--out", tmp_path / "refit").status == 0
    assert cli("evaluate", tmp_path / "refit", folder).status == 0
    told = cli("diagnose", run, folder, "--samples", 20, "--users", 10, "--json")
    assert told.status == 0
    assert "nothing observed" in told.json["likelihood"]["prior"]
    assert told.json["latent"]["kl_is"] == "sampled"
