"""A model that no file of recvae knows trains, is compared and tuned from the command line like any other."""

import pytest
from outside_models import ENTRIES, CoClick, CoLike, entry_of

from data_prep import Dataset
from eval import evaluate
from recvae.cli.quickstart import models_shown
from recvae.errors import InputError
from recvae.experiments import benchmark as bench
from recvae.recommender import load
from recvae.registry import MODELS, register


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for name, entry in ENTRIES.items():
        monkeypatch.setitem(MODELS, name, entry)


@pytest.mark.parametrize("name", ENTRIES)
def test_train_refit_and_what_uses_a_run(cli, dataset, tmp_path, name):
    run, data = tmp_path / "run", Dataset.load(dataset)
    trained = cli("train", dataset, "--model", name, "--metric", "recall@5", "--device", "cpu", "--out", run, "--json")
    assert trained.status == 0, trained.err
    model = load(run, "cpu")
    assert trained.json["metrics"]["recall@5"] == model.metrics["validation"]
    assert model.items.titles == data.item_titles.tolist()
    if name == CoClick.name:
        again = CoClick(device="cpu").fit(data.train)
        assert evaluate(again, data.validation_in, data.validation_out, "recall@5").metrics["recall@5"].mean == (
            pytest.approx(model.metrics["validation"], abs=1e-12)
        )
    for command in (
        ("evaluate", run, dataset),
        ("recommend", run, "--item", data.item_ids[0]),
        ("similar", run, "--item", data.item_ids[0]),
        ("diagnose", run, dataset),
        ("info", run),
        ("info", name),
    ):
        answer = cli(*command, "--json")
        assert answer.status == 0, answer.err
    if name == CoClick.name:  # the other keeps no record of its epochs
        refitted = cli("train", dataset, "--refit", run, "--out", tmp_path / "all", "--json")
        assert refitted.status == 0, refitted.err
        assert refitted.json["dataset"]["refit"]["clicks"] == data.refit_matrix().nnz
        assert refitted.json["metrics"] == {}


@pytest.mark.slow
def test_benchmark_tells_the_processes_of_it(cli, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    both = ",".join(ENTRIES)
    answer = cli("benchmark", dataset, "--models", f"{both},popularity", "--out", tmp_path / "bench", "--json")
    assert answer.status == 0, answer.err
    assert list(answer.json["models"]) == [*ENTRIES, "popularity"]
    assert all(model["config_from"] == "defaults" for model in answer.json["models"].values())
    assert load(tmp_path / "bench" / "runs" / CoClick.name).n_items == Dataset.load(dataset).n_items


def test_a_model_of_ratings_does_not_contend(cli, dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, CoLike.name, entry_of(CoLike))
    answer = cli("benchmark", dataset, "--models", "co-like,ease", "--out", tmp_path / "bench")
    assert answer.status == 2
    assert "'co-like' learns from ratings, and a benchmark compares models of clicks" in answer.err
    assert cli("train", dataset, "--model", "co-like", "--out", tmp_path / "run").status == 2  # the dataset has none


@pytest.mark.parametrize("name", ENTRIES)
def test_tune_without_and_with_a_space(cli, dataset, tmp_path, name):
    if name == CoClick.name:  # it declares nothing to be searched
        answer = cli("tune", dataset, "--model", name, "--out", tmp_path / "one", "--json")
        assert answer.status == 0, answer.err
        assert len(answer.json["trials"]) == 1
    searched = ("--search", "model.shrinkage=0,1,10", "--trials", 3, "--metric", "recall@5")
    answer = cli("tune", dataset, "--model", name, *searched, "--out", tmp_path / "three", "--json")
    assert answer.status == 0, answer.err
    trials = answer.json["trials"]
    assert [trial["state"] for trial in trials if trial["state"] == "failed"] == []
    assert all(trial["settings"]["model.shrinkage"] in (0, 1, 5, 10) for trial in trials)
    command = ("train", dataset, "--config", tmp_path / "three" / "best.toml", "--metric", "recall@5")
    assert (
        cli(*command, "--out", tmp_path / "run", "--json").json["metrics"]["recall@5"] == answer.json["best"]["value"]
    )


def test_who_contends_and_who_is_introduced():
    assert CoClick.name in bench.contenders()
    assert "co-click-by-epochs" not in bench.contenders()
    assert CoClick.name not in models_shown()


def test_being_introduced_is_not_inherited():
    from recvae.baselines.ease import EASE

    assert EASE.introduced
    assert not type("MyEASE", (EASE,), {"name": "my-ease"}).introduced


@pytest.mark.parametrize("kind", [object, 3, "mult-vae", CoClick.model_defaults])
def test_register_refuses_what_is_no_model_in_a_sentence(kind):
    with pytest.raises(InputError, match=r"register takes a subclass of recvae\.Recommender that has a name, and not"):
        register(kind)
