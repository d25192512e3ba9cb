"""The one way to train a configuration on a dataset: in memory or into a folder, fresh, resumed, refitted."""

from dataclasses import replace

import pytest

from data_prep import Dataset
from recvae.config import resolve
from recvae.errors import InputError
from recvae.experiments.measure import begin, evaluated, measure, validate_with
from recvae.experiments.refit import plan_refit
from recvae.models.mult import MultVAE
from recvae.recommender import load
from recvae.training.run_folder import read_metrics, read_run

METRIC = "ndcg@5"
SETTINGS = ("model.hidden=[8]", "model.latent=4", "train.batch_size=40", "train.epochs=3")


@pytest.fixture(scope="module")
def data(dataset):
    return Dataset.load(dataset)


def small():
    return resolve("mult-vae", None, SETTINGS)


def same_bits(one, two):
    one, two = one.tensors(), two.tensors()
    return one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)


@pytest.mark.parametrize("config", [small(), resolve("ease")], ids=["by epochs", "in one go"])
def test_in_memory_and_into_a_folder_are_one_model(data, tmp_path, config):
    rows = []
    fit = begin(config, data, metric=METRIC, device="cpu")
    assert fit.run(on_epoch=rows.append) > 0
    kept = begin(config, data, metric=METRIC, device="cpu", folder=tmp_path / "run")
    kept.run()
    loaded = load(tmp_path / "run", "cpu")
    assert same_bits(fit.model, loaded)
    assert fit.model.metrics == kept.model.metrics == loaded.metrics == {"validation": fit.validation(loaded)}
    assert fit.model.dataset == loaded.dataset
    assert loaded.dataset["validation_metric"] == METRIC
    assert len(rows) == (3 if config.train is not None else 0)
    model, result = measure(config, data, "recall@5", metric=METRIC, device="cpu")
    assert same_bits(model, loaded)
    assert result.evaluation.metrics == evaluated(loaded, data, "recall@5").metrics
    with pytest.raises(InputError, match="exists already"):
        begin(config, data, folder=tmp_path / "run")
    begin(config, data, metric=METRIC, device="cpu", folder=tmp_path / "run", overwrite=True)


def test_a_resumed_run_keeps_its_metric_and_its_bits(data, tmp_path):
    whole = begin(small(), data, metric=METRIC, device="cpu")
    whole.run()
    config = small()
    part = replace(config, train=replace(config.train, stop_after=1))
    begin(part, data, metric=METRIC, device="cpu", folder=tmp_path / "run", resume=True).run()  # nothing to resume yet
    assert len(read_metrics(tmp_path / "run")) == 1
    rest = begin(config, data, device="cpu", folder=tmp_path / "run", resume=True)
    assert rest.metric == METRIC
    rest.run()
    assert same_bits(rest.model, whole.model)


def test_a_refit_is_not_validated(data, tmp_path):
    begin(small(), data, metric=METRIC, device="cpu", folder=tmp_path / "run").run()
    plan = plan_refit(tmp_path / "run")
    in_memory = begin(plan.config, data, refit=plan, device="cpu")
    assert in_memory.validation is None
    assert in_memory.clicks.nnz == data.refit_matrix().nnz
    in_memory.run()
    assert in_memory.model.metrics == {}
    begin(plan.config, data, refit=plan, device="cpu", folder=tmp_path / "all").run()
    again = begin(plan.config, data, device="cpu", folder=tmp_path / "all", resume=True)  # it knows that it is a refit
    assert again.validation is None
    assert again.model.dataset == read_run(tmp_path / "all").dataset == in_memory.model.dataset
    assert same_bits(in_memory.model, load(tmp_path / "all", "cpu"))
    with pytest.raises(InputError, match="is refitted, without validation"):
        begin(plan.config, data, metric=METRIC, folder=tmp_path / "all", resume=True)


def test_arguments_that_do_not_go_together(data, tmp_path):
    for more in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match="resume and overwrite are about a run's folder"):
            begin(small(), data, **more)
    with pytest.raises(InputError, match="'ease' is not trained by epochs, so there is nothing to resume"):
        begin(resolve("ease"), data, folder=tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="'r2' is about predicted ratings"):
        begin(small(), data, metric="r2")
    with pytest.raises(InputError, match="'r2' is about predicted ratings"):
        validate_with(data, "r2")


def test_nothing_is_trained_before_all_is_read(data, monkeypatch):
    monkeypatch.setattr(MultVAE, "fit", lambda *arguments, **more: pytest.fail("it trains"))
    fit = begin(small(), data, device="cpu")
    assert fit.metric == "ndcg@100"
    assert set(fit.inputs) == {"train", "item_ids", "titles"}
