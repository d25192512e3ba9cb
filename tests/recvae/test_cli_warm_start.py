"""``recvae train --warm-start``, and what the library's one way to train says of starts that do not fit."""

import json
from types import SimpleNamespace

import pytest

from data_prep import Dataset
from recvae.cli import main
from recvae.config import resolve
from recvae.errors import InputError
from recvae.experiments.facts import doubt_about_start, facts
from recvae.experiments.measure import begin
from recvae.training import run_folder


@pytest.fixture(scope="module")
def tonight(tmp_path_factory, clicks):
    """The dataset of a night later: without the first three items, and with two that are new."""
    folder = tmp_path_factory.mktemp("tonight")
    lines = [line for line in clicks.read_text().splitlines() if not line.endswith((",000", ",001", ",002"))]
    lines += [f"u{user},new{user % 2}" for user in range(120)]
    (folder / "clicks.csv").write_text("\n".join(lines) + "\n")
    columns = ("--user-column", "user", "--item-column", "item", "--held-out-users", "20", "--quiet")
    assert main(["prepare", str(folder / "clicks.csv"), *columns, "--out", str(folder / "data")]) == 0
    return folder / "data"


@pytest.fixture(scope="module")
def warm(tmp_path_factory, tonight, recvae_run):
    """A run of tonight that starts from the run of the night before."""
    run = tmp_path_factory.mktemp("warm") / "run"
    assert main(["train", str(tonight), "--warm-start", str(recvae_run), "--out", str(run), "--quiet"]) == 0
    return run


def test_settings_and_metric_are_those_of_the_earlier_run(warm, recvae_run, capsys):
    before, after = run_folder.read_run(recvae_run), run_folder.read_run(warm)
    assert after.config == before.config
    assert after.dataset["validation_metric"] == before.dataset["validation_metric"] == "ndcg@5"
    assert after.start.version == run_folder.version_of(recvae_run)
    assert (after.start.kept_items, after.start.new_items, after.start.dropped_items) == (37, 2, 3)
    capsys.readouterr()
    assert main(["info", str(warm)]) == 0
    assert f"warm start version {after.start.version}, 37 items kept, 2 new, 3 left out" in capsys.readouterr().out


def test_the_command_says_what_it_does(tonight, recvae_run, tmp_path, capsys):
    arguments = ["train", str(tonight), "--warm-start", str(recvae_run), "--out", str(tmp_path / "run")]
    assert main([*arguments, "--set", "train.epochs=1", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["start"]["new_items"] == 2
    assert "a strong split draws its held-out users anew" in " ".join(told.err.split())
    assert main([*arguments, "--set", "train.epochs=2", "--resume"]) == 0  # the kept state wins
    assert main(["train", str(tonight), "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert run_folder.read_run(tmp_path / "run").start.new_items == 2


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--model", "mult-vae"), "can start only from a run of the same model"),
        (("--set", "model.hidden=8"), "A warm start needs the same shapes"),
        (("--config", "ml-100k-ease"), "EASE has no warm start: it is computed from all clicks in closed form"),
    ],
)
def test_starts_that_do_not_fit(more, sentence, tonight, recvae_run, tmp_path, capsys):
    arguments = ["train", str(tonight), "--warm-start", str(recvae_run), "--out", str(tmp_path / "run"), *more]
    assert main(arguments) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_closed_form_run_is_no_start(ease, dataset, tmp_path, capsys):
    assert main(["train", str(dataset), "--warm-start", str(ease), "--out", str(tmp_path / "run")]) == 2
    assert "EASE has no warm start" in capsys.readouterr().err


def test_a_run_cannot_start_from_its_own_folder(recvae_run, dataset):
    with pytest.raises(InputError, match=r"cannot start from .* and be written there"):
        begin(resolve("recvae"), Dataset.load(dataset), folder=recvae_run, overwrite=True, start=recvae_run)


def test_a_refit_starts_where_its_run_did(warm, recvae_run, tonight, dataset, tmp_path, capsys):
    arguments = ["train", str(tonight), "--refit", str(warm), "--out", str(tmp_path / "run"), "--quiet"]
    assert main(arguments) == 2
    assert "started from the run of version" in capsys.readouterr().err
    assert main([*arguments, "--warm-start", str(warm)]) == 2
    assert "is not" in " ".join(capsys.readouterr().err.split())
    assert main([*arguments, "--warm-start", str(recvae_run)]) == 0
    refitted = run_folder.read_run(tmp_path / "run")
    assert refitted.start == run_folder.read_run(warm).start
    assert main(["train", str(tonight), "--warm-start", str(tmp_path / "run"), "--out", str(tmp_path / "next")]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "refitted on validation clicks too. Start from the run that it was refitted from" in told
    assert run_folder.read_run(tmp_path / "next").config["train"]["stop_after"] == 0
    cold = ["train", str(dataset), "--refit", str(recvae_run), "--out", str(tmp_path / "cold")]
    assert main([*cold, "--warm-start", str(warm)]) == 2
    assert "had no warm start" in " ".join(capsys.readouterr().err.split())


def test_doubts_about_a_start(dataset, tonight):
    before, now = Dataset.load(dataset), Dataset.load(tonight)
    assert doubt_about_start("run", facts(before), before) == ""
    assert "--split temporal" in doubt_about_start("run", facts(before), now)
    assert "refitted" in doubt_about_start("run", facts(before, refit={}), before)
    told = {"vocabulary_hash": now.vocabulary_hash, "name": now.name, "path": None}
    later = SimpleNamespace(**told, manifest=now.manifest | {"protocol": {"split": "temporal"}})
    assert doubt_about_start("run", facts(before), later) == ""
