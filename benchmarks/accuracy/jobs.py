"""The jobs of a study: splits, searches, runs, blends. Each leaves its files when it is done, and is done once.

    OUT/ml-1m/split-98765/                            a dataset folder for each seed
    OUT/study-ml-1m/tune/recvae/                      a study of recvae tune for each row that is searched
    OUT/study-ml-1m/runs/recvae-98765-HASH/           a configuration's run folder on a split, where it is saved
    OUT/study-ml-1m/runs/recvae-98765-HASH.npz .json  its test users and their metrics; the configuration, what it took

The validation users of the first split choose options and weights, and may be test users of the others: the summary
leaves them out.
"""

import hashlib
import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.accuracy import peers
from benchmarks.accuracy.queue import Job, Tell
from benchmarks.accuracy.rows import METRIC, METRICS, SEEDS, BlendRow, Row
from data_prep import Dataset, prepare
from recvae.config import resolve, run_config, shipped, value_of
from recvae.errors import InputError
from recvae.experiments.blend_weights import Trials, best_weights
from recvae.experiments.measure import evaluated, measure, validate_with
from recvae.experiments.space import Plan, changed, plan
from recvae.experiments.study import STUDY, Study, Trial, read_study
from recvae.experiments.tune import LARGEST_GRID, Events, tune
from recvae.files import read_json, whole_file, write_json
from recvae.models.blend import Blend
from recvae.recommender import load
from recvae.training.versions import versions

Config = Mapping[str, Any]


class Run(NamedTuple):
    """The figures that a configuration gave on a split: the record, and ``user_ids`` and one float64 a metric."""

    record: dict[str, Any]
    arrays: dict[str, Any]


@dataclass(frozen=True)
class Place:
    """A study: its dataset, rows, splits and budget, and where its files are."""

    out: Path
    name: str
    source: Mapping[str, Any]  # the arguments of data_prep.prepare but for the seed
    dataset: str
    rows: tuple[Row, ...]
    blends: tuple[BlendRow, ...] = ()
    seeds: tuple[int, ...] = SEEDS
    trials: int = 20
    scale: float = 1.0  # how long its jobs take beside those of others
    base: str | None = None  # the row that the others are compared with; without, the best variational one

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def split(self, seed: int) -> Path:
        return self.out / self.dataset / f"split-{seed}"

    def data(self, seed: int) -> Dataset:
        return Dataset.load(self.split(seed))

    def folder(self, config: Config, seed: int) -> Path:
        """Return the place of a configuration's run on a split: equal configurations are trained once."""
        key = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
        return self.out / self.name / "runs" / f"{config['name']}-{seed}-{key}"

    def run(self, config: Config, seed: int) -> Run | None:
        """Return the run of a configuration on a split as it is now; None where it is not done."""
        note, values = (self.folder(config, seed).with_suffix(suffix) for suffix in (".json", ".npz"))
        record = read_json(note) if note.is_file() and values.is_file() else {}
        if record.get("config") != config or record["files"] != self.data(seed).manifest["files"]:
            return None
        with np.load(values, allow_pickle=False) as arrays:
            return Run(record, dict(arrays))

    def variants(self, row: Row) -> list[Config]:
        """Return the configurations of a row with variants, as JSON has them."""
        found = [resolve(row.model, row.config, [*row.fixed(self.dataset), *variant]) for variant in row.variants]
        return [json.loads(json.dumps(config.to_dict())) for config in found]

    def search(self, row: Row) -> Path:
        return self.out / self.name / "tune" / row.name

    def study(self, row: Row) -> Study | None:
        """Return a row's search as far as it is; None where it has not begun.

        Raises :class:`InputError` where the row was edited, so that the trials there are of something else. A
        configuration that was shipped since the search began does not change it.
        """
        folder = self.search(row)
        if not (folder / STUDY).is_file():
            return None
        study, wanted = read_study(folder), search_plan(row, self.dataset)
        keys = [setting.partition("=")[0] for setting in row.fixed(self.dataset)]
        same = all(value_of(study.plan.start, key) == value_of(wanted.start, key) for key in keys)
        was = study.plan
        if (was.model, was.metric, was.space) != (wanted.model, wanted.metric, wanted.space) or not same:
            raise InputError(f"{folder} searched otherwise than the row now does. Delete it to search again.")
        return study

    def best(self, row: Row, trials: int) -> Trial:
        """Return the best complete trial among the first ``trials`` of a row's search, the earliest of equals."""
        study = self.study(row)
        complete = [trial for trial in study.trials[:trials] if trial.value is not None] if study else []
        if study is None or not enough(study, trials) or not complete:
            raise InputError(f"{self.search(row)} has no winner of {trials} trials yet. Run the study again.")
        return max(complete, key=lambda trial: trial.value or 0.0)

    def winner(self, row: Row | BlendRow, trials: int | None = None) -> Config:
        """Return the configuration that won a row: of its variants, or of the first ``trials`` of its search.

        Raises :class:`InputError` where that is not known yet.
        """
        if isinstance(row, BlendRow):
            return {"name": row.name, "rows": {part: self.winner(self.row(part)) for part in row.rows}}
        if not row.variants:
            return self.best(row, trials or self.trials).config
        runs = [run for config in self.variants(row) if (run := self.run(config, self.seeds[0])) is not None]
        if len(runs) < len(row.variants):
            raise InputError(f"Not all variants of {row.name} are trained yet. Run the study again.")
        best: Config = max(runs, key=lambda run: run.record["validation"]).record["config"]
        return best


def search_plan(row: Row, dataset: str) -> Plan:
    """Return a row's search, from today's shipped configurations and defaults."""
    known = f"{dataset}-{row.model}"
    config = known if known in shipped() else None
    made = plan(row.model, config=config, settings=row.fixed(dataset), space=row.space, metric=METRIC)
    if config is not None:
        return replace(made, starts=((f"shipped {known}", made.start),))
    return replace(made, starts=(("study" if row.begin else "defaults", changed(made.start, row.begin)),))


def enough(study: Study, trials: int) -> bool:
    """Whether a search has had ``trials`` trials, or has nothing left to try."""
    points = study.plan.points(LARGEST_GRID)
    if len(study.trials) >= trials or points is None:
        return len(study.trials) >= trials
    tried = {json.dumps(trial.config, sort_keys=True) for trial in study.trials}
    return all(json.dumps(study.plan.config(point).to_dict(), sort_keys=True) in tried for point in points)


@dataclass(frozen=True)
class StudyJob(Job):
    """A piece of a study."""

    place: Place
    name: str
    phase: int
    cost: float
    seed: int
    row: Any = None  # Row, or BlendRow of a blend
    trials: int = 0  # of a search; whose best is trained
    variant: Config | None = None  # the configuration that is trained, where no search finds it


def jobs(place: Place, *, double: bool, names: Collection[str] | None = None) -> list[Job]:
    """Return a study's jobs, or those of the rows and blends with ``names``; ``double``: also with twice the budget."""
    first, at, run, search = place.seeds[0], place.trials, f"{place.name} run", f"{place.name} tune"
    made: list[Job] = [Split(place, f"{place.name} split {seed}", 0, place.scale, seed) for seed in place.seeds]
    variants: dict[Path, Job] = {}  # those of several rows may be the same configuration
    for row in place.rows:
        if names is not None and row.name not in names:
            continue
        name, cost = row.name, row.cost * place.scale
        for settings, config in zip(row.variants, place.variants(row), strict=True):
            title = f"{run} {' '.join((name, *settings))}"
            job = Train(place, title, 2, cost, first, row, variant=config)
            variants.setdefault(place.folder(config, first), job)
        if row.variants:
            continue
        made.append(Search(place, f"{search} {name}", 1, cost * at, first, row, at))
        made += [Train(place, f"{run} {name} {seed}", 2, cost, seed, row, at) for seed in place.seeds]
        if double:
            made.append(Search(place, f"{search} {name} twice", 5, cost * at, first, row, 2 * at))
            made.append(Train(place, f"{run} {name} twice", 6, cost, first, row, 2 * at))
    for blend in place.blends:
        if names is None or blend.name in names:  # the first split's is made first: it chooses the weights
            made += [Mix(place, f"{run} {blend.name} {s}", 3 + (s != first), 1, s, blend) for s in place.seeds]
    return [*made, *variants.values()]


class Split(StudyJob):
    """Prepare one split; one that is there is checked from its hashes on."""

    def done(self) -> bool:
        folder = self.place.split(self.seed)
        if folder.exists():
            Dataset.load(folder).verify()
        return folder.exists()

    def do(self, tell: Tell) -> None:
        folder, began = self.place.split(self.seed), time.perf_counter()
        prepare(**self.place.source, seed=self.seed).save(folder)
        write_json(folder.with_suffix(".json"), {"seconds": round(time.perf_counter() - began, 3)})


class Search(StudyJob):
    """Search on the first split until there are ``trials`` trials, or everything was tried."""

    def done(self) -> bool:
        study = self.place.study(self.row)
        return study is not None and enough(study, self.trials)

    def do(self, tell: Tell) -> None:
        peers.make_known()

        def on_done(trial: Trial, study: Study) -> None:
            value = trial.state if trial.value is None else f"{METRIC} {trial.value:.4f}"
            best = "" if study.best is None else f", best {study.best.value:.4f}"
            tell(f"trial {trial.number} of {self.trials}, {value}{best}, {trial.seconds:.1f} s")

        begun, data, folder = self.place.study(self.row), self.place.data(self.seed), self.place.search(self.row)
        wanted = search_plan(self.row, self.place.dataset) if begun is None else begun.plan
        tune(wanted, data, folder, trials=self.trials, device="cpu", resume=True, events=Events(on_done=on_done))


class Train(StudyJob):
    """Train a variant, or a search's winner, on a split, and evaluate it on the split's test users."""

    def config(self) -> Config:
        return self.variant or self.place.winner(self.row, self.trials)

    def done(self) -> bool:
        return self.place.run(self.config(), self.seed) is not None

    def do(self, tell: Tell) -> None:
        peers.make_known()
        data, config, epochs = self.place.data(self.seed), self.config(), list[Mapping[str, Any]]()
        model, result = measure(run_config(config), data, METRICS, metric=METRIC, device="cpu", on_epoch=epochs.append)
        if self.row.saved:
            model.save(self.place.folder(config, self.seed), overwrite=True)
        about = {"validation": model.metrics["validation"], "epoch": model.best_epoch}
        about |= {"losses": epochs[(model.best_epoch or len(epochs)) - 1]["phases"] if epochs else None}
        self.place_run(config, data, result.evaluation, about | {"train_seconds": result.train_seconds})

    def place_run(self, config: Config, data: Dataset, evaluation: Any, about: Mapping[str, Any]) -> None:
        """Write a run's values per test user, and last its record, which makes it done."""
        folder = self.place.folder(config, self.seed)
        folder.with_suffix(".json").unlink(missing_ok=True)
        with whole_file(folder.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
            np.savez(file, user_ids=data.user_ids("test").astype(str), **evaluation.per_user)
        more = {"rank_seconds": evaluation.rank_seconds, "metrics": evaluation.to_dict()["metrics"]}
        made = {"date": date.today().isoformat(), "versions": versions()}
        about = {"config": config, "files": data.manifest["files"], **about, **more, "made": made}
        write_json(folder.with_suffix(".json"), about)


class Mix(Train):
    """Evaluate a blend of a split's runs, with weights that the first split's validation users choose."""

    def weights(self, seed: int) -> list[float] | None:
        run = self.place.run(self.place.winner(self.row), seed)
        return None if run is None else run.record["weights"]

    def done(self) -> bool:
        weights = self.weights(self.seed)
        return weights is not None and weights == self.weights(self.place.seeds[0])

    def do(self, tell: Tell) -> None:
        config, data = self.place.winner(self.row), self.place.data(self.seed)
        began, validation = time.perf_counter(), validate_with(data, METRIC)
        components = [load(self.place.folder(part, self.seed), "cpu") for part in config["rows"].values()]
        chosen = None if self.seed == self.place.seeds[0] else self.weights(self.place.seeds[0])
        mixed = Blend(components, data.validation_in, chosen, device="cpu")
        if self.seed == self.place.seeds[0]:
            mixed = mixed.with_weights(best_weights(Trials(mixed, validation)))
            tell(", ".join(f"{row} {weight:g}" for row, weight in zip(self.row.rows, mixed.weights, strict=True)))
        elif chosen is None:
            raise InputError(f"The weights of {self.row.name} are not chosen yet. Run the study again.")
        about = {"weights": list(mixed.weights), "validation": validation(mixed), "epoch": None}
        seconds = round(time.perf_counter() - began, 3)
        self.place_run(config, data, evaluated(mixed, data, METRICS), about | {"train_seconds": seconds})
