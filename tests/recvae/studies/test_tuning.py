"""The search: what is proposed, pruning, failures, and studies that go on as if never interrupted."""

import json
import logging
import statistics
import sys
from dataclasses import asdict, replace

import pytest
from small_studies import TINY, TRIALS, facts

from recvae.baselines.ease import EASE
from recvae.config import run_config
from recvae.defaults import Size
from recvae.errors import InputError, WorkError
from recvae.experiments import proposals
from recvae.experiments import tune as tuning
from recvae.experiments.measure import validate_with
from recvae.experiments.space import changed, plan
from recvae.experiments.tune import Events, read_study, tune
from recvae.options import OneOf
from recvae.reports.figures import search as draw

# The search.


@pytest.mark.parametrize(
    ("made", "trials"),
    [
        (plan("popularity"), 1),
        (plan("ease", metric="recall@5"), 6),
        (plan("mult-dae", settings=[*TINY, "train.epochs=2"], metric="ndcg@10"), 6),
    ],
    ids=lambda value: getattr(value, "model", None),
)
def test_the_start_comes_first_and_the_best_is_never_below_it(data, made, trials, capfd, caplog):
    seen = []
    with caplog.at_level(logging.DEBUG):
        study = tune(made, data, trials=6, events=Events(on_done=lambda trial, study: seen.append(trial)))
    assert len(study.trials) == trials
    assert seen == study.trials
    assert run_config(study.trials[0].config) == made.for_data(Size.of(data.train)).start
    assert study.best.value >= study.trials[0].value
    assert study.best.value == max(trial.value for trial in study.trials if trial.state == "complete")
    assert run_config(study.best.config) == study.config
    assert len({json.dumps(trial.config) for trial in study.trials}) == trials
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("optuna")]


def test_a_trial_has_the_value_of_a_fit(data):
    study = tune(plan("ease", metric="recall@5"), data, trials=3)
    for trial in study.trials:
        model = EASE.from_config(run_config(trial.config)).fit(data.train)
        assert trial.value == validate_with(data, "recall@5")(model)


def test_a_small_space_is_gone_through_whole(data):
    """Three times two points, each once, though the start is none of them."""
    made = plan("edlae", space={"model.l2": OneOf(1, 10, 100), "model.dropout": OneOf(0.2, 0.4)})
    study = tune(made, data, trials=30)
    tried = [(trial.settings["model.l2"], trial.settings["model.dropout"]) for trial in study.trials[1:]]
    assert sorted(tried) == [(l2, dropout) for l2 in (1, 10, 100) for dropout in (0.2, 0.4)]


def test_no_configuration_is_trained_twice(data, monkeypatch):
    """Where the points are too many to know, a proposal may repeat; it takes the earlier trial's value."""
    monkeypatch.setattr(tuning, "LARGEST_GRID", 0)
    fits = []
    monkeypatch.setattr(EASE, "learn", lambda self, matrix, learn=EASE.learn: (fits.append(self), learn(self, matrix)))
    study = tune(plan("ease", space={"model.l2": OneOf(5, 500)}), data, trials=8)
    assert len(study.trials) == 8
    assert len(fits) == 2
    first = {}
    for trial in study.trials:
        twin = first.setdefault(trial.settings["model.l2"], trial)
        assert trial.value == twin.value
        assert trial.same_as == (None if twin is trial else twin.number)


def test_time_is_a_budget_too(data):
    assert len(tune(plan("ease"), data, seconds=1e-9).trials) == 1
    study = tune(plan("ease"), data, trials=9, seconds=1e-9)
    assert (len(study.trials), study.trials_wanted, study.seconds_wanted) == (1, 9, 1e-9)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"trials": 0}, "at least one trial"),
        ({"seconds": 0.0}, "some time"),
        ({"resume": True}, "name it"),
        ({"overwrite": True}, "name it"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_budgets_and_places_that_mean_nothing(data, more, said):
    with pytest.raises(InputError, match=said):
        tune(plan("ease"), data, **more)


# Pruning and failures.


def test_what_is_pruned_was_below_the_median(whole):
    """An oracle of the rule: after five complete trials and a third of the epochs, the best so far against theirs."""
    states = [trial.state for trial in whole.trials]
    assert states.count("pruned") >= 2
    assert states.count("complete") >= proposals.PRUNE_FROM
    assert whole.best.state == "complete"
    for place, trial in enumerate(whole.trials):
        earlier = [t for t in whole.trials[:place] if t.state == "complete"]
        below = []
        for epoch in range(1, len(trial.scores) + 1):
            best = max(score for _, score in trial.scores[:epoch])
            others = [max(score for _, score in t.scores[:epoch]) for t in earlier]
            below.append(4 / 3 <= epoch < 4 and len(others) >= 5 and best < statistics.median(others))
        assert [epoch for epoch, _ in trial.scores] == list(range(1, len(trial.scores) + 1))
        if trial.state == "pruned":
            assert (trial.value, trial.epoch) == (None, None)
            assert below == [False] * (len(below) - 1) + [True]
        else:
            assert len(trial.scores) == 4
            assert trial.value == max(score for _, score in trial.scores)
            assert place == 0 or not any(below)


def test_failures_are_recorded_and_cannot_win(data, monkeypatch, tmp_path):
    def learn(self, matrix, real=EASE.learn):
        if self.config.model.l2 < 20:
            raise MemoryError
        if self.config.model.l2 < 200:
            raise WorkError("There is no way.")
        real(self, matrix)

    monkeypatch.setattr(EASE, "learn", learn)
    search = {"model.l2": OneOf(10, 100, 1000)}
    made = plan("ease", space=search)
    made = replace(made, starts=(("given", changed(made.start, {"model.l2": 500.0})),))
    study = tune(made, data, tmp_path / "a", trials=4)
    said = {trial.settings["model.l2"]: trial.error for trial in study.trials}
    assert said == {10: "MemoryError", 100: "There is no way.", 500: None, 1000: None}
    assert study.to_dict()["counts"] == {"complete": 2, "pruned": 0, "failed": 2}
    assert facts(read_study(tmp_path / "a")) == facts(study)
    with pytest.raises(WorkError, match=r"No trial was complete. The first failure: There is no way\."):
        tune(plan("ease", settings=["model.l2=100"]), data, tmp_path / "b", trials=2)
    assert read_study(tmp_path / "b").best is None
    assert not (tmp_path / "b" / "best.toml").exists()
    monkeypatch.setattr(EASE, "learn", lambda self, matrix: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tune(plan("ease"), data, trials=2)


def test_a_loss_that_is_not_finite_is_a_failed_trial(data):
    space = {"train.learning_rate": OneOf(1e-3, 1e37)}
    fixed = [*TINY, "model.l2=0", "model.dropout=0.5"]
    study = tune(plan("mult-dae", settings=fixed, space=space), data, trials=2)
    assert [trial.state for trial in study.trials] == ["complete", "failed"]
    assert study.trials[1].error.startswith("The loss stopped being a finite number in epoch ")


def test_a_missing_optuna_is_one_sentence(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"^Tuning needs Optuna. Install it with: pip install 'recvae\[tune\]'$"):
        tune(plan("ease"), data, trials=1)


# The figure.


def test_the_figure_shows_every_trial(whole, tmp_path):
    """Pruned trials too, choices of lists, options without a place on the axis, and a search with one trial."""
    pytest.importorskip("matplotlib")
    rows = [asdict(trial) for trial in whole.trials]
    for row in rows:
        row["settings"]["model.hidden"] = [[], [600], None][row["number"] % 3]
        row["settings"]["model.l2"] = 0.0
    described = {
        "train.learning_rate": {"low": 1e-5, "high": 0.1, "log": True},
        "model.hidden": {"values": [[], [600]]},
        "model.l2": {"low": 1e-5, "high": 1e-4, "log": True},
    }
    svg = tmp_path / "a.svg"
    draw(rows, described, svg, metric="validation ndcg@10", title="Mult-DAE on clicks")
    assert svg.read_text().count("<use ") > TRIALS
    draw(rows[:1], {}, tmp_path / "b.svg")
    assert not whole.draw()  # Matplotlib is out of sight here
    with pytest.raises(InputError, match="nothing to draw"):
        draw([{**rows[0], "value": None}], {}, tmp_path / "c.svg")
