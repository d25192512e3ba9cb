"""The accuracy study's figures, from the files that its jobs left: one JSON per dataset.

A mean is over the test users of all splits, but for those who chose the options as the first split's validation users.
The same person may be a test user of several splits, so standard errors and intervals resample people, not values
(:mod:`eval.significance`). The row that the others are compared with is the variational model with the best validation
score.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from study_jobs import Place, read_run, winner
from study_rows import METRIC, METRICS, BlendRow, Row

from data_prep import Dataset
from eval import compare, summarize
from recvae.bench import facts
from recvae.errors import InputError
from recvae.files import read_json
from recvae.registry import MODELS, entry
from recvae.studies import STUDY, Study, read_study

Runs = dict[int, tuple[dict[str, Any], dict[str, Any]]]  # by seed: record and arrays


def summary(place: Place, environment: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Return what a dataset's runs say; rows whose runs are not all there are listed as missing."""
    done: dict[str, Runs] = {}
    choosers = Dataset.load(place.split(place.seeds[0])).user_ids("validation").astype(str)
    for row in (*place.rows, *place.blends):
        found = {seed: run for seed in place.seeds if (run := _current(place, row, seed)) is not None}
        if len(found) == len(place.seeds):
            done[row.name] = {seed: (record, _without(arrays, choosers)) for seed, (record, arrays) in found.items()}
    if not done:
        raise InputError(f"No row of {place.name} is done.")
    tested = [Dataset.load(place.split(seed)).user_ids("test").astype(str) for seed in place.seeds]
    left_out = sum(int(np.isin(people, choosers).sum()) for people in tested)
    studies = {row.name: read_study(place.search(row.name)) for row in place.rows if row.name in done}
    vaes = [row.name for row in place.rows if row.vae and row.name in done]
    best = max(vaes, key=lambda name: winner(studies[name], place.trials).value or 0.0, default=None)
    rows = {}
    for row in (*place.rows, *place.blends):
        if row.name in done:
            rows[row.name] = {**_about(place, row, studies.get(row.name)), **_figures(done[row.name], place.seeds)}
            if best not in (None, row.name):
                rows[row.name]["versus"] = _versus(done[row.name], done[best], place.seeds)
    doubled = {name: _double(place, study, done[name]) for name, study in studies.items()}
    doubled = {name: figures for name, figures in doubled.items() if figures is not None}
    if all(figures["trials"] <= place.trials for figures in doubled.values()):
        doubled = {}  # only models without options have had all that there is
    for name, figures in doubled.items():
        rows[name]["double"] = figures
    first = Dataset.load(place.split(place.seeds[0]))
    return {
        "title": f"Accuracy study on {place.name}",
        "command": command,
        "dataset": facts(first),
        "metric": METRIC,
        "splits": list(place.seeds),
        "budget": {"trials": place.trials, "double": 2 * place.trials if doubled else None},
        "reference": best,
        "rows": rows,
        "missing": [row.name for row in (*place.rows, *place.blends) if row.name not in done],
        **({"order": _order(rows, doubled)} if doubled else {}),
        "users_left_out": left_out,
        "made": _made(done),
        "seconds": _seconds(place, rows),
        "environment": dict(environment),
    }


def _without(arrays: Mapping[str, Any], people: Any) -> dict[str, Any]:
    """Return a run's values without those of some people."""
    kept = ~np.isin(arrays["user_ids"], people)
    return {name: values[kept] for name, values in arrays.items()}


def _current(place: Place, row: Row | BlendRow, seed: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return a run where it is done, is of this split, and is of what won the search (of those rows' runs)."""
    found = read_run(place.run(row.name, seed))
    if found is None or found[0]["files"] != Dataset.load(place.split(seed)).manifest["files"]:
        return None
    if isinstance(row, BlendRow):
        parts = {name: _current(place, place.row(name), seed) for name in row.rows}
        wanted: Any = {"rows": {name: part[0]["config"] for name, part in parts.items() if part is not None}}
    else:
        try:
            wanted = winner(read_study(place.search(row.name)), place.trials).config
        except InputError:
            return None
    return found if found[0]["config"] == wanted else None


def _about(place: Place, row: Row | BlendRow, study: Study | None) -> dict[str, Any]:
    """Return a row's name in print and source, its settings, and how they were found."""
    if isinstance(row, BlendRow) or study is None:
        return {"title": row.title, "paper": row.paper, "rows": list(getattr(row, "rows", ()))}
    best, model = winner(study, place.trials), entry(row.model)
    return {
        "title": row.title or model.title,
        "paper": row.paper or model.paper,
        "model": row.model,
        "saved": row.saved,
        "fixed": list(row.fixed(place.name)),
        "start": study.plan.starts[0][0],
        "config": best.config,
        "validation": best.value,
        "trial": best.number,
        "epoch": best.epoch,
        "trials": min(len(study.trials), place.trials),
        "tune_seconds": round(sum(trial.seconds for trial in study.trials[: place.trials]), 1),
    }


def _figures(runs: Runs, seeds: Sequence[int]) -> dict[str, Any]:
    """Return test metrics over all splits, of each, and of the first alone."""
    record, first = runs[seeds[0]]
    figures: dict[str, Any] = {
        "metrics": {name: summarize(_all(runs, name), clusters=_all(runs, "user_ids")).to_dict() for name in METRICS},
        "first": {name: summarize(first[name]).to_dict() for name in METRICS},
        "by_split": {name: [summarize(runs[seed][1][name]).mean for seed in seeds] for name in METRICS},
        "validation_by_split": [runs[seed][0]["validation"] for seed in seeds],
        "train_seconds": [runs[seed][0]["train_seconds"] for seed in seeds],
        "rank_seconds": [round(runs[seed][0]["rank_seconds"], 3) for seed in seeds],
    }
    if "weights" in record:
        figures |= {"weights": record["weights"], "validation": record["validation"]}
    return figures


def _versus(ours: Runs, theirs: Runs, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the paired differences to another row, over all splits and on the first one, by metric."""
    for seed in seeds:
        if not np.array_equal(ours[seed][1]["user_ids"], theirs[seed][1]["user_ids"]):
            raise InputError(f"Two rows were evaluated on different users of split {seed}.")
    people, first = _all(ours, "user_ids"), seeds[0]
    versus = {name: compare(_all(ours, name), _all(theirs, name), clusters=people).to_dict() for name in METRICS}
    return {**versus, "first": compare(ours[first][1][METRIC], theirs[first][1][METRIC]).to_dict()}


def _double(place: Place, study: Study, runs: Runs) -> dict[str, Any] | None:
    """Return what twice the budget gave on the first split; None where it was not spent yet."""
    seed = place.seeds[0]
    try:
        best, before = winner(study, 2 * place.trials), winner(study, place.trials)
    except InputError:
        return None
    about = {"trial": best.number, "validation": best.value, "trials": min(len(study.trials), 2 * place.trials)}
    about["tune_seconds"] = round(sum(trial.seconds for trial in study.trials[: 2 * place.trials]), 1)
    if best.config == before.config:
        return {**about, "same": True, "first": _first(runs[seed][1])}
    found = read_run(place.run(f"{study.folder.name if study.folder else ''}-double", seed))
    if found is None or found[0]["config"] != best.config or found[0]["files"] != runs[seed][0]["files"]:
        return None
    gain = compare(found[1][METRIC], runs[seed][1][METRIC]).to_dict()
    return {**about, "same": False, "config": best.config, "first": _first(found[1]), "gain": gain}


def _first(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: summarize(values[name]).to_dict() for name in METRICS}


def _order(rows: Mapping[str, Any], doubled: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows by their first split's test mean at both budgets, and the pairs whose order is not the same."""
    at = {name: rows[name]["first"][METRIC]["mean"] for name in doubled}
    twice = {name: doubled[name]["first"][METRIC]["mean"] for name in doubled}
    swaps = [[a, b] for a, b in combinations(doubled, 2) if (at[a] - at[b]) * (twice[a] - twice[b]) < 0]
    return {
        "at": sorted(at, key=lambda name: -at[name]),
        "double": sorted(twice, key=lambda name: -twice[name]),
        "swaps": [sorted(pair, key=lambda name: -at[name]) for pair in swaps],
    }


def _made(done: Mapping[str, Runs]) -> list[dict[str, Any]]:
    """Return the versions that runs were made with, each set once, with the first and the last day."""
    days: dict[str, list[str]] = {}
    for runs in done.values():
        for record, _ in runs.values():
            if "made" in record:
                days.setdefault(json.dumps(record["made"]["versions"], sort_keys=True), []).append(
                    record["made"]["date"]
                )
    return [{"versions": json.loads(key), "from": min(d), "to": max(d)} for key, d in sorted(days.items())]


def _seconds(place: Place, rows: Mapping[str, Any]) -> dict[str, float]:
    """Return the time of each part, of one process."""
    notes = [place.split(seed).with_name(f"split-{seed}.json") for seed in place.seeds]
    spent = {name: read_study(place.search(name)).trials for name in rows if (place.search(name) / STUDY).is_file()}
    parts = {
        "splits": sum(read_json(note)["seconds"] for note in notes if note.is_file()),
        "searches": sum(trial.seconds for trials in spent.values() for trial in trials[: place.trials]),
        "searches, second half": sum(trial.seconds for trials in spent.values() for trial in trials[place.trials :]),
        "runs": sum(sum(row["train_seconds"]) + sum(row["rank_seconds"]) for row in rows.values()),
    }
    return {name: round(seconds, 1) for name, seconds in parts.items()}


def _all(runs: Runs, name: str) -> Any:
    """Return one array over all splits, in the seeds' order."""
    return np.concatenate([arrays[name] for _, (_, arrays) in sorted(runs.items())])


def known(row: Row) -> bool:
    """Whether a row's model can run here: a peer may not be installed."""
    return row.model in MODELS
