"""train and evaluate: run folders, resuming, Ctrl-C, and the tables and documents they print."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recvae.cli.terminal import Epochs, Terminal, epoch_line
from recvae.recommender import load
from recvae.training import run_folder


def rows(text):
    return [line for line in text.splitlines() if line.startswith("epoch ")]


def test_train_writes_a_run_and_says_how_it_went(cli, dataset, small, tmp_path):
    out = tmp_path / "run"
    answer = cli("train", dataset, "--model", "recvae", *small, "--set", "train.epochs=2", "--out", out)
    assert answer.status == 0, answer.err
    model = load(out)
    assert model.dataset["name"] == "clicks"
    assert model.dataset["validation_metric"] == "ndcg@100"
    assert model.items.titles[model.items.columns["000"]] == "Matrix, The (1999)"
    lines = rows(answer.err)
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1/2  encoder ")
    assert all(part in lines[0] for part in ("  decoder ", "  kl ", "ndcg@100 .", " *", " s"))
    for said in (
        "RecVAE on clicks: 160 users, 40 items",
        "hidden=16",
        "Validation ndcg@100 .",
        f"recvae evaluate {out}",
    ):
        assert said in answer.out
    assert (out / "curves.png").stat().st_size > 5000


def test_train_json_and_quiet(cli, dataset, tmp_path):
    answer = cli("train", dataset, "--model", "popularity", "--out", tmp_path / "a", "--json", "--metric", "recall@5")
    document = answer.json
    assert document["run"] == str(tmp_path / "a")
    assert document["model"] == "popularity"
    assert document["best_epoch"] is None
    assert 0 < document["metrics"]["recall@5"] < 1
    quiet = cli("train", dataset, "--model", "popularity", "--out", tmp_path / "b", "--quiet")
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")


def test_shipped_settings_are_pointed_out(cli, dataset, tmp_path, monkeypatch):
    file = tmp_path / "clicks-ease.toml"
    before = json.loads((dataset / "manifest.json").read_text())["before_split"]
    counts = ", ".join(f"{key} = {count}" for key, count in before.items())
    file.write_text(f'name = "ease"\nfor = {{ {counts} }}\nmodel = {{ l2 = 3.0 }}\n')
    monkeypatch.setattr("recvae.config.shipped", lambda: {"clicks-ease": file})
    answer = cli("train", dataset, "--model", "ease", "--out", tmp_path / "a")
    assert "--config clicks-ease" in answer.out
    answer = cli("train", dataset, "--config", "clicks-ease", "--out", tmp_path / "b")
    assert "l2=3.0" in answer.out
    assert "--config clicks-ease" not in answer.out


def test_resume_brings_its_own_settings_and_ends_with_the_same_bits(cli, dataset, recvae_run, small, tmp_path):
    out = tmp_path / "run"
    common = ("train", dataset, "--out", out, "--metric", "ndcg@5", "--quiet")
    assert cli(*common, "--model", "recvae", *small, "--set", "train.epochs=1").status == 0
    assert cli(*common, "--resume", "--set", "train.epochs=3").status == 0
    ours, theirs = (run_folder.read_weights(run)[0] for run in (out, recvae_run))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    finished = cli("train", dataset, "--out", out, "--metric", "ndcg@5", "--resume", "--set", "train.epochs=3")
    assert finished.status == 0
    assert rows(finished.err) == []
    other = cli(*common, "--model", "mult-vae", "--resume")
    assert other.status == 2
    assert f"{out} holds a 'recvae' run" in other.err


def test_resume_with_other_arithmetic_is_one_line_of_warning(cli, dataset, small, tmp_path, monkeypatch):
    out = tmp_path / "run"
    common = ("train", dataset, "--out", out, "--quiet")
    assert cli(*common, "--model", "recvae", *small, "--set", "train.epochs=1").err == ""
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "ABACUS")
    answer = cli(*common, "--resume", "--set", "train.epochs=2")
    assert answer.status == 0
    assert answer.err.startswith(f"Warning: {out / 'resume/state.safetensors'} was made with threads=")
    assert answer.err.count("\n") == 1


def test_a_baseline_has_nothing_to_resume(cli, dataset, tmp_path):
    answer = cli("train", dataset, "--model", "ease", "--out", tmp_path / "run", "--resume")
    assert answer.status == 2
    assert "'ease' is not trained by epochs" in answer.err


def test_overwrite_replaces_a_run_and_nothing_else(cli, dataset, tmp_path):
    out = tmp_path / "run"
    train = ("train", dataset, "--model", "popularity", "--out", out)
    assert cli(*train).status == 0
    refused = cli(*train)
    assert refused.status == 2
    assert f"{out} exists already" in refused.err
    assert cli(*train, "--overwrite").status == 0
    (out / "run.json").unlink()
    assert cli(*train, "--overwrite").status == 2
    assert (out / "model.safetensors").exists()


def interrupt_at(monkeypatch, epoch):
    show = Epochs.epoch

    def interrupted(self, row):
        show(self, row)
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(Epochs, "epoch", interrupted)


def test_resume_brings_its_own_validation_metric(cli, dataset, small, tmp_path):
    out = tmp_path / "run"
    few = ("--set", "train.epochs=2")
    assert cli("train", dataset, "--model", "recvae", *small, *few, "--metric", "ndcg@10", "--out", out).status == 0
    answer = cli("train", dataset, "--out", out, "--resume", "--set", "train.epochs=3", "--json")
    assert answer.status == 0
    assert answer.json["metrics"].keys() == {"ndcg@10"}


def test_ctrl_c_keeps_the_best_model_and_says_how_to_go_on(cli, dataset, small, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 2)
    out = tmp_path / "run"
    answer = cli("train", dataset, "--model", "recvae", *small, "--set", "train.epochs=9", "--out", out, "--json")
    assert answer.status == 130
    assert answer.out == ""
    said = answer.err.splitlines()[-1]
    best = load(out).best_epoch
    assert f"{out} holds the best model so far (epoch {best}, ndcg@100 ." in said
    assert said.endswith(f"Continue with: recvae train {dataset} --out {out} --resume")


def test_ctrl_c_before_the_first_epoch_leaves_nothing(cli, dataset, small, tmp_path, monkeypatch):
    def interrupted(self, done, total):
        raise KeyboardInterrupt

    monkeypatch.setattr(Epochs, "step", interrupted)
    out = tmp_path / "run"
    answer = cli("train", dataset, "--model", "recvae", *small, "--out", out)
    assert answer.status == 130
    assert answer.err == "Stopped before the first epoch was done; nothing is kept.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_a_real_ctrl_c(dataset, small, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "recvae", "train", str(dataset), "--model", "recvae", *small, "--out", str(out)]
    command += ["--set", "train.epochs=100000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stderr:
            if line.startswith("epoch "):
                process.send_signal(signal.SIGINT)
                break
        said = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert f"{out} holds the best model so far (epoch " in said
    assert load(out).best_epoch is not None


def test_evaluate_prints_the_agreed_shape(cli, recvae_run, dataset):
    answer = cli("evaluate", recvae_run, dataset, "--metrics", "ndcg@5,recall@20,novelty@5,coverage@5", "--json")
    assert answer.status == 0, answer.err
    document = answer.json
    assert set(document) == {"models", "dataset", "environment"}
    model = document["models"]["recvae"]
    assert list(model["metrics"]) == ["ndcg@5", "recall@20", "novelty@5", "coverage@5"]
    assert set(model["metrics"]["ndcg@5"]) == {"mean", "se", "users"}
    assert model["metrics"]["ndcg@5"]["users"] == 20
    assert model["config"]["model"]["hidden"] == 16
    assert document["dataset"]["split"] == "test"
    assert json.dumps(document)


def test_evaluate_on_validation_users_gives_what_training_kept(cli, recvae_run, dataset):
    answer = cli("evaluate", recvae_run, dataset, "--metrics", "ndcg@5", "--split", "validation", "--json")
    assert answer.json["models"]["recvae"]["metrics"]["ndcg@5"]["mean"] == load(recvae_run).metrics["validation"]


def test_evaluate_prints_a_table(cli, ease, dataset):
    answer = cli("evaluate", ease, dataset)
    assert answer.status == 0
    assert all(said in answer.out for said in ("ease", "ndcg", "@100", "±", "20 users"))
    assert answer.err == ""
    assert cli("evaluate", ease, dataset, "--quiet").out.count("\n") == answer.out.count("\n")


ROW = {
    "epoch": 7,
    "epochs": 50,
    "step": 70,
    "seconds": 1.25,
    "phases": {"all": {"loss": 512.345, "nll": 510.0, "kl": 8.5, "beta": 0.12}},
    "score": 0.41234,
    "best": True,
    "best_epoch": 7,
    "best_score": 0.41234,
}


def test_epoch_line():
    line = "epoch  7/50  loss 512.35  kl 8.50  beta 0.12  ndcg@100 .4123 *  1.2 s"
    assert epoch_line(ROW, "ndcg@100") == line
    unscored = {**ROW, "score": None, "best": False, "phases": {"all": {"loss": 1.0, "nll": 1.0}}}
    assert epoch_line(unscored, "ndcg@100") == "epoch  7/50  loss 1.00  1.2 s"


def test_on_a_terminal_one_bar_stands_for_the_run():
    from io import StringIO

    from rich.console import Console

    terminal = Terminal()
    screen = StringIO()
    terminal.err = Console(file=screen, force_terminal=True, width=120, markup=False, color_system=None)
    with terminal.epochs("ndcg@100", epochs=50, label="RecVAE") as display:
        display.step(5, 10)
        display.epoch(ROW)
        assert display.bar.tasks[0].completed == 7
        display.step(5, 10)
        assert display.bar.tasks[0].completed == 7.5
        display.bar.refresh()
    assert "RecVAE" in screen.getvalue()
    assert "epoch 7/50  best ndcg@100 .4123 in epoch 7" in screen.getvalue()
    with terminal.amounts(bytes=True) as progress:
        progress("download x.zip", 500, 1000)
        progress("download x.zip", 1000, 1000)
    assert "download x.zip" in screen.getvalue()


def test_sentences_stay_on_one_line_in_a_pipe(cli, tmp_path: Path):
    answer = cli("info", tmp_path / ("long" * 40))
    assert answer.err.count("\n") == 1
