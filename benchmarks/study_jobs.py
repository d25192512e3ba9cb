"""The accuracy study's jobs: splits, searches, runs, blends. Each leaves its files when it is done, and is done once.

    OUT/ml-1m/split-98765/                 a dataset folder for each seed
    OUT/ml-1m/tune/recvae/                 a study of recvae tune for each row, on the first split
    OUT/ml-1m/runs/recvae-98765/           the run folder of a row's winner on a split
    OUT/ml-1m/runs/recvae-98765.npz .json  its test users and their metrics; what it is and what it took
    OUT/ml-1m/runs/recvae-double-98765...  the winner at twice the budget, where it is another one

Within a split nothing but an evaluation reads a test user's clicks: epochs, options and weights are chosen on
validation users. The first split's, who choose options and weights, may be test users of the others; the summary
leaves them out.
"""

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from peers import register
from study_queue import Job, Tell
from study_rows import METRIC, METRICS, SEEDS, BlendRow, Row

from data_prep import Dataset, prepare
from recvae.bench import evaluated, measure
from recvae.blend import Blend, Trials, best_weights
from recvae.checkpoint import versions
from recvae.config import run_config, shipped
from recvae.errors import InputError
from recvae.feed import validate_with
from recvae.files import read_json, whole_file, write_json
from recvae.recommender import load
from recvae.spaces import Plan, changed, plan
from recvae.studies import STUDY, Study, Trial, read_study
from recvae.tuning import LARGEST_GRID, Events, tune


@dataclass(frozen=True)
class Source:
    """A dataset's name in the study, and the arguments of :func:`data_prep.prepare` but for the seed."""

    name: str
    arguments: Mapping[str, Any]
    scale: float = 1.0  # how long its jobs take beside those of others


@dataclass(frozen=True)
class Place:
    """The study of one dataset: where its files are, its rows, its splits and its budget."""

    out: Path
    source: Source
    rows: tuple[Row, ...]
    blends: tuple[BlendRow, ...] = ()
    seeds: tuple[int, ...] = SEEDS
    trials: int = 20

    @property
    def name(self) -> str:
        return self.source.name

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def split(self, seed: int) -> Path:
        return self.out / self.name / f"split-{seed}"

    def search(self, row: str) -> Path:
        return self.out / self.name / "tune" / row

    def run(self, row: str, seed: int) -> Path:
        return self.out / self.name / "runs" / f"{row}-{seed}"


def jobs(place: Place, *, double: bool, names: Collection[str] | None = None) -> list[Job]:
    """Return one dataset's jobs: first what the tables need, then the check with twice the budget.

    ``names``: of the rows and blends to work at, all without; a blend takes the runs of the others as they are.
    """
    first = place.seeds[0]
    rows = [row for row in place.rows if names is None or row.name in names]
    blends = [blend for blend in place.blends if names is None or blend.name in names]

    def job(what: str, kind: str, *arguments: Any, phase: int, cost: float, needs: Sequence[str]) -> Job:
        named = tuple(f"{place.name} {need}" for need in needs)
        return Job(f"{place.name} {what}", kind, (place, *arguments), phase, cost * place.source.scale, named)

    made = [job(f"split {seed}", "split", seed, phase=0, cost=1, needs=()) for seed in place.seeds]
    for row in rows:
        name, cost, at = row.name, row.cost * place.trials, place.trials
        made.append(job(f"tune {name}", "tune", name, at, phase=1, cost=cost, needs=[f"split {first}"]))
        for seed in place.seeds:
            needs = [f"split {seed}", f"tune {name}"]
            made.append(job(f"run {name} {seed}", "run", name, seed, at, phase=2, cost=row.cost, needs=needs))
        if double:
            needs = [f"tune {name}"]
            made.append(job(f"tune {name} twice", "tune", name, 2 * at, phase=4, cost=cost, needs=needs))
            needs = [f"tune {name} twice", f"run {name} {first}"]
            made.append(job(f"run {name} twice", "double", name, phase=5, cost=row.cost, needs=needs))
    there = [row.name for row in rows]
    for blend in blends:
        for seed in place.seeds:
            needs = [f"split {seed}", *(f"run {row} {seed}" for row in blend.rows if row in there)]
            needs += [f"run {blend.name} {first}"] if seed != first else []
            made.append(job(f"run {blend.name} {seed}", "blend", blend, seed, phase=3, cost=1, needs=needs))
    return made


def work(job: Job, tell: Tell) -> bool:
    """Do one job; return whether there was anything to do."""
    register()
    place, *arguments = job.arguments
    return WORK[job.kind](place, *arguments, lambda line: tell(f"{job.name}: {line}"))


# --- splits ------------------------------------------------------------------------------------------------------


def make_split(place: Place, seed: int, tell: Tell) -> bool:
    """Prepare one split; one that is there is checked from its hashes on."""
    del tell
    folder = place.split(seed)
    if folder.exists():
        Dataset.load(folder).verify()
        return False
    began = time.perf_counter()
    prepare(**place.source.arguments, seed=seed).save(folder)
    write_json(folder.with_name(f"{folder.name}.json"), {"seconds": round(time.perf_counter() - began, 3)})
    return True


@lru_cache(maxsize=4)  # jobs that follow one another are often about the same split
def dataset(folder: Path) -> Dataset:
    """Return a prepared split, with its matrices read once."""
    return Dataset.load(folder)


# --- searches ----------------------------------------------------------------------------------------------------


def search_plan(row: Row, dataset_name: str) -> Plan:
    """Return what a row's search tries, from today's shipped configurations and defaults."""
    known = f"{dataset_name}-{row.model}"
    config = known if known in shipped() else None
    made = plan(row.model, config=config, settings=row.fixed(dataset_name), space=row.space, metric=METRIC)
    if config is not None:
        return replace(made, starts=((f"shipped {known}", made.start),))
    return replace(made, starts=(("study" if row.begin else "defaults", changed(made.start, row.begin)),))


def _begun(folder: Path, wanted: Plan, row: Row, dataset_name: str) -> Plan:
    """Return the plan of a search that was begun: a configuration shipped since then does not change it.

    Raises :class:`InputError` where the row was edited, so that its trials are of something else.
    """
    was = read_study(folder).plan
    fixed = plan(row.model, settings=row.fixed(dataset_name), space=row.space, metric=METRIC).start
    keys = _keys(row.fixed(dataset_name))
    same = all(_value(was.start.to_dict(), key) == _value(fixed.to_dict(), key) for key in keys)
    if was.model != wanted.model or was.metric != wanted.metric or was.space != wanted.space or not same:
        raise InputError(f"{folder} searched otherwise than the row '{row.name}' does now. Delete it to search again.")
    return was


def tune_row(place: Place, name: str, trials: int, tell: Tell) -> bool:
    """Search on the first split until there are ``trials`` trials, or everything was tried."""
    row, folder = place.row(name), place.search(name)
    wanted = search_plan(row, place.name)
    before = 0
    if (folder / STUDY).is_file():
        wanted = _begun(folder, wanted, row, place.name)
        found = read_study(folder)
        if enough(found, trials):
            return False
        before = len(found.trials)

    def on_done(trial: Trial, study: Study) -> None:
        value = trial.state if trial.value is None else f"{METRIC} {trial.value:.4f}"
        best = "" if study.best is None else f", best {study.best.value:.4f}"
        tell(f"trial {trial.number} of {trials}, {value}{best}, {trial.seconds:.1f} s")

    data = dataset(place.split(place.seeds[0]))
    study = tune(wanted, data, folder, trials=trials, device="cpu", resume=True, events=Events(on_done=on_done))
    return len(study.trials) > before


def enough(study: Study, trials: int) -> bool:
    """Whether a search has had ``trials`` trials, or has nothing left to try."""
    if len(study.trials) >= trials:
        return True
    points = study.plan.points(LARGEST_GRID)
    if points is None:
        return False
    tried = {json.dumps(trial.config, sort_keys=True) for trial in study.trials}
    return all(json.dumps(study.plan.config(point).to_dict(), sort_keys=True) in tried for point in points)


def winner(study: Study, trials: int) -> Trial:
    """Return the best complete trial among the first ``trials``, the earliest of equals."""
    complete = [trial for trial in study.trials[:trials] if trial.value is not None]
    if not enough(study, trials) or not complete:
        raise InputError(f"{study.folder} has no winner of {trials} trials yet. Run the study again.")
    return max(complete, key=lambda trial: trial.value or 0.0)


# --- runs --------------------------------------------------------------------------------------------------------


def run_row(place: Place, name: str, seed: int, trials: int, tell: Tell) -> bool:
    """Train a row's winner on a split, and evaluate it on the split's test users."""
    del tell
    best = winner(read_study(place.search(name)), trials)
    return _run(place, place.row(name), seed, best, place.run(name, seed))


def run_double(place: Place, name: str, tell: Tell) -> bool:
    """Do the same with the winner at twice the budget on the first split, where it is another one."""
    del tell
    study = read_study(place.search(name))
    best = winner(study, 2 * place.trials)
    if best.config == winner(study, place.trials).config:
        return False
    return _run(place, place.row(name), place.seeds[0], best, place.run(f"{name}-double", place.seeds[0]))


def _run(place: Place, row: Row, seed: int, best: Trial, folder: Path) -> bool:
    """Train and evaluate one configuration, unless the record of just that is there."""
    data = dataset(place.split(seed))
    about = {"row": row.name, "seed": seed, "config": best.config, "files": data.manifest["files"]}
    if recorded(folder, about):
        return False
    model, result = measure(run_config(best.config), data, METRICS, metric=METRIC, device="cpu")
    if row.saved:
        model.save(folder, overwrite=True)
    about |= {"validation": model.metrics["validation"], "epoch": model.best_epoch}
    about |= {"train_seconds": result.train_seconds}
    record(folder, data, result.evaluation, about)
    return True


def run_blend(place: Place, blend: BlendRow, seed: int, tell: Tell) -> bool:
    """Evaluate a blend of a split's runs, with weights that the first split's validation users choose."""
    first, data = place.seeds[0], dataset(place.split(seed))
    runs = {row: _file(place.run(row, seed), ".json") for row in blend.rows}
    configs = {row: read_json(file)["config"] for row, file in runs.items()}
    about = {"row": blend.name, "seed": seed, "config": {"rows": configs}, "files": data.manifest["files"]}
    if seed != first:
        about["weights"] = read_json(_file(place.run(blend.name, first), ".json"))["weights"]
    if recorded(place.run(blend.name, seed), about):
        return False
    began = time.perf_counter()
    components = [load(place.run(row, seed), "cpu") for row in blend.rows]
    validation = validate_with(data, METRIC)
    mixed = Blend(components, data.validation_in, about.get("weights"), device="cpu")
    if seed == first:
        mixed = mixed.with_weights(best_weights(Trials(mixed, validation)))
        tell(", ".join(f"{row} {weight:g}" for row, weight in zip(blend.rows, mixed.weights, strict=True)))
    about |= {"weights": list(mixed.weights), "validation": validation(mixed), "epoch": None}
    about["train_seconds"] = round(time.perf_counter() - began, 3)
    record(place.run(blend.name, seed), data, evaluated(mixed, data, METRICS), about)
    return True


def read_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return a run's record and its arrays, ``user_ids`` and one float64 a metric; None where it is not done."""
    if not _file(folder, ".json").is_file():
        return None
    with np.load(_file(folder, ".npz"), allow_pickle=False) as arrays:
        return read_json(_file(folder, ".json")), dict(arrays)


def record(folder: Path, data: Dataset, evaluation: Any, about: Mapping[str, Any]) -> None:
    """Write a run's values per test user, and last its record, which makes it done."""
    _file(folder, ".json").unlink(missing_ok=True)
    with whole_file(_file(folder, ".npz")) as temporary, temporary.open("wb") as file:
        np.savez(file, user_ids=data.user_ids("test").astype(str), **evaluation.per_user)
    more = {"rank_seconds": evaluation.rank_seconds, "metrics": evaluation.to_dict()["metrics"]}
    made = {"date": date.today().isoformat(), "versions": versions()}
    write_json(_file(folder, ".json"), {**about, **more, "made": made})


def recorded(folder: Path, about: Mapping[str, Any]) -> bool:
    """Whether there is a record of just this."""
    if not (_file(folder, ".json").is_file() and _file(folder, ".npz").is_file()):
        return False
    found = read_json(_file(folder, ".json"))
    return all(found.get(key) == value for key, value in about.items())


def _file(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def _keys(settings: Iterable[str]) -> list[str]:
    return [setting.partition("=")[0].strip() for setting in settings]


def _value(config: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    return config[section][name] if name else config[section]


WORK = {"split": make_split, "tune": tune_row, "run": run_row, "double": run_double, "blend": run_blend}
