"""A benchmark keeps its trained runs, and goes on with them after it was stopped."""

import json
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import recvae
from eval import Evaluation, Metric
from recvae.experiments import benchmark as bench
from recvae.experiments import benchmark_folder
from recvae.reports.results import ModelResult

ASKED = ("--models", "popularity,ease,edlae", "--metrics", "coverage@5,ndcg@5,recall@5", "--metric", "recall@5")


class Process:
    """Stands in for a model's process: trains here, remembers its models, and stops or fails where it should."""

    def __init__(self, monkeypatch):
        self.trained, self.stop_at, self.fail_at = [], None, None
        monkeypatch.setattr(bench, "_in_a_process", self)

    def __call__(self, task, events):
        from data_prep.dataset import Dataset
        from recvae.config import run_config

        name = task.config["name"]
        if name == self.stop_at:
            raise KeyboardInterrupt
        if name == self.fail_at:
            return "It failed.", ""
        self.trained.append(name)
        data = Dataset.load(task.folder)
        model, result = bench.measure(run_config(task.config), data, task.metrics, metric=task.metric, device="cpu")
        model.save(task.keep, overwrite=True)
        return ModelResult(**{**vars(result), "train_seconds": 1.5, "peak_memory_mb": 100.0})


def without_seconds(document):
    for model in document["models"].values():
        del model["rank_seconds"]
    document.pop("environment")
    return document


def test_the_trained_runs_are_kept_and_load(cli, dataset, tmp_path, monkeypatch):
    Process(monkeypatch)
    out = tmp_path / "bench"
    assert cli("benchmark", dataset, "--out", out, *ASKED).status == 0
    for name in ("popularity", "ease", "edlae"):
        model = recvae.load(out / "runs" / name)
        assert model.name == name
        evaluated = cli("evaluate", out / "runs" / name, dataset, "--metrics", "ndcg@5", "--json").json
        kept = json.loads((out / "results.json").read_text())["models"][name]
        assert evaluated["models"][name]["metrics"]["ndcg@5"] == kept["metrics"]["ndcg@5"]


def test_a_stopped_benchmark_goes_on_without_training_again_and_ends_alike(cli, dataset, tmp_path, monkeypatch):
    process = Process(monkeypatch)
    whole = cli("benchmark", dataset, "--out", tmp_path / "whole", *ASKED, "--json").json
    out = tmp_path / "stopped"
    process.stop_at, process.trained = "edlae", []
    stopped = cli("benchmark", dataset, "--out", out, *ASKED)
    assert stopped.status == 130
    assert f"Stopped. {out} holds popularity, ease. Continue with: recvae benchmark {dataset} --out {out} --resume" in (
        stopped.err
    )
    assert not (out / "results.json").exists()
    process.stop_at, process.trained = None, []
    resumed = cli("benchmark", dataset, "--out", out, "--resume", "--json")
    assert resumed.status == 0, resumed.err
    assert process.trained == ["edlae"]
    assert without_seconds(resumed.json) == without_seconds(whole)
    again = cli("benchmark", dataset, "--out", out, "--resume", "--json")
    assert process.trained == ["edlae"]
    assert again.json["models"] == json.loads((out / "results.json").read_text())["models"]


def test_a_failed_model_is_tried_again(cli, dataset, tmp_path, monkeypatch):
    process = Process(monkeypatch)
    process.fail_at = "ease"
    assert cli("benchmark", dataset, "--out", tmp_path / "bench", *ASKED).status == 1
    process.fail_at, process.trained = None, []
    assert cli("benchmark", dataset, "--out", tmp_path / "bench", "--resume").status == 0
    assert process.trained == ["ease"]


def test_progress_shows_the_metric_that_the_table_is_sorted_by(cli, dataset, tmp_path, monkeypatch):
    Process(monkeypatch)
    answer = cli("benchmark", dataset, "--out", tmp_path / "bench", *ASKED)
    assert "ease: test recall@5 ." in answer.err
    assert "coverage" not in answer.err
    assert "less the best" in answer.out
    assert bench.sorting_metric("ndcg@7", ["coverage@5", "ndcg@5"]) == "ndcg@5"
    assert bench.sorting_metric("ndcg@7", ["coverage@5"]) == "coverage@5"


def test_what_was_there_stays_until_the_first_model_is_finished(cli, dataset, tmp_path, monkeypatch):
    process = Process(monkeypatch)
    out = tmp_path / "bench"
    assert cli("benchmark", dataset, "--out", out, *ASKED).status == 0
    before = (out / "results.json").read_bytes()
    process.stop_at = "popularity"
    stopped = cli("benchmark", dataset, "--out", out, *ASKED, "--overwrite")
    assert "Stopped before the first model was finished; nothing is kept." in stopped.err
    assert (out / "results.json").read_bytes() == before
    process.stop_at = "ease"
    assert cli("benchmark", dataset, "--out", out, *ASKED, "--overwrite").status == 130
    assert not (out / "results.json").exists()
    assert cli("benchmark", dataset, "--out", out, *ASKED).status == 2  # it is there, unfinished
    process.stop_at = None
    assert cli("benchmark", dataset, "--out", out, *ASKED, "--overwrite").status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--models", "ease"), "leave out --models"),
        (("--metrics", "ndcg@5", "--seed", "1"), "leave out --metrics, --seed"),
    ],
)
def test_resume_takes_what_the_benchmark_was_begun_with(cli, dataset, tmp_path, monkeypatch, more, said):
    Process(monkeypatch)
    assert cli("benchmark", dataset, "--out", tmp_path / "bench", *ASKED).status == 0
    answer = cli("benchmark", dataset, "--out", tmp_path / "bench", "--resume", *more)
    assert answer.status == 2
    assert said in answer.err


def test_resume_refuses_another_dataset_and_damaged_files(cli, dataset, clicks, tmp_path, monkeypatch):
    Process(monkeypatch)
    out, other = tmp_path / "bench", tmp_path / "other"
    columns = ("--user-column", "user", "--item-column", "item")
    assert cli("prepare", clicks, *columns, "--held-out-users", 30, "--out", other, "--quiet").status == 0
    assert cli("benchmark", dataset, "--out", out, *ASKED).status == 0
    answer = cli("benchmark", other, "--out", out, "--resume")
    assert answer.status == 2
    assert "prepared otherwise than the dataset named here" in answer.err
    (out / "runs" / "ease.json").write_text('{"evaluation": 3}')
    answer = cli("benchmark", dataset, "--out", out, "--resume")
    assert answer.status == 2
    assert f"{out / 'runs' / 'ease.json'} was altered. Delete it" in answer.err
    for text in ("[]", '{"kind": "recvae-benchmark", "format": 1}', '{"kind": "x"}'):
        (out / "benchmark.json").write_text(text)
        answer = cli("benchmark", dataset, "--out", out, "--resume")
        assert answer.status == 2
        assert "benchmark.json was altered" in answer.err


def test_resume_without_anything_to_resume_begins(cli, dataset, tmp_path, monkeypatch):
    process = Process(monkeypatch)
    assert cli("benchmark", dataset, "--out", tmp_path / "bench", *ASKED, "--resume").status == 0
    assert process.trained == ["popularity", "ease", "edlae"]


def test_a_kept_result_comes_back_as_it_was(tmp_path):
    per_user = {"ndcg@5": np.array([0.1, np.nan, 1 / 3])}
    metrics = {"ndcg@5": Metric(0.2, 0.1, 2), "coverage@5": Metric(0.5, float("nan"), 2)}
    result = ModelResult(Evaluation(metrics, per_user, 1, 0.25, 0.5), 1.5, None, None, {"name": "ease"})
    plan = benchmark_folder.Plan((), "ndcg@5", "ndcg@5", {})
    with benchmark_folder.begin(tmp_path / "bench", plan) as kept:
        kept.place("ease").mkdir(parents=True)
        kept.add("ease", result)
        read = kept.result("ease")
    assert read.evaluation.metrics["ndcg@5"] == metrics["ndcg@5"]
    assert np.isnan(read.evaluation.metrics["coverage@5"].se)
    np.testing.assert_array_equal(read.evaluation.per_user["ndcg@5"], per_user["ndcg@5"])
    assert (read.train_seconds, read.peak_memory_mb, read.config) == (1.5, None, {"name": "ease"})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_a_real_ctrl_c_and_a_real_resume(cli, dataset, tmp_path):
    """Each model in a process of its own, ended while the second one trains."""
    endless = tmp_path / "endless.toml"
    endless.write_text('name = "mult-vae"\nmodel = { hidden = [8], latent = 4 }\ntrain = { epochs = 100000 }\n')
    out = tmp_path / "bench"
    command = [sys.executable, "-m", "recvae", "benchmark", str(dataset), "--models", "ease,mult-vae"]
    command += [
        "--config",
        str(endless),
        "--metrics",
        "ndcg@5",
        "--metric",
        "ndcg@5",
        "--threads",
        "1",
        "--out",
        str(out),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        watchdog = threading.Timer(120, process.kill)  # a hang is a failure
        watchdog.start()
        try:
            for line in process.stderr:
                if "mult-vae (2 of 2): epoch " in line:
                    process.send_signal(signal.SIGINT)
                    break
            said = process.stderr.read()
            assert process.wait(timeout=60) == 130
        finally:
            watchdog.cancel()
            process.kill()
    assert "--resume" in said
    assert recvae.load(out / "runs" / "ease").name == "ease"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
