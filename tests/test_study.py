"""The accuracy study at a tiny size: its record equals an independent computation, and nothing is done twice."""

import csv
import json
import math
import multiprocessing
import os
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import oracles_metrics
import pytest

from benchmarks import pages
from benchmarks.accuracy import jobs, queue, rows, study, tables
from data_prep.dataset import Dataset

SEEDS = (7, 1, 2)
TRIALS = 2


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
def place(clicks, tmp_path_factory):
    """A study of three rows and a blend on three splits of that file."""
    columns = {"user_column": "user", "item_column": "item", "held_out_users": 20}
    small = ("model.latent=4", "train.epochs=2", "train.batch_size=40")
    return jobs.Place(
        tmp_path_factory.mktemp("study"),
        "study-tiny",
        {"name_or_file": str(clicks), **columns},
        "tiny",
        (
            rows.Row("mult-dae", "mult-dae", 3, {"otherwise": small}, vae=True),
            rows.Row("ease", "ease", 2, begin={"model.l2": 20.0}),
            rows.Row("popularity", "popularity", 1),
        ),
        (rows.BlendRow("blend", ("mult-dae", "ease")),),
        SEEDS,
        TRIALS,
    )


@pytest.fixture(scope="module")
def run(place):
    """Do the study here, in no other process, and return its outcome and its record."""

    def run(place=place, names=None, workers=0):
        results = place.out / "results"
        outcome = study.study([place], workers=workers, double=True, results=results, names=names)
        return outcome, json.loads((results / "study-tiny.json").read_text())

    return run


@pytest.fixture(scope="module")
def first(run):
    return run()


def files(place, name, seed, suffix):
    """The one file of a row's runs on a split: its winner's."""
    row = place.blends[0] if name == "blend" else place.row(name)
    folder = place.folder(place.winner(row), seed)
    return folder.with_name(folder.name + suffix)


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
        "mult-dae": [np.load(files(place, "mult-dae", seed, ".npz"))["ndcg@100"] for seed in SEEDS],
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
        trials = json.loads((place.search(place.row(name)) / "trials.json").read_text())["trials"]
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
    records = [json.loads(files(place, "blend", seed, ".json").read_text()) for seed in SEEDS]
    assert all(record["weights"] == told["weights"] for record in records)
    alone = [first[1]["rows"][row]["validation"] for row in told["rows"]]
    assert told["validation"] >= max(alone)


def test_a_second_call_does_nothing(first, run):
    before = run()[1]  # and not the first call's: another test makes a run anew, whose seconds are others
    outcome, told = run()
    assert outcome.worked == []
    assert not outcome.failed
    assert sorted(outcome.kept) == sorted([*first[0].worked, *first[0].kept])
    assert told["rows"] == before["rows"]


def test_what_is_missing_is_done_again_and_equal(first, run, place):
    files(place, "ease", 1, ".json").unlink()
    outcome, told = run(names=["ease"])
    assert outcome.worked == ["study-tiny run ease 1"]
    assert told["rows"]["ease"]["metrics"] == first[1]["rows"]["ease"]["metrics"]


def test_a_row_that_was_edited_is_refused_and_the_others_go_on(first, run, place):
    edited = replace(place.rows[0], settings={"otherwise": ("model.latent=5", "train.epochs=2", "train.batch_size=40")})
    outcome, _ = run(replace(place, rows=(edited, *place.rows[1:]), blends=()))
    assert "Delete it to search again" in outcome.failed["study-tiny tune mult-dae"]
    assert "study-tiny run mult-dae 1" in outcome.failed
    assert "study-tiny run ease 1" in outcome.kept


def test_the_page_says_what_the_record_says(first, place, tmp_path):
    told = first[1]
    (tmp_path / "study-ml-100k.json").write_text(json.dumps(told))
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    parts = ("run", "test", "splits", "blend", "budget")
    blocks = "".join(f"<!-- table: study ml-100k {part} -->\n<!-- end -->\n" for part in parts)
    page.write_text(f"# By hand\n\n{blocks}\n<!-- table: speed memory -->\n| by hand |\n<!-- end -->\nthe end\n")
    assert pages.fill_pages(page.parent, tmp_path) == ["results.md"]
    text = page.read_text()
    mean = told["rows"]["ease"]["metrics"]["ndcg@100"]["mean"]
    assert f"| EASE | {mean:.4f}".replace("0.", ".", 1) in text
    assert "Twice the budget, 4 trials in place of 2" in text
    assert text.startswith("# By hand\n\n<!-- table: study ml-100k run -->\n\n")
    assert text.endswith("<!-- table: speed memory -->\n\nNo run is recorded yet.\n\n<!-- end -->\nthe end\n")
    tables.forest(told, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
    assert pages.fill_pages(page.parent, tmp_path) == []


def test_verdicts_follow_from_the_figures():
    def row(title, low, high):
        versus = {"difference": (low + high) / 2, "low": low, "high": high}
        return {"title": title, "metrics": {"m": {"mean": versus["difference"]}}, "versus": {"m": versus}}

    text = tables.reading([row("a", -0.2, -0.1), row("b", 0.1, 0.2), row("c", -0.1, 0.1), row("d", -0.1, 0.2)], "m")
    assert text.endswith("Above it: b. Not told from it: d and c. Below it: a.")


@pytest.fixture(scope="module")
def family(place, clicks):
    """A study of rows with variants, one of which is the same configuration as another row's."""
    small = ("model.latent=4", "train.epochs=2", "train.batch_size=40")
    weights = tuple((f"model.beta_cap={cap}",) for cap in (0.1, 0.3))
    made = {"otherwise": (*small, "model.hidden=[8]")}
    return replace(
        place,
        name="family-tiny",
        rows=(
            rows.Row("base", "mult-vae", settings=made, title="the base", saved=False, variants=weights, group="all"),
            rows.Row("same", "mult-vae", settings=made, saved=False, variants=weights[:1], group="all"),
            rows.Row("dae", "mult-dae", settings={"otherwise": small}, saved=False, variants=((),), group="all"),
        ),
        blends=(),
        seeds=SEEDS[:1],
        base="base",
    )


def test_rows_with_variants_are_the_best_of_them_and_equal_ones_are_trained_once(first, family):
    results = family.out / "results"
    ask = {"workers": 0, "double": True, "results": results}
    outcome = study.study([family], **ask)
    runs = ["base model.beta_cap=0.1", "base model.beta_cap=0.3", "dae"]
    assert sorted(outcome.worked) == [f"family-tiny run {name}" for name in runs]
    assert outcome.kept == [f"family-tiny split {SEEDS[0]}"]  # the other study's
    told = json.loads((results / "family-tiny.json").read_text())
    base, same, dae = (told["rows"][name] for name in ("base", "same", "dae"))
    best = max(base["variants"], key=lambda variant: variant["validation"])
    assert base["chosen"] == best["settings"]
    assert base["validation"] == best["validation"]
    assert base["metrics"]["ndcg@100"] == best["metrics"]["ndcg@100"]
    assert ("versus" in same) == (base["chosen"] != ["model.beta_cap=0.1"])
    assert dae["versus"]["ndcg@100"]["difference"] == pytest.approx(
        dae["metrics"]["ndcg@100"]["mean"] - base["metrics"]["ndcg@100"]["mean"]
    )
    assert base["kl"] > 0
    assert dae["kl"] is None
    text = "\n".join(tables.family(told, "tiny", "all"))
    assert f"| the base | {tables.value(base['metrics']['ndcg@100'])} |" in text
    assert study.study([family], **ask).worked == []


def test_winners_become_configurations(first, place, tmp_path):
    from recvae.config import resolve

    assert study.write_configs(place, tmp_path) == ["tiny-mult-dae", "tiny-ease"]
    for name in ("mult-dae", "ease"):
        config = resolve(config=str(tmp_path / f"tiny-{name}.toml")).to_dict()
        assert json.loads(json.dumps(config)) == first[1]["rows"][name]["config"]
        found_on = tomllib.loads((tmp_path / f"tiny-{name}.toml").read_text())["for"]
        assert found_on.keys() >= {"users", "items", "clicks"}


def test_a_row_without_a_configuration_starts_where_it_says():
    row = rows.Row("new", "recvae", 1, {"otherwise": ("train.epochs=3",)}, begin={"model.gamma": 0.007})
    made = jobs.search_plan(row, "unknown")
    assert made.start.model.gamma == 0.007
    assert made.start.train.epochs == 3
    assert "train.epochs" not in made.space
    assert "model.gamma" in made.space
    shipped = jobs.search_plan(rows.Row("recvae", "recvae", 1, {"otherwise": ("train.epochs=3",)}), "ml-1m")
    assert shipped.starts[0][0] == "shipped ml-1m-recvae"
    assert shipped.start.train.decay == "cosine"


@dataclass(frozen=True)
class Small(queue.Job):
    """A job that writes a file, or ends its process."""

    name: str
    file: str
    phase: int
    cost: float = 1.0

    def done(self):
        return Path(self.file).exists()

    def do(self, tell):
        if self.name == "dies":
            os._exit(3)
        tell("at work")
        Path(self.file).touch()


@pytest.mark.slow
def test_processes_do_the_jobs_and_one_that_dies_takes_no_other_with_it(tmp_path):
    (tmp_path / "before").touch()
    todo = [
        Small("dies", str(tmp_path / "dies"), phase=0),
        Small("there", str(tmp_path / "before"), phase=0),
        Small("first", str(tmp_path / "first"), phase=1),
        Small("second", str(tmp_path / "second"), phase=2),
    ]
    lines = []
    outcome = queue.run_jobs(todo, workers=2, tell=lines.append)
    assert outcome.worked == ["first", "second"]
    assert outcome.kept == ["there"]
    assert set(outcome.failed) == {"dies"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["before", "first", "second"]
    assert any("status 3" in line for line in lines)
    assert "first: at work" in lines


@pytest.mark.slow
def test_ctrl_c_ends_the_processes_at_once(tmp_path):
    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        queue.run_jobs([Small("first", str(tmp_path / "first"), phase=0)], workers=1, tell=stop)
    assert multiprocessing.active_children() == []
