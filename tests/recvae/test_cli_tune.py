"""tune: the study's folder, a winner that trains to its value, resuming, and what is said."""

import csv
import json
import tomllib

import pytest

from recvae.cli.terminal import Terminal
from recvae.cli.tune import _Show
from recvae.experiments import study as studies
from recvae.experiments import tune as tuning
from recvae.recommender import load

DAE = ("--model", "mult-dae", "--set", "train.epochs=3", "--set", "model.hidden=[]", "--metric", "ndcg@10")
NARROW = ("--search", "model.latent=4,8,16", "--search", "train.batch_size=50,80")


@pytest.fixture(autouse=True)
def no_figures(request, monkeypatch):
    """Drawing takes longer than these searches."""
    if "figure" not in request.node.name:
        monkeypatch.setattr(studies, "find_spec", lambda name: None)


def test_the_winner_trains_to_its_value_exactly_and_the_figure_is_drawn(cli, dataset, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "study"
    answer = cli("tune", dataset, *DAE, *NARROW, "--trials", 5, "--out", out, "--json", "--quiet")
    assert (answer.status, answer.err) == (0, "")
    best = answer.json["best"]
    for run, more in (("a", ()), ("b", ("--seed", best["config"]["seed"]))):
        trained = cli(
            *("train", dataset, "--config", out / "best.toml", "--metric", "ndcg@10", "--out", tmp_path / run),
            *("--json", "--quiet", *more),
        )
        assert trained.json["metrics"]["ndcg@10"] == best["value"]
        assert trained.json["best_epoch"] == best["epoch"]
    model = load(tmp_path / "a")
    assert json.loads(json.dumps(model.config.to_dict())) == best["config"]
    assert model.config.model.latent == best["settings"]["model.latent"]
    header = (out / "best.toml").read_text().split("\n\n")[0]
    for said in (
        repr(best["value"]),
        "Mult-DAE on clicks",
        "recvae tune ",
        "--metric ndcg@10",
        "recvae train",
        "torch ",
    ):
        assert said in header
    assert (out / "tune.png").stat().st_size > 5000
    assert {file.name for file in out.iterdir()} == {
        "study.json", "trials.json", "trials.csv", "best.toml", "tune.png", "seal.json",
    }  # fmt: skip


def test_ease_as_a_document(cli, dataset, tmp_path):
    out = tmp_path / "study"
    answer = cli("tune", dataset, "--model", "ease", "--trials", 4, "--out", out, "--json", "--seed", 7)
    document = answer.json
    assert set(document) == {
        "study", "threads", "model", "metric", "space", "starts", "dataset", "budget", "command", "versions", "best",
        "counts", "seconds", "trials",
    }  # fmt: skip
    assert document["study"] == str(out)
    assert document["budget"] == {"trials": 4, "seconds": None}
    assert document["space"] == {"model.l2": {"low": 10.0, "high": 5000.0, "log": True}}
    assert document["counts"] == {"complete": 4, "pruned": 0, "failed": 0}
    assert [trial["number"] for trial in document["trials"]] == [1, 2, 3, 4]
    assert {trial["config"]["seed"] for trial in document["trials"]} == {7}
    assert document["trials"][0]["settings"] == {"model.l2": 280.0}  # which follows the data
    assert document["best"] in document["trials"]
    lines = answer.err.splitlines()  # progress
    assert len(lines) == 4
    assert lines[0].startswith("trial 1/4  ndcg@100 .")
    assert " * " in lines[0]
    assert "best ." in lines[3]
    assert "  l2=280  " in lines[0]
    with (out / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [trial["value"] for trial in document["trials"]]
    assert [float(row["model.l2"]) for row in rows] == [trial["settings"]["model.l2"] for trial in document["trials"]]
    assert tomllib.loads((out / "best.toml").read_text()) == document["best"]["config"]
    assert document["command"].endswith("--model ease --metric ndcg@100 --trials 4 --seed 7")


def test_what_is_said_to_a_person(cli, dataset, tmp_path):
    answer = cli("tune", dataset, "--model", "popularity", "--out", tmp_path / "a")
    assert answer.status == 0
    for said in ("Popularity on clicks: 30 trials", "there is one trial", "Best of 1 trial: validation ndcg@100 ."):
        assert said in answer.out
    assert f"recvae train {dataset} --config {tmp_path / 'a' / 'best.toml'} --out RUN" in answer.out
    answer = cli(
        *("tune", dataset, "--model", "ease", "--search", "model.l2=1,1000", "--minutes", 5, "--trials", 9),
        *("--metric", "recall@5", "--out", tmp_path / "b"),
    )
    assert "EASE on clicks: 9 trials or 5 minutes, recall@5 of 20 validation users decides" in answer.out
    assert "search model.l2=1,1000" in answer.out
    assert "Best of 3 trials" in answer.out
    assert "--metric recall@5 --out RUN" in answer.out
    quiet = cli("tune", dataset, "--model", "popularity", "--out", tmp_path / "c", "--quiet")
    assert (quiet.status, quiet.err, quiet.out.count("\n")) == (0, "", 2)


def test_pruned_and_failed_trials_have_their_lines(capsys):
    show = _Show(Terminal(), "ndcg@100", 12, threads=1)
    study = studies.Study(None, {})
    trial = studies.Trial(3, "searched", "pruned", {"model.l2": 0.01234567}, {}, scores=[[1, 0.2], [2, 0.1]])
    show.done(trial, study)
    study.trials.append(studies.Trial(4, "searched", "complete", {"model.hidden": [600]}, {}, value=0.25, seconds=2.04))
    show.done(study.best, study)
    show.done(studies.Trial(5, "searched", "failed", {}, {}, error="No memory.", same_as=4), study)
    assert capsys.readouterr().err.splitlines() == [
        "trial  3/12  pruned at epoch 2 with .2000  l2=0.01235  0.0 s",
        "trial  4/12  ndcg@100 .2500 *  best .2500  hidden=[600]  2.0 s",
        "trial  5/12  failed: No memory.  best .2500  the same as trial 4",
    ]


def test_ctrl_c_and_resume(cli, dataset, tmp_path, monkeypatch):
    """Stopped in trial 3: 130 and how to go on, which needs none of the arguments again."""
    out = tmp_path / "study"
    run = tuning.Runner.run

    def stop(self, study, number, *rest):
        if number == 3:
            raise KeyboardInterrupt
        return run(self, study, number, *rest)

    monkeypatch.setattr(tuning.Runner, "run", stop)
    command = ("tune", dataset, "--model", "ease", "--search", "model.l2=5:50", "--metric", "recall@5", "--trials", 5)
    answer = cli(*command, "--out", out)
    assert answer.status == 130
    assert f"Stopped after 2 trials; {out / 'best.toml'} has the best, recall@5 ." in answer.err
    assert f"Continue with: recvae tune {dataset} --out {out} --resume" in answer.err
    monkeypatch.undo()
    monkeypatch.setattr(studies, "find_spec", lambda name: None)
    for wrong, said in (
        (("--model", "recvae"), "holds a study of 'ease', not of 'recvae'"),
        (("--metric", "ndcg@100"), "--resume needs --metric recall@5"),
        (("--search", "model.l2=5:60"), "searched model.l2 otherwise"),
        (("--set", "model.l2=5"), "searched model.l2 otherwise"),
        (("--search", "model.l2=5:50", "--seed", 3), "another seed"),
    ):
        refused = cli("tune", dataset, "--out", out, "--resume", *wrong)
        assert refused.status == 2, wrong
        assert said in refused.err
    again = cli("tune", dataset, "--out", out, "--resume", "--json")
    assert again.status == 0, again.err
    whole = cli(*command, "--out", tmp_path / "whole", "--json", "--quiet")
    for study in (again, whole):
        assert [trial["number"] for trial in study.json["trials"]] == [1, 2, 3, 4, 5]
    assert [t["config"] for t in again.json["trials"]] == [t["config"] for t in whole.json["trials"]]
    assert [t["value"] for t in again.json["trials"]] == [t["value"] for t in whole.json["trials"]]
    assert again.json["best"]["value"] == whole.json["best"]["value"]
    done = cli(*command[:-2], "--out", out, "--resume", "--trials", 5)
    assert done.status == 0
    assert "5 trials done already" in done.out


def test_ctrl_c_in_the_first_trial_keeps_nothing_and_an_earlier_study_stays(cli, dataset, tmp_path, monkeypatch):
    out = tmp_path / "study"

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning.Runner, "run", stop)
    answer = cli("tune", dataset, "--model", "ease", "--out", out)
    assert answer.status == 130
    assert "Stopped before the first trial was done; nothing is kept." in answer.err
    assert not out.exists()
    monkeypatch.undo()
    monkeypatch.setattr(studies, "find_spec", lambda name: None)
    assert cli("tune", dataset, "--model", "popularity", "--out", out, "--quiet").status == 0
    refused = cli("tune", dataset, "--model", "ease", "--out", out)
    assert refused.status == 2
    assert "--overwrite" in refused.err
    monkeypatch.setattr(tuning.Runner, "run", stop)
    answer = cli("tune", dataset, "--model", "ease", "--out", out, "--overwrite")
    assert "nothing is kept" in answer.err
    assert studies.read_study(out).plan.model == "popularity"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Name a model with --model"),
        (("--model", "eas"), "Did you mean 'ease'?"),
        (("--model", "ease", "--trials", 0), "at least one trial"),
        (("--model", "ease", "--minutes", -1), "some time"),
        (("--model", "ease", "--metric", "ndgc@5"), "Did you mean"),
        (("--model", "ease", "--search", "model.l2=1:2", "--search", "model.l2=1:3"), "searched twice"),
        (("--model", "ease", "--search", "model.l2=1:2", "--set", "model.l2=3"), "both set and searched"),
        (("--model", "ease", "--search", "model.l2=9:2"), "lower end first"),
        (("--model", "ease", "--device", "abacus"), "abacus"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(cli, dataset, tmp_path, arguments, said):
    answer = cli("tune", dataset, "--out", tmp_path / "a", "--quiet", *arguments)
    assert answer.status == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_no_complete_trial_is_a_failure(cli, dataset, tmp_path):
    answer = cli(
        *("tune", dataset, *DAE, "--set", "train.learning_rate=1e37", "--search", "model.latent=4,8"),
        *("--set", "model.l2=0", "--set", "model.dropout=0.5", "--trials", 2, "--out", tmp_path / "a", "--quiet"),
    )
    assert answer.status == 1
    assert "No trial was complete. The first failure: The loss stopped being a finite number" in answer.err
