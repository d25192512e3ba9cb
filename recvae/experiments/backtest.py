"""``recvae backtest``: a log replayed in order through the ranking that serves, with models refitted on a schedule.

At each refit every model learns from the clicks before that moment (:meth:`data_prep.ClickLog.known_at`), the latest of
which choose the epoch, and then answers the questions of the windows up to the next refit (:mod:`eval.backtest`). No
question's history, and no fit, has a click that is later than the question or the fit. A warm model starts from its
previous fit where it has a warm start.

The folder, which can be gone on with where the work was stopped:

    backtest.json           the plan: source, schedule, models, metrics
    parts/MODEL-N.json      fit N of a model: its cost, and the metrics of each question
    runs/MODEL/N            the last fit of a warm model, from which the next one starts
    results.json            the outcome; backtest.html is the page about it
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eval import Questions, Replay, Window, answers_to, parse_metrics, seen_group, windows_of
from eval.metrics import PER_USER, parse_metric
from recvae.arguments import whole_number
from recvae.config import RunConfig, resolve, run_config
from recvae.errors import ConfigError, FormatError, InputError
from recvae.experiments.measure import OnEpoch, OnStep, begin
from recvae.files import JsonObject, from_json, read_json, write_json
from recvae.files.swap import remove
from recvae.recommender import model_class
from recvae.registry import entry

if TYPE_CHECKING:
    from data_prep import ClickLog, Dataset, TimeRules
    from recvae.recommender import Recommender

PLAN, PARTS, RUNS, RESULTS, PAGE = "backtest.json", "parts", "runs", "results.json", "backtest.html"
KIND, FORMAT = "recvae-backtest", 1


@dataclass(frozen=True)
class Entrant:
    """A model with its settings; ``label`` tells it from the others, ``source`` is where the settings come from."""

    label: str
    config: RunConfig
    source: str


@dataclass(frozen=True)
class Plan:
    """The schedule, in the unit of the log's times, and what is measured.

    ``questions``: at most so many of a window, drawn with ``seed``; None for all. ``warm``: models that can start from
    their previous fit. Raises :class:`InputError` for a value that cannot be used.
    """

    begin: float
    every: float
    refit_every: float
    rules: "TimeRules"
    metrics: tuple[str, ...]
    metric: str
    questions: int | None = None
    seed: int = 0
    warm: bool = False

    def __post_init__(self) -> None:
        if self.questions is not None:
            whole_number("The number of questions", self.questions, least=1)
        parse_metric(self.metric)

    def to_dict(self) -> JsonObject:
        """Return plain values for JSON."""
        told = {key: value for key, value in vars(self).items() if key != "rules"}
        rules = {key: value for key, value in asdict(self.rules).items() if key not in ("cutoff", "first_clicks")}
        return {**told, "metrics": list(self.metrics), "rules": rules}


@dataclass(frozen=True)
class Events:
    """Functions for progress: a fit begins, and questions are answered."""

    on_fit: Callable[[Entrant, int, int], None] = lambda entrant, place, total: None  # place from 1
    on_step: OnStep = lambda done, total: None
    on_epoch: OnEpoch = lambda row: None
    on_asked: Callable[[int, int], None] = lambda done, total: None
    on_done: Callable[[Entrant, JsonObject], None] = lambda entrant, part: None


def entrants(models: Sequence[str], configs: Sequence[str], seed: int | None = None) -> list[Entrant]:
    """Return the models to compare: those named, with defaults, and those of configurations, called as their files.

    Settings that are shipped for a dataset are not taken by themselves: they were found on clicks of all times. Raises
    :class:`InputError` where there are none, where two have the same name, and for a model of ratings.
    """
    found = [Entrant(entry(name).name, resolve(name, seed=seed), "defaults") for name in models]
    found += [Entrant(Path(each).stem, resolve(config=each, seed=seed), f"--config {each}") for each in configs]
    if not found:
        raise InputError("No model is named. Name some, for example --models recvae,ease,popularity or --config FILE.")
    labels = [entrant.label for entrant in found]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise InputError(
            f"Two models are called '{twice}': leave one out, or give its configuration another file name."
        )
    for entrant in found:
        if "ratings" in entry(entrant.config.name).model_class().reads(entrant.config.model):
            raise InputError(f"'{entrant.label}' learns from ratings, and a backtest replays clicks: leave it out.")
    return found


@dataclass
class Backtest:
    """A backtest under way: all its windows and questions, and the parts that are done."""

    log: "ClickLog"
    entrants: Sequence[Entrant]
    plan: Plan
    folder: Path
    device: str = "auto"
    windows: list[Window] = field(init=False)
    _latest: "tuple[int, Dataset] | None" = field(default=None, init=False)
    questions: list[Questions] = field(init=False)
    replay: Replay = field(init=False)

    def __post_init__(self) -> None:
        plan, data = self.plan, self.log.data
        for name in parse_metrics(plan.metrics):
            if name.name not in PER_USER:
                raise ConfigError(
                    f"'{name}' is a metric of a whole set of lists, and a backtest measures each question."
                )
        self.windows = windows_of(plan.begin, float(self.log.times[-1]), plan.every, plan.refit_every)
        self.replay = Replay(data.user, data.item, self.log.times)
        self.questions = [
            self.replay.questions(window, most=plan.questions, seed=plan.seed + place)
            for place, window in enumerate(self.windows)
        ]

    @property
    def fits(self) -> list[int]:
        """The refits that serve some question."""
        return sorted({window.fit for window, asked in zip(self.windows, self.questions, strict=True) if len(asked)})

    def moment(self, fit: int) -> float:
        """Return the time of a refit."""
        return self.plan.begin + fit * self.plan.refit_every

    def known_at(self, fit: int) -> "Dataset":
        """Return the dataset of the clicks before a refit; errors as of :meth:`data_prep.ClickLog.known_at`."""
        if self._latest is None or self._latest[0] != fit:
            self._latest = fit, self.log.known_at(self.moment(fit), self.plan.rules)
        return self._latest[1]

    def prepare_folder(self, *, resume: bool) -> None:
        """Write the plan, in the place of an earlier backtest, once the clicks before the first refit are enough.

        With ``resume`` raise :class:`InputError` where the plan in the folder is another.
        """
        told: JsonObject = {
            "kind": KIND,
            "format": FORMAT,
            "log": {"name": self.log.name, "clicks": len(self.log.data), "source": self.log.source},
            "plan": self.plan.to_dict(),
            "models": {e.label: {"config": e.config.to_dict(), "source": e.source} for e in self.entrants},
        }
        if resume and (self.folder / PLAN).is_file():
            before, told = read_json(self.folder / PLAN), from_json(json.dumps(told))  # lists in place of tuples
            for key in ("kind", "format", "log", "plan", "models"):
                if not isinstance(before, dict) or before.get(key) != told[key]:
                    what = {"models": "choice of models"}.get(key, key)
                    raise InputError(
                        f"{self.folder} was begun with another {what}: repeat the command that it was begun with, or "
                        "name another folder."
                    )
            return
        self.known_at(self.fits[0])
        remove(self.folder)
        (self.folder / PARTS).mkdir(parents=True)
        write_json(self.folder / PLAN, told)

    def run(self, events: Events | None = None) -> None:
        """Do the parts that are not done: each model's fits, in the order of time.

        Where the work ends before the first part is done, the folder is removed.
        """
        try:
            self._run(events or Events())
        except BaseException:
            if not any((self.folder / PARTS).glob("*.json")):
                remove(self.folder)
            raise

    def _run(self, events: Events) -> None:
        for fit in self.fits:
            open_ones = [entrant for entrant in self.entrants if not self._part(entrant, fit).is_file()]
            if not open_ones:
                continue
            data = self.known_at(fit)
            for entrant in open_ones:
                events.on_fit(entrant, self.fits.index(fit) + 1, len(self.fits))
                part = self._fitted(entrant, fit, data, events)
                write_json(self._part(entrant, fit), part)
                for before in self._runs(entrant, below=fit):
                    remove(before)
                events.on_done(entrant, part)

    def _fitted(self, entrant: Entrant, fit: int, data: "Dataset", events: Events) -> JsonObject:
        config, folder, start = entrant.config, None, None
        if self.plan.warm and not model_class(config.name).no_start:
            folder = self.folder / RUNS / entrant.label / str(fit)
            start = next(iter(self._runs(entrant, below=fit)), None)
            if start is not None:  # options that follow the data keep their values: weights have their shapes
                config = run_config(read_json(start / "run.json")["config"])
        under_way = begin(
            config,
            data,
            metric=self.plan.metric,
            device=self.device,
            folder=folder,
            overwrite=folder is not None,
            start=start,
        )
        seconds = under_way.run(on_step=events.on_step, on_epoch=events.on_epoch)
        model = under_way.model
        values, unknown = self._answers(model, fit, data, events)
        return {
            "fit": fit,
            "at": self.moment(fit),
            "seconds": round(seconds, 3),
            "warm": start is not None,
            "best_epoch": model.best_epoch,
            "validation": model.metrics.get("validation"),
            "users": data.n_users("train"),
            "items": data.n_items,
            "clicks": int(data.train.nnz),
            "config": model.config.to_dict(),
            "clicks_on_unknown_items": unknown,
            "values": values,
        }

    def _answers(
        self, model: "Recommender", fit: int, data: "Dataset", events: Events
    ) -> tuple[dict[str, list[float]], list[int]]:
        """Return the metrics of the fit's questions, and for each of its windows the clicks on unknown items."""
        columns = {item: column for column, item in enumerate(data.item_ids.tolist())}
        column_of = np.array([columns.get(item, -1) for item in self.log.data.item_ids.tolist()], np.int64)
        values: dict[str, list[float]] = {name: [] for name in self.plan.metrics}
        unknown = []
        for place in self._windows_of(fit):
            asked = self.questions[place]
            found = answers_to(model, self.replay, asked, column_of, data.n_items, self.plan.metrics, events.on_asked)
            for name in values:
                values[name] += found[name].tolist()
            wanted = self.replay.clicks(asked.at, asked.stop, column_of, data.n_items)
            unknown.append(int((asked.stop - asked.at).sum()) - wanted.nnz)
        return values, unknown

    def _windows_of(self, fit: int) -> list[int]:
        return [place for place, window in enumerate(self.windows) if window.fit == fit]

    def _part(self, entrant: Entrant, fit: int) -> Path:
        return self.folder / PARTS / f"{entrant.label}-{fit}.json"

    def _runs(self, entrant: Entrant, *, below: int) -> list[Path]:
        """Return the run folders of earlier fits, the latest first."""
        above = self.folder / RUNS / entrant.label
        there = [fit for fit in self.fits if fit < below and (above / str(fit) / "run.json").is_file()]
        return [above / str(fit) for fit in reversed(there)]

    def parts(self, entrant: Entrant) -> list[JsonObject]:
        """Return the parts of a model; raise :class:`FormatError` where one is damaged."""
        found = []
        for fit in self.fits:
            file = self._part(entrant, fit)
            part = read_json(file)
            n = sum(len(self.questions[place]) for place in self._windows_of(fit))
            values = part.get("values") if isinstance(part, dict) else None
            if not isinstance(values, dict) or any(len(values.get(name, ())) != n for name in self.plan.metrics):
                raise FormatError(f"{file} was altered. Delete it, and --resume makes it again.")
            found.append(part)
        return found

    def asked(self) -> "Asked":
        """Return all questions in the order of the values."""
        order = [place for fit in self.fits for place in self._windows_of(fit)]
        lengths = [len(self.questions[place]) for place in order]
        return Asked(
            user=np.concatenate([self.questions[place].user for place in order]),
            window=np.repeat(np.array(order), lengths),
            seen=seen_group(np.concatenate([self.questions[place].seen for place in order])),
            clicks=np.concatenate([self.questions[place].stop - self.questions[place].at for place in order]),
        )


@dataclass(frozen=True, eq=False)
class Asked:
    """All questions of a backtest, int64 (q,) each: user, window, group of clicks seen, and clicks to be found."""

    user: NDArray[np.int64]
    window: NDArray[np.int64]
    seen: NDArray[np.int64]
    clicks: NDArray[np.int64]
