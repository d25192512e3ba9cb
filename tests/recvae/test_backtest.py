"""recvae backtest: the future changes nothing before it, stopped work goes on, and mistakes get a sentence."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from data_prep import TimeRules, read_log
from data_prep.moments import moment
from recvae.errors import ConfigError, DataError, FormatError, InputError
from recvae.experiments.backtest import PAGE, PARTS, PLAN, RESULTS, RUNS, Backtest, Entrant, Events, Plan, entrants
from recvae.experiments.backtest_results import outcome

NAMED = {"user_column": "u", "item_column": "i", "time_column": "t"}
METRICS = ("recall@3", "ndcg@5")
RULES = TimeRules(moment(60), validation_share=0.2, min_items_per_user=2)


def clicks(seed=0, users=40):
    """Return rows of user, item and time, 0 to 99, of users of two tastes."""
    draw = np.random.default_rng(seed)
    begins = draw.integers(0, 70, users)
    return [
        (user, int(item), int(draw.integers(begins[user], 100)))
        for user in range(users)
        for item in draw.permutation(np.arange(user % 2, 24, 2))[:9]
    ]


def log_of(rows):
    return read_log(pd.DataFrame(rows, columns=list("uit")), **NAMED)


def plan(**more):
    return Plan(**{"begin": 60.0, "every": 10.0, "refit_every": 20.0, "rules": RULES, "metrics": METRICS,
                   "metric": "ndcg@5", **more})  # fmt: skip


def ready(folder, rows=None, models=("popularity", "item-knn"), chosen=None, **more):
    work = Backtest(
        log_of(clicks() if rows is None else rows), chosen or entrants(models, ()), plan(**more), folder, "cpu"
    )
    work.prepare_folder(resume=False)
    return work


def tiny_dae(tmp_path, name="dae"):
    file = tmp_path / f"{name}.toml"
    file.write_text('name = "mult-dae"\n[model]\nhidden = [8]\n[train]\nepochs = 2\nbatch_size = 16\n')
    return entrants((), [str(file)])


def test_a_planted_future_changes_no_answer_before_it(tmp_path):
    """From time 80 on, half of the log is another one: fits and answers before that are the same to the bit."""
    early = [row for row in clicks() if row[2] < 80]
    late = [row for row in clicks() if row[2] >= 80]
    planted = [(user, (5 * user) % 24, 80) for user in range(40)] + [(99, item, 85) for item in range(24)]
    one, two = ready(tmp_path / "one", early + late), ready(tmp_path / "two", early + planted)
    for work in (one, two):
        work.run()
    assert [part["fit"] for part in one.parts(one.entrants[0])] == [0, 1]
    assert [one.questions[n].user.tolist() for n in (0, 1)] == [two.questions[n].user.tolist() for n in (0, 1)]
    for entrant in one.entrants:
        first, second = (work.parts(entrant)[0] for work in (one, two))
        assert {**first, "seconds": 0} == {**second, "seconds": 0}
        assert sum(map(len, first["values"].values()))


def test_the_outcome_adds_up(tmp_path):
    work = ready(tmp_path / "b")
    work.run()
    found = outcome(work, "ndcg@5")
    n = sum(window["questions"] for window in found["windows"])
    assert n == sum(group["questions"] for group in found["clicks_seen"]) == len(work.asked().user)
    assert len(found["windows"]) == 4
    for model in found["models"].values():
        assert model["metrics"]["ndcg@5"]["users"] == n
        for part, groups in (("windows", found["windows"]), ("by_clicks_seen", found["clicks_seen"])):
            means = [told["ndcg@5"]["mean"] for told in model[part]]
            total = sum(group["questions"] * (mean or 0) for group, mean in zip(groups, means, strict=True))
            assert total / n == pytest.approx(model["metrics"]["ndcg@5"]["mean"])
        assert [fit["at"] for fit in model["fits"]] == [60, 80]
    versus = [model["versus_best"] for model in found["models"].values() if "versus_best" in model]
    assert len(versus) == 1
    json.dumps(found, allow_nan=False)


def test_stopped_work_goes_on_with_the_same_end(tmp_path):
    chosen = [*entrants(("popularity",), ()), *tiny_dae(tmp_path)]
    whole = ready(tmp_path / "whole", chosen=chosen, warm=True)
    whole.run()
    stopped = ready(tmp_path / "stopped", chosen=chosen, warm=True)

    def stop(entrant, part):
        if entrant.label == "dae":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.run(Events(on_done=stop))
    stopped.prepare_folder(resume=True)
    fits = []
    stopped.run(Events(on_fit=lambda entrant, place, total: fits.append((entrant.label, place, total))))
    assert fits == [("popularity", 2, 2), ("dae", 2, 2)]
    for entrant in chosen:
        for one, two in zip(whole.parts(entrant), stopped.parts(entrant), strict=True):
            assert {**one, "seconds": 0} == {**two, "seconds": 0}
    warm = [part["warm"] for part in whole.parts(chosen[1])]
    assert warm == [False, True]
    assert [path.name for path in (tmp_path / "whole" / RUNS / "dae").iterdir()] == ["1"]
    other = Backtest(stopped.log, chosen[:1], stopped.plan, stopped.folder, "cpu")
    with pytest.raises(InputError, match="another choice of models"):
        other.prepare_folder(resume=True)
    part = tmp_path / "stopped" / PARTS / "dae-0.json"
    part.write_text(part.read_text().replace('"recall@3"', '"recall@4"'))
    with pytest.raises(FormatError, match=r"dae-0.json was altered. Delete it"):
        stopped.parts(chosen[1])


def test_a_backtest_whose_first_fit_fails_leaves_nothing(tmp_path):
    work = ready(tmp_path / "b")

    def fail(entrant, place, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work.run(Events(on_fit=fail))
    assert not (tmp_path / "b").exists()


def test_mistakes_get_a_sentence(tmp_path):
    with pytest.raises(InputError, match="Two models are called 'ease'"):
        entrants(("ease", "ease"), ())
    with pytest.raises(InputError, match="No model is named"):
        entrants((), ())
    with pytest.raises(InputError, match="There is no model 'eas'"):
        entrants(("eas",), ())
    with pytest.raises(ConfigError, match="whole set of lists"):
        ready(tmp_path / "b", metrics=("coverage@5",))
    with pytest.raises(DataError, match="no clicks before the cutoff"):
        ready(tmp_path / "b", begin=2.0)
    with pytest.raises(InputError, match="ends before the first window"):
        ready(tmp_path / "b", begin=200.0)
    with pytest.raises(InputError, match="needs times"):
        read_log(pd.DataFrame(clicks(), columns=list("uit")), user_column="u", item_column="i")
    assert not (tmp_path / "b").exists()
    assert isinstance(entrants(("ease",), ())[0], Entrant)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "clicks.csv"
    rows = [(u, i, f"2020-0{1 + t // 28}-{1 + t % 28:02}") for u, i, t in clicks()]
    pd.DataFrame(rows, columns=["user", "item", "when"]).to_csv(path, index=False)
    return path


def test_the_command_writes_results_and_a_page(cli, file, tmp_path):
    columns = ("--user-column", "user", "--item-column", "item", "--time-column", "when")
    out = tmp_path / "out"
    command = ("backtest", file, *columns, "--from", "2020-03-01", "--every", "7d", "--refit-every", "14d",
               "--models", "popularity,item-knn", "--metrics", "recall@3,ndcg@5", "--metric", "ndcg@5",
               "--min-items-per-user", 2, "--out", out)  # fmt: skip
    answer = cli(*command)
    assert answer.status == 0, answer.err
    assert "on items that the models had not learned yet" in answer.out
    assert "windows from 2020-03-01 on" in answer.out
    assert {path.name for path in out.iterdir()} == {PLAN, PARTS, RESULTS, PAGE}
    page = (out / PAGE).read_text()
    inside = re.search(r'<script type="application/json" id="backtest">(.*)</script>', page)
    assert json.loads(inside[1]) == json.loads((out / RESULTS).read_text())
    assert page.count("<script") == 1
    assert page.count("<polyline") == 4
    assert cli(*command).status == 2  # the folder is there
    again = cli(*command, "--resume", "--json")
    assert again.json["models"] == json.loads(inside[1])["models"]
    assert cli(*command[:-1], out, "--resume", "--seed", 3).status == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--every", "5d", "--refit-every", "7d"), "whole number of windows"),
        (("--every", "week"), "--every must be a time span above 0"),
        (("--from", "yesterday"), "--from must be a date"),
        (("--from", "2021-01-01"), "ends before the first window"),
        (("--models", "pop"), "There is no model 'pop'"),
        (("--validation-share", "2"), "validation share must lie between 0 and 1"),
        (("--questions", "0"), "number of questions"),
    ],
)
def test_mistakes_on_the_command_line(cli, file, tmp_path, options, words):
    columns = ("--user-column", "user", "--item-column", "item", "--time-column", "when")
    given = () if "--models" in options else ("--models", "popularity")
    answer = cli("backtest", file, *columns, *given, *options, "--out", tmp_path / "out")
    assert (answer.status, answer.out) == (2, "")
    assert words in answer.err
    assert not (tmp_path / "out").exists()
