"""A study's figures, from the files that its jobs left: one JSON for each study.

The same person may be a test user of several splits, so standard errors and intervals resample people, not values.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from benchmarks.accuracy.jobs import Place, Run
from benchmarks.accuracy.rows import METRIC, METRICS, BlendRow, Row
from eval import compare, summarize
from recvae.errors import InputError, RecvaeError
from recvae.experiments.facts import facts
from recvae.experiments.study import STUDY, read_study
from recvae.files import read_json
from recvae.registry import entry

Runs = dict[int, Run]  # by seed


def summary(place: Place, environment: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Return the figures of a study's rows; rows whose runs are not all there are listed as missing."""
    first = place.data(place.seeds[0])
    choosers = first.user_ids("validation").astype(str)
    done: dict[str, Runs] = {}
    every: list[Row | BlendRow] = [*place.rows, *place.blends]
    for row in every:
        found = _runs(place, row, choosers)
        if len(found) == len(place.seeds):
            done[row.name] = found
    if not done:
        raise InputError(f"No row of {place.name} is done.")
    base = place.base if place.base in done else None
    if place.base is None:
        vaes = [row.name for row in place.rows if row.vae and row.name in done]
        base = max(vaes, key=lambda name: done[name][place.seeds[0]].record["validation"], default=None)
    rows: dict[str, Any] = {}
    for row in [row for row in every if row.name in done]:
        runs = done[row.name]
        rows[row.name] = {**_about(place, row), **_figures(runs, place.seeds)}
        if base is not None and runs[place.seeds[0]].record["config"] != done[base][place.seeds[0]].record["config"]:
            rows[row.name]["versus"] = _versus(runs, done[base])
    there = [row for row in place.rows if row.name in done]
    twice = {row.name: more for row in there if (more := _double(place, row, done[row.name])) is not None}
    if all(figures["trials"] <= place.trials for figures in twice.values()):
        twice = {}  # only models without options have had all that there is
    for name, figures in twice.items():
        rows[name]["double"] = figures
    made = {json.dumps(run.record["made"], sort_keys=True) for runs in done.values() for run in runs.values()}
    people = [place.data(seed).user_ids("test").astype(str) for seed in place.seeds]
    missing = [row.name for row in every if row.name not in done]
    left_out = sum(int(np.isin(ids, choosers).sum()) for ids in people)
    budget = {"trials": place.trials, "double": 2 * place.trials if twice else None}
    return {
        **{"title": place.name, "command": command, "dataset": facts(first), "metric": METRIC},
        **{"splits": list(place.seeds), "budget": budget, "reference": base, "rows": rows, "missing": missing},
        **({"order": _order(rows, twice)} if twice else {}),
        **{"users_left_out": left_out, "made": [json.loads(made) for made in sorted(made)]},
        **{"seconds": _seconds(place, rows), "environment": dict(environment)},
    }


def _runs(place: Place, row: Row | BlendRow, but_for: Any) -> Runs:
    """Return the runs that are done of the configuration that won a row, without the values of some people."""
    try:
        found = {seed: place.run(place.winner(row), seed) for seed in place.seeds}
    except RecvaeError:  # no search of it, or not enough of one
        return {}
    runs = {}
    for seed, run in found.items():
        if run is not None:
            kept = ~np.isin(run.arrays["user_ids"], but_for)
            runs[seed] = Run(run.record, {name: values[kept] for name, values in run.arrays.items()})
    return runs


def _about(place: Place, row: Row | BlendRow) -> dict[str, Any]:
    """Return a row's name in print and source, its settings, and how they were found."""
    if isinstance(row, BlendRow):
        return {"title": row.title, "paper": row.paper, "rows": list(row.rows)}
    model = entry(row.model)
    about: dict[str, Any] = {"title": row.title or model.title, "paper": model.paper, "saved": row.saved}
    about |= {"model": row.model, "fixed": list(row.fixed(place.dataset)), "config": place.winner(row)}
    if row.variants:
        configs = place.variants(row)
        about |= {"group": row.group, "chosen": list(row.variants[configs.index(place.winner(row))]), "variants": []}
        for settings, config in zip(row.variants, configs, strict=True):
            if run := place.run(config, place.seeds[0]):
                found = {key: run.record[key] for key in ("validation", "metrics")}
                about["variants"].append({"settings": list(settings), **found})
        return about
    study, best = read_study(place.search(row)), place.best(row, place.trials)
    seconds = sum(trial.seconds for trial in study.trials[: place.trials])
    about |= {"start": study.plan.starts[0][0], "trial": best.number, "trials": min(len(study.trials), place.trials)}
    return about | {"tune_seconds": round(seconds, 1)}


def _figures(runs: Runs, seeds: Sequence[int]) -> dict[str, Any]:
    """Return test metrics over all splits, of each, and of the first alone."""
    record, first = runs[seeds[0]].record, runs[seeds[0]].arrays
    figures: dict[str, Any] = {
        **{key: record[key] for key in ("validation", "epoch", "weights") if key in record},
        "metrics": {name: summarize(_all(runs, name), clusters=_all(runs, "user_ids")).to_dict() for name in METRICS},
        "first": _first(first),
        "by_split": {name: [summarize(runs[seed].arrays[name]).mean for seed in seeds] for name in METRICS},
        "validation_by_split": [runs[seed].record["validation"] for seed in seeds],
        "train_seconds": [runs[seed].record["train_seconds"] for seed in seeds],
        "rank_seconds": [round(runs[seed].record["rank_seconds"], 3) for seed in seeds],
    }
    if losses := record.get("losses"):
        last = losses.get("all") or next(iter(losses.values()))
        figures |= {"nll": last["nll"], "kl": last.get("kl")}
    return figures


def _versus(ours: Runs, theirs: Runs) -> dict[str, Any]:
    """Return the paired differences to another row over all splits, by metric."""
    people = _all(ours, "user_ids")
    return {name: compare(_all(ours, name), _all(theirs, name), clusters=people).to_dict() for name in METRICS}


def _double(place: Place, row: Row, runs: Runs) -> dict[str, Any] | None:
    """Return the figures of twice the budget on the first split; None where it was not spent yet."""
    seed = place.seeds[0]
    if row.variants:
        return None
    study = read_study(place.search(row))
    try:
        best = place.best(row, 2 * place.trials)
    except InputError:
        return None
    spent = study.trials[: 2 * place.trials]
    about = {"trial": best.number, "validation": best.value, "trials": len(spent)}
    about["tune_seconds"] = round(sum(trial.seconds for trial in spent), 1)
    if best.config == runs[seed].record["config"]:
        return {**about, "same": True, "first": _first(runs[seed].arrays)}
    found = place.run(best.config, seed)
    if found is None:
        return None
    gain = compare(found.arrays[METRIC], runs[seed].arrays[METRIC]).to_dict()
    return {**about, "same": False, "config": best.config, "first": _first(found.arrays), "gain": gain}


def _first(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: summarize(values[name]).to_dict() for name in METRICS}


def _order(rows: Mapping[str, Any], doubled: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows by their first split's test mean, and the pairs whose order is another at twice the budget."""
    at, twice = ({name: of[name]["first"][METRIC]["mean"] for name in doubled} for of in (rows, doubled))
    best = sorted(at, key=lambda name: -at[name])
    swaps = [[a, b] for a, b in combinations(best, 2) if (at[a] - at[b]) * (twice[a] - twice[b]) < 0]
    return {"at": best, "swaps": swaps}


def _seconds(place: Place, rows: Mapping[str, Any]) -> dict[str, float]:
    """Return the time of each part, of one process."""
    notes = [place.split(seed).with_name(f"split-{seed}.json") for seed in place.seeds]
    searches = [place.search(row) for row in place.rows if row.name in rows]
    spent = [read_study(folder).trials for folder in searches if (folder / STUDY).is_file()]
    parts = {
        "splits": sum(read_json(note)["seconds"] for note in notes if note.is_file()),
        "searches": sum(trial.seconds for trials in spent for trial in trials[: place.trials]),
        "searches, second half": sum(trial.seconds for trials in spent for trial in trials[place.trials :]),
        "runs": sum(sum(row["train_seconds"]) + sum(row["rank_seconds"]) for row in rows.values()),
    }
    return {name: round(seconds, 1) for name, seconds in parts.items()}


def _all(runs: Runs, name: str) -> Any:
    """Return one array over all splits, in the seeds' order."""
    return np.concatenate([run.arrays[name] for _, run in sorted(runs.items())])
