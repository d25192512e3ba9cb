"""The benchmark: which settings a model runs with, processes of their own, failures, and the files it writes."""

import importlib.util
import json
import multiprocessing
import signal
from pathlib import Path

import pytest

from eval import Evaluation, Metric
from recvae.config import resolve
from recvae.errors import InputError, WorkError
from recvae.experiments import benchmark as bench
from recvae.experiments import jobs
from recvae.registry import MODELS as REGISTRY
from recvae.reports.results import ModelResult, read_results

SMALL_VAE = """
name = "mult-vae"
model = { hidden = [8], latent = 4 }
train = { epochs = 2, batch_size = 80 }
"""
MANIFEST = {
    "name": "whatever",
    "before_split": {"users": 9, "items": 8, "clicks": 7},
    "counts": {"items": 8, "users": {"train": 7}, "clicks": {"train": 5}},
}


def test_the_default_models_are_the_registered_ones_that_take_minutes():
    slow_or_special = ("conditional-vae", "vamp-vae", "vaeac")
    assert bench.contenders() == [name for name in REGISTRY if name not in slow_or_special]


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """Settings for EASE that were found on MANIFEST's data, and a file for Mult-VAE."""
    shipped = tmp_path / "clicks-ease.toml"
    shipped.write_text('name = "ease"\nfor = { users = 9, items = 8, clicks = 7 }\nmodel = { l2 = 3.0 }\n')
    monkeypatch.setattr("recvae.config.shipped", lambda: {"clicks-ease": shipped})
    mine = tmp_path / "mine.toml"
    mine.write_text(SMALL_VAE)
    return mine


def test_settings_are_the_given_ones_else_the_shipped_ones_else_the_defaults(configs):
    chosen = bench.contestants(MANIFEST, ["ease", "mult-vae", "popularity", "ease"], [str(configs)], seed=5)
    assert [(c.config.name, c.source) for c in chosen] == [
        ("ease", "shipped clicks-ease"),
        ("mult-vae", f"--config {configs}"),
        ("popularity", "defaults"),
    ]
    assert chosen[0].config.model.l2 == 3.0
    assert chosen[1].config.train.epochs == 2
    assert all(c.config.seed == 5 for c in chosen)


def test_settings_nobody_uses_are_refused(configs):
    with pytest.raises(InputError, match="is for 'mult-vae', which is not among the models compared"):
        bench.contestants(MANIFEST, ["ease"], [str(configs)])
    with pytest.raises(InputError, match="Two configurations are for 'mult-vae'"):
        bench.contestants(MANIFEST, ["mult-vae"], [str(configs), str(configs)])
    with pytest.raises(InputError, match="No model is named"):
        bench.contestants(MANIFEST, [])


@pytest.mark.slow
def test_benchmark_goes_on_after_a_failure(cli, dataset, tmp_path, monkeypatch):
    """One model diverges; the others' work is kept, and the exit status says that not all is well."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    wild = tmp_path / "wild.toml"
    wild.write_text(SMALL_VAE.replace("epochs = 2", "epochs = 2, learning_rate = 1e30"))
    out = tmp_path / "bench"
    answer = cli(
        *("benchmark", dataset, "--models", "mult-vae,ease,popularity", "--config", wild, "--out", out),
        *("--metrics", "recall@5,ndcg@5", "--metric", "ndcg@5", "--json"),
    )
    assert answer.status == 1
    document = answer.json
    assert list(document["models"]) == ["ease", "popularity"]
    ease = document["models"]["ease"]
    assert set(ease["metrics"]["ndcg@5"]) == {"mean", "se", "users"}
    assert all(ease[key] >= 0 for key in ("train_seconds", "rank_seconds"))
    assert ease["config_from"] == "defaults"
    assert document["models"]["popularity"]["versus_best"]["metric"] == "ndcg@5"
    assert document["dataset"]["name"] == "clicks"
    assert "The loss stopped being a finite number" in document["failures"]["mult-vae"]
    if Path("/proc/self/status").exists():
        assert 100 < ease["peak_memory_mb"] < 2000
    assert answer.err.splitlines()[-1].startswith("Error: mult-vae failed: The loss stopped being")
    read = read_results(out / "results.json")
    assert read["models"] == document["models"]
    table = (out / "results.md").read_text()
    assert "| ease |" in table
    assert "Settings: ease: defaults; popularity: defaults." in table
    assert "mult-vae failed: The loss" in table
    assert (out / "comparison.png").exists() == (importlib.util.find_spec("matplotlib") is not None)


def small_vae(**train):
    settings = ["model.hidden=[8]", "model.latent=4", *(f"train.{key}={value}" for key, value in train.items())]
    return bench.Contestant(resolve("mult-vae", None, settings), "defaults")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_is_a_failure_and_ctrl_c_ends_it(dataset, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    heard = []

    def kill(row):
        heard.append(row)
        for process in multiprocessing.active_children():
            process.kill()

    endless = [small_vae(epochs=100_000)]
    outcome = bench.benchmark(dataset, endless, metrics="ndcg@5", metric="ndcg@5", events=bench.Events(on_epoch=kill))
    assert outcome.results == {}
    assert outcome.failures == {"mult-vae": "Its process was ended by SIGKILL, perhaps for lack of memory."}
    assert heard[0]["epoch"] == 1
    with pytest.raises(WorkError, match="every model failed"):
        bench.write_report(dataset, outcome)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.benchmark(dataset, endless, metrics="ndcg@5", metric="ndcg@5", events=bench.Events(on_epoch=stop))
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_dead_process_is_said_to_have_died_of():
    assert jobs._death(-11) == "Its process was ended by SIGSEGV."
    assert jobs._death(3) == "Its process ended with status 3 and without a result."


def test_a_metric_that_cannot_choose_an_epoch(dataset):
    with pytest.raises(InputError, match="'coverage@10' has no value per user"):
        bench.benchmark(dataset, [small_vae()], metrics="ndcg@5", metric="coverage@10")


def test_no_failure_leaves_the_folder_as_it_was(cli, dataset, tmp_path, monkeypatch):
    """Every model fails: nothing is written."""
    monkeypatch.setattr(bench, "_in_a_process", lambda task, events: ("It went wrong.", ""))
    answer = cli("benchmark", dataset, "--models", "ease", "--out", tmp_path / "bench")
    assert answer.status == 1
    assert answer.err.splitlines()[-1] == "Error: ease failed: It went wrong."
    assert list(tmp_path.iterdir()) == []


def test_the_table_says_where_the_settings_come_from(cli, dataset, tmp_path, monkeypatch):
    import numpy as np

    evaluation = Evaluation({"ndcg@5": Metric(0.5, 0.1, 20)}, {"ndcg@5": np.linspace(0, 1, 20)}, 0, 0.1, 0.1)
    result = ModelResult(evaluation, train_seconds=1.0, peak_memory_mb=300.0)

    def measured(task, events):
        task.keep.mkdir(parents=True)  # the trained model
        return result

    monkeypatch.setattr(bench, "_in_a_process", measured)
    command = ("benchmark", dataset, "--models", "ease,popularity", "--metrics", "ndcg@5", "--out", tmp_path / "bench")
    answer = cli(*command)
    assert answer.status == 0, answer.err
    assert "Settings: defaults (ease, popularity)." in answer.out
    assert f"Written to {tmp_path / 'bench'}: results.json, results.md" in answer.out
    assert "ease: test ndcg@5 .5000, trained in 1.0 s" in answer.err
    assert cli(*command).status == 2
    quiet = cli(*command, "--overwrite", "--quiet")
    assert quiet.status == 0
    assert quiet.err == ""
    assert "Settings" not in quiet.out
    assert json.loads((tmp_path / "bench" / "results.json").read_text())["models"]["ease"]["peak_memory_mb"] == 300.0


def test_peak_memory_is_this_process_and_rises():
    before = bench.peak_memory_mb()
    if before is None:
        pytest.skip("the system does not say")
    held = bytearray(200_000_000)
    held[::4096] = b"x" * len(held[::4096])
    assert bench.peak_memory_mb() > 10
    assert bench.peak_memory_mb() >= before
