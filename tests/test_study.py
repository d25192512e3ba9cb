"""The accuracy study at a tiny size: its record equals an independent computation, and nothing is done twice."""

import csv
import json
import math
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracles_metrics
import pytest

from data_prep.dataset import Dataset

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SEEDS = (7, 1, 2)
TRIALS = 2


@pytest.fixture(scope="module")
def modules():
    """The study's modules, which import one another by their bare names as programs in one folder do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import study
        import study_jobs
        import study_page
        import study_queue
        import study_rows

        yield {m.__name__: m for m in (study, study_jobs, study_page, study_queue, study_rows)}
        for name in [name for name in sys.modules if name.startswith("study") or name in ("harness", "peers")]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def clicks(tmp_path_factory) -> Path:
    """Clicks of 90 people with two tastes, as a file."""
    rng = np.random.default_rng(5)
    file = tmp_path_factory.mktemp("clicks") / "clicks.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["user", "item"])
        for user in range(90):
            liked = rng.random(30) < np.where(np.arange(30) % 2 == user % 2, 0.5, 0.1)
            writer.writerows([user, item] for item in np.flatnonzero(liked))
    return file


@pytest.fixture(scope="module")
def place(modules, clicks, tmp_path_factory):
    """A study of three rows and a blend on three splits of that file."""
    rows, jobs = modules["study_rows"], modules["study_jobs"]
    columns = {"user_column": "user", "item_column": "item", "held_out_users": 20}
    small = ("model.latent=4", "train.epochs=2", "train.batch_size=40")
    return jobs.Place(
        tmp_path_factory.mktemp("study"),
        jobs.Source("tiny", {"name_or_file": str(clicks), **columns}),
        (
            rows.Row("mult-dae", "mult-dae", 3, {"": small}, vae=True),
            rows.Row("ease", "ease", 2, begin={"model.l2": 20.0}),
            rows.Row("popularity", "popularity", 1),
        ),
        (rows.BlendRow("blend", ("mult-dae", "ease")),),
        SEEDS,
        TRIALS,
    )


@pytest.fixture(scope="module")
def run(modules, place):
    """Do the study here, in no other process, and return its outcome and its record."""

    def run(place=place, names=None, workers=0):
        results = place.out / "results"
        outcome = modules["study"].study(
            [place],
            workers=workers,
            double=True,
            results=results,
            command="python benchmarks/study.py",
            log=place.out / "log.txt",
            names=names,
        )
        return outcome, json.loads((results / "study-tiny.json").read_text())

    return run


@pytest.fixture(scope="module")
def first(run):
    return run()


def split_of(place, seed):
    return Dataset.load(place.split(seed))


def ranked(scores, seen):
    """Unseen items, the best first, of equal ones the lower column; scores to the precision that both share."""
    return [item for item in np.lexsort((np.arange(len(scores)), -scores)) if item not in seen]


def values(data, scores):
    """ndcg@100 of each test user for dense float64 scores."""
    seen = [set(row.nonzero()[0]) for row in data.test_in.toarray()]
    wanted = [set(row.nonzero()[0]) for row in data.test_out.toarray()]
    lists = [ranked(row, items) for row, items in zip(scores, seen, strict=True)]
    return np.array(oracles_metrics.per_user("ndcg", lists, wanted, 100))


def popularity(data):
    return values(data, np.tile(data.train.toarray().sum(axis=0), (data.n_users("test"), 1)))


def ease(data, l2):
    x = data.train.toarray().astype(np.float64)
    p = np.linalg.inv(x.T @ x + l2 * np.eye(x.shape[1]))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0.0)
    return values(data, data.test_in.toarray().astype(np.float64) @ b)


def test_the_record_equals_an_independent_computation(first, place):
    outcome, told = first
    assert not outcome.failed
    assert told["missing"] == []
    data = {seed: split_of(place, seed) for seed in SEEDS}
    l2 = told["rows"]["ease"]["config"]["model"]["l2"]
    found = {
        "popularity": [popularity(data[seed]) for seed in SEEDS],
        "ease": [ease(data[seed], l2) for seed in SEEDS],
        "mult-dae": [np.load(f"{place.run('mult-dae', seed)}.npz")["ndcg@100"] for seed in SEEDS],
    }
    choosers = set(data[SEEDS[0]].user_ids("validation"))
    everyone = [user for seed in SEEDS for user in data[seed].user_ids("test")]
    people = [user for user in everyone if user not in choosers]
    assert len(set(people)) < len(people) < len(everyone)  # so that clusters and those left out matter
    assert told["users_left_out"] == len(everyone) - len(people)
    unseen = {seed: np.array([user not in choosers for user in data[seed].user_ids("test")]) for seed in SEEDS}
    found = {name: [v[unseen[seed]] for seed, v in zip(SEEDS, each, strict=True)] for name, each in found.items()}
    for name, per_split in found.items():
        row = told["rows"][name]
        np.testing.assert_allclose(row["by_split"]["ndcg@100"], [np.nanmean(v) for v in per_split], atol=1e-9)
        everything = np.concatenate(per_split)
        figure = row["metrics"]["ndcg@100"]
        assert figure["mean"] == pytest.approx(np.nanmean(everything), abs=1e-9)
        assert figure["se"] == pytest.approx(clustered_error(everything, people), abs=1e-9)
        assert figure["users"] == np.count_nonzero(~np.isnan(everything))
    assert told["reference"] == "mult-dae"
    difference = np.concatenate(found["ease"]) - np.concatenate(found["mult-dae"])
    versus = told["rows"]["ease"]["versus"]["ndcg@100"]
    assert versus["difference"] == pytest.approx(np.nanmean(difference), abs=1e-9)
    assert versus["se"] == pytest.approx(clustered_error(difference, people), abs=1e-9)
    assert versus["low"] < versus["difference"] < versus["high"]


def clustered_error(values, people):
    """The standard error of a ratio of sums over people, written out."""
    mean, residuals = np.nanmean(values), {}
    for value, person in zip(values, people, strict=True):
        if not math.isnan(value):
            residuals[person] = residuals.get(person, 0.0) + value - mean
    count = len(residuals)
    squares = sum(residual**2 for residual in residuals.values())
    return math.sqrt(count / (count - 1) * squares) / np.count_nonzero(~np.isnan(values))


def test_the_winner_is_the_best_trial_of_the_budget_and_its_run_repeats_its_score(first, place):
    told = first[1]
    for name in ("mult-dae", "ease"):
        trials = json.loads((place.search(name) / "trials.json").read_text())["trials"]
        assert len(trials) == 2 * TRIALS
        for budget, row in ((TRIALS, told["rows"][name]), (2 * TRIALS, told["rows"][name]["double"])):
            complete = [trial for trial in trials[:budget] if trial["value"] is not None]
            best = max(trial["value"] for trial in complete)
            assert row["validation"] == best
            assert row["trial"] == next(trial["number"] for trial in complete if trial["value"] == best)
        assert told["rows"][name]["validation_by_split"][0] == told["rows"][name]["validation"]
    assert told["rows"]["popularity"]["trials"] == 1


def test_a_blend_keeps_the_first_splits_weights(first, place):
    told = first[1]["rows"]["blend"]
    records = [json.loads(Path(f"{place.run('blend', seed)}.json").read_text()) for seed in SEEDS]
    assert all(record["weights"] == told["weights"] for record in records)
    alone = [first[1]["rows"][row]["validation"] for row in told["rows"]]
    assert told["validation"] >= max(alone)


def test_a_second_call_does_nothing(first, run):
    outcome, told = run()
    assert outcome.worked == []
    assert not outcome.failed
    assert sorted(outcome.kept) == sorted([*first[0].worked, *first[0].kept])
    assert told["rows"] == first[1]["rows"]


def test_what_is_missing_is_done_again_and_equal(first, run, place):
    Path(f"{place.run('ease', 1)}.json").unlink()
    outcome, told = run(names=["ease"])
    assert outcome.worked == ["tiny run ease 1"]
    assert told["rows"]["ease"]["metrics"] == first[1]["rows"]["ease"]["metrics"]


def test_a_row_that_was_edited_is_refused_and_the_others_go_on(first, run, place, modules):
    edited = replace(place.rows[0], settings={"": ("model.latent=5", "train.epochs=2", "train.batch_size=40")})
    outcome, _ = run(replace(place, rows=(edited, *place.rows[1:]), blends=()))
    assert "Delete it to search again" in outcome.failed["tiny tune mult-dae"]
    assert "tiny run mult-dae 1" in outcome.failed
    assert "tiny run ease 1" in outcome.kept


def test_the_page_says_what_the_record_says(first, place, modules, tmp_path):
    told = first[1]
    (tmp_path / "study-ml-100k.json").write_text(json.dumps(told))
    page = tmp_path / "docs" / "results.md"
    assert modules["study_page"].write_page(tmp_path, page) == ["ml-100k"]
    text = page.read_text()
    mean = told["rows"]["ease"]["metrics"]["ndcg@100"]["mean"]
    assert f"| EASE | {mean:.4f}".replace("0.", ".", 1) in text
    assert "Twice the budget, 4 trials in place of 2" in text
    assert (page.parent / "results" / "study-ml-100k.png").stat().st_size > 1000


def test_winners_become_configurations(first, place, modules, tmp_path):
    from recvae.config import resolve

    assert modules["study"].write_configs(place, tmp_path) == ["tiny-mult-dae", "tiny-ease"]
    for name in ("mult-dae", "ease"):
        config = resolve(config=str(tmp_path / f"tiny-{name}.toml")).to_dict()
        assert json.loads(json.dumps(config)) == first[1]["rows"][name]["config"]
        found_on = tomllib.loads((tmp_path / f"tiny-{name}.toml").read_text())["for"]
        assert found_on.keys() >= {"users", "items", "clicks"}


def test_a_row_without_a_configuration_starts_where_it_says(modules):
    rows, jobs = modules["study_rows"], modules["study_jobs"]
    row = rows.Row("new", "recvae", 1, {"": ("train.epochs=3",)}, begin={"model.gamma": 0.007})
    made = jobs.search_plan(row, "unknown")
    assert made.start.model.gamma == 0.007
    assert made.start.train.epochs == 3
    assert "train.epochs" not in made.space
    assert "model.gamma" in made.space
    shipped = jobs.search_plan(rows.Row("recvae", "recvae", 1, {"": ("train.epochs=3",)}), "ml-1m")
    assert shipped.starts[0][0] == "shipped ml-1m-recvae"
    assert shipped.start.train.decay == "cosine"


def test_processes_do_the_jobs_and_one_that_dies_takes_no_other_with_it(modules, tmp_path):
    queue = modules["study_queue"]
    jobs = [
        queue.Job("dies", "die", (), phase=0),
        queue.Job("after it", "write", (str(tmp_path / "never"),), phase=0, needs=("dies",)),
        queue.Job("first", "write", (str(tmp_path / "first"),), phase=1),
        queue.Job("second", "write", (str(tmp_path / "second"),), phase=2, needs=("first",)),
    ]
    lines = []
    outcome = queue.run_jobs(jobs, small_work, workers=1, tell=lines.append)
    assert outcome.worked == ["first", "second"]
    assert set(outcome.failed) == {"dies", "after it"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["first", "second"]
    assert any("status 3" in line for line in lines)


def small_work(job, tell):
    import os

    if job.kind == "die":
        os._exit(3)
    tell(job.name)
    Path(*job.arguments).touch()
    return True
