"""Searches by several processes that share one of Optuna's storages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_studies import TINY, small_plan

from recvae.cli import main
from recvae.errors import InputError
from recvae.experiments.shared import tune_shared
from recvae.experiments.space import plan
from recvae.experiments.study import read_study
from recvae.experiments.tune import Events


def storages(folder: Path) -> dict[str, str]:
    return {"journal": str(folder / "search.journal"), "sqlite": f"sqlite:///{folder}/search.db"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_two_processes_share_a_study(data, tmp_path, kind):
    """Each trains some of the trials; the starting point comes once; both folders end with the trials of all."""
    command = [
        *(sys.executable, "-m", "recvae", "tune", str(data.path), "--model", "mult-dae", "--metric", "ndcg@10"),
        *(part for setting in TINY for part in ("--set", setting)),
        *("--search", "train.learning_rate=1e-5:0.1:log", "--trials", "8", "--device", "cpu", "--json", "--quiet"),
        *("--storage", storages(tmp_path)[kind], "--threads", "1"),
    ]
    started = [
        subprocess.Popen([*command, "--out", str(tmp_path / name)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name in ("one", "two")
    ]
    try:
        ended = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0, 0], ended
    trials = [json.loads(out)["trials"] for out, _ in ended]
    assert max(map(len, trials)) in (8, 9)  # one more where both ask at the same time
    longer = max(trials, key=len)
    assert [trial["number"] for trial in longer] == list(range(1, len(longer) + 1))
    assert [trial["source"] for trial in longer].count("given") == 1
    for name in ("one", "two"):
        study = read_study(tmp_path / name)  # whole, and sealed
        assert (tmp_path / name / "best.toml").exists()
        assert study.best.value == max(trial.value for trial in study.trials if trial.value is not None)


def test_tables_that_another_process_makes_at_the_same_moment_are_found(data, tmp_path, monkeypatch):
    """Optuna asks whether a database has tables, and makes them: of two processes that ask at once, one fails."""
    import optuna
    from sqlalchemy.exc import IntegrityError

    failures = []

    class Late(optuna.storages.RDBStorage):
        def __init__(self, *arguments, **more):
            super().__init__(*arguments, **more)
            if not failures:
                failures.append(
                    IntegrityError("INSERT INTO alembic_version", {}, Exception("UNIQUE constraint failed"))
                )
                raise failures[0]

    monkeypatch.setattr(optuna.storages, "RDBStorage", Late)
    study = tune_shared(small_plan(), data, tmp_path / "a", storages(tmp_path)["sqlite"], trials=1, device="cpu")
    assert len(study.trials) == len(failures) == 1


def test_a_storage_goes_on_and_holds_several_searches(data, tmp_path):
    for where in storages(tmp_path).values():
        done: list[int] = []
        events = Events(on_done=lambda trial, study, done=done: done.append(trial.number))
        for out, trials in (("a", 3), ("b", 5), ("c", 5)):
            folder = tmp_path / f"{out}-{len(where)}"
            study = tune_shared(small_plan(), data, folder, where, trials=trials, device="cpu", events=events)
            assert len(study.trials) == trials
            assert read_study(folder).best.value == study.best.value
        assert len(done) == 5  # c has nothing left to do, and has the trials all the same
        other = tune_shared(plan("ease", metric="recall@5"), data, tmp_path / f"d-{len(where)}", where, trials=2)
        assert {trial.config["name"] for trial in other.trials} == {"ease"}


def test_an_interrupted_start_is_left_for_the_next(data, tmp_path):
    where = storages(tmp_path)["journal"]

    def stop(number: int, config: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_shared(small_plan(), data, tmp_path / "a", where, trials=2, events=Events(on_trial=stop))
    study = tune_shared(small_plan(), data, tmp_path / "b", where, trials=2)
    assert [trial.source for trial in study.trials] == ["given", "searched"]


def test_a_storage_that_cannot_be_used_is_a_sentence(data, tmp_path, capfd):
    for storage, said in (
        (str(tmp_path / "nowhere" / "x.journal"), "There is no folder"),
        ("nosuch://user:secret@host/x", "The storage host/x cannot be used"),
        (f"sqlite:///{tmp_path}/nowhere/x.db", "cannot be used"),
    ):
        with pytest.raises(InputError, match=said) as error:
            tune_shared(small_plan(), data, tmp_path / "out", storage, trials=1)
        assert "secret" not in str(error.value)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    status = main(
        ["tune", str(data.path), "--model", "ease", "--storage", "x", "--resume", "--out", str(tmp_path / "o")]
    )
    assert status == 2
    assert "leave --resume out" in " ".join(capfd.readouterr().err.split())
