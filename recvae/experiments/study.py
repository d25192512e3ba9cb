"""A study: the trials of a search, and the folder that keeps them.

    study.json     what is searched: model, dataset, metric, space, starting points, budget; the folder's marker
    trials.json    every finished trial, in order: all that the next trial depends on
    trials.csv     the same as a table
    best.toml      the best trial's configuration, which ``recvae train --config`` takes
    tune.png       value by trial and by each searched option, where Matplotlib is installed
    seal.json      digests of study.json and trials.json, the files that are read again (:mod:`recvae.training.seals`)

The files are written anew, each whole or not at all, after every trial. A study that was killed has lost the trial
under way and no other, and since a trial's settings follow from those before it, the same one comes again.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from recvae.config import RunConfig, run_config
from recvae.errors import ConfigError, FormatError, InputError
from recvae.experiments.space import Plan, space_to_dict
from recvae.files import Document, JsonObject, fill_json, read_json, recover, whole_folder, write_table, write_text
from recvae.registry import entry
from recvae.training import seals
from recvae.training.records import Count, DatasetFacts, Record, checked

STUDY, TRIALS, TABLE, BEST, FIGURE = "study.json", "trials.json", "trials.csv", "best.toml", "tune.png"
KIND, FORMAT = "recvae-study", 1
STATES = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried, as plain values."""

    number: int  # from 1
    source: str  # "given", "shipped ml-1m-ease", "searched"
    state: str  # one of STATES
    settings: JsonObject  # the searched options, by section.key
    config: JsonObject  # the whole configuration
    value: float | None = None  # the best validation score of a complete trial
    epoch: int | None = None  # where that was, for models with epochs
    scores: list[list[Any]] = field(default_factory=list)  # [epoch, validation score]
    seconds: float = 0.0  # of fitting and validation
    device: str = "cpu"
    same_as: int | None = None  # the trial with the same configuration that it was taken from, untrained
    error: str | None = None  # why it failed

    @property
    def best_so_far(self) -> list[tuple[int, float]]:
        """Epochs with a validation, and the best score up to each."""
        return list(zip((e for e, _ in self.scores), accumulate((s for _, s in self.scores), max), strict=True))


@dataclass
class Study:
    """A search and its trials so far; without ``folder`` it is kept in memory only."""

    plan: Plan
    dataset: JsonObject
    trials_wanted: int | None = None
    seconds_wanted: float | None = None
    trials: list[Trial] = field(default_factory=list)
    folder: Path | None = None
    command: str = ""  # that it was begun with
    versions: dict[str, str] = field(default_factory=dict)
    overwrite: bool = False  # an earlier study, when this one has its first trial

    @property
    def best(self) -> Trial | None:
        """The complete trial with the highest value, the earliest of equals; None where there is none."""
        complete = [trial for trial in self.trials if trial.value is not None]
        return max(complete, key=lambda trial: trial.value or 0.0, default=None)

    @property
    def config(self) -> RunConfig | None:
        """The best trial's configuration."""
        return None if self.best is None else run_config(self.best.config)

    @property
    def seconds(self) -> float:
        """Seconds that the trials took."""
        return sum(trial.seconds for trial in self.trials)

    def add(self, trial: Trial) -> None:
        """Add a finished trial and write the files."""
        self.trials.append(trial)
        if self.folder is None:
            return
        if (self.folder / STUDY).is_file() and not self.overwrite:
            self.write()
            return
        with whole_folder(self.folder, marker=STUDY, overwrite=self.overwrite) as temporary:
            self._write(temporary)
            seals.seal(temporary, (STUDY, TRIALS))
        self.overwrite = False

    def take(self, trials: Sequence[Trial]) -> None:
        """Put the trials of all processes of a shared search in the place of the present ones, and write the files."""
        self.trials = list(trials[:-1])
        self.add(trials[-1])

    def write(self) -> None:
        """Write all files of a study that has a folder."""
        if self.folder is not None:
            self._write(self.folder)
            seals.narrow(self.folder)

    def to_dict(self) -> JsonObject:
        """Return the shape of ``recvae tune --json``, plain values."""
        best = self.best
        counts = Counter(trial.state for trial in self.trials)
        return {
            **self._definition(),
            "best": None if best is None else asdict(best),
            "counts": {state: counts[state] for state in STATES},
            "seconds": round(self.seconds, 3),
            "trials": [asdict(trial) for trial in self.trials],
        }

    def draw(self) -> bool:
        """Draw tune.png where there is something to draw and Matplotlib is installed; return whether it did."""
        if self.folder is None or self.best is None or find_spec("matplotlib") is None:
            return False
        from recvae.reports.figures import search

        spaces = {key: space_to_dict(space) for key, space in self.plan.space.items()}
        title = f"{entry(self.plan.model).title} on {self.dataset.get('name', 'these clicks')}"
        rows = [asdict(trial) for trial in self.trials]
        search(rows, spaces, self.folder / FIGURE, metric=f"validation {self.plan.metric}", title=title)
        return True

    def _definition(self) -> JsonObject:
        budget = {"trials": self.trials_wanted, "seconds": self.seconds_wanted}
        return {
            **self.plan.to_dict(),
            "dataset": self.dataset,
            "budget": budget,
            "command": self.command,
            "versions": self.versions,
        }

    def _write(self, folder: Path) -> None:
        """Write all files; trials.json comes first, since the others can be made from it and study.json."""
        with seals.sealed_files(folder, TRIALS, STUDY, beside=(STUDY, TRIALS)) as (of_trials, of_study):
            fill_json(of_trials, {"trials": [asdict(trial) for trial in self.trials]}, TRIALS)
            fill_json(of_study, {"kind": KIND, "format": FORMAT, **self._definition(), "sealed": True}, STUDY)
        keys = list(self.plan.space)
        about = ("number", "source", "state", "value", "epoch", "seconds", "same_as", "error")
        rows = [
            [_cell(getattr(trial, name)) for name in about] + [_cell(trial.settings[key]) for key in keys]
            for trial in self.trials
        ]
        write_table(folder / TABLE, [*about, *keys], rows)
        if self.best is not None:
            write_text(folder / BEST, self.best_toml())

    def best_toml(self) -> str:
        """Return the best trial's configuration as TOML, with a header that says where it comes from."""
        best = self.best
        if best is None:
            raise InputError("No trial is complete, so there is no best configuration yet.")
        where = "" if best.epoch is None else f", epoch {best.epoch}"
        made = ", ".join(f"{package} {version}" for package, version in self.versions.items())
        comments = [
            f"{entry(self.plan.model).title} on {self.dataset.get('name', 'these clicks')}: the best of "
            f"{len(self.trials)} trials, validation {self.plan.metric} {best.value!r} (trial {best.number}{where}).",
            *([f"Found by: {self.command}"] if self.command else []),
            f"Train it with: recvae train DIR --config {BEST} --metric {self.plan.metric} --out RUN",
            f"{date.today().isoformat()}, on {best.device}; {made}.",
        ]
        return "".join(f"# {' '.join(line.split())}\n" for line in comments) + to_toml(best.config)


class _Trial(Record):
    """A trial as trials.json has it; see :class:`Trial`."""

    number: Count
    source: str
    state: Literal["complete", "pruned", "failed"]
    settings: JsonObject
    config: JsonObject
    value: float | None
    epoch: Count | None
    scores: list[Annotated[list[float], Field(min_length=2, max_length=2)]]
    seconds: Annotated[float, Field(ge=0)]
    device: str
    same_as: Count | None
    error: str | None


class _Trials(Record):
    trials: list[_Trial]


class _Budget(Record):
    trials: Annotated[int, Field(ge=1, lt=2**63)] | None
    seconds: Annotated[float, Field(gt=0)] | None


class _Range(Record):
    low: int | float
    high: int | float
    log: bool


class _Choice(Record):
    values: list[Any]


class _Start(Record):
    source: str
    config: JsonObject


class _Study(Record):
    """study.json."""

    kind: Literal["recvae-study"]
    format: Literal[1]
    model: str
    metric: str
    space: dict[str, _Range | _Choice]
    starts: Annotated[list[_Start], Field(min_length=1)]
    dataset: JsonObject
    budget: _Budget
    command: str
    versions: dict[str, str]
    sealed: bool = False


def read_study(folder: Path) -> Study:
    """Return the study of a folder; raise :class:`FormatError` where there is none, or it is damaged."""
    recover(folder)
    again = "Tune again."
    record = read_json(folder / STUDY)
    if isinstance(record, dict) and record.get("kind") == KIND and record.get("format") != FORMAT:
        raise FormatError(f"{folder / STUDY} is not a study of this version. {again}")
    rows = read_json(folder / TRIALS)
    seals.check(folder, STUDY, TRIALS)
    told = checked(_Study, record, folder / STUDY, again)
    checked(DatasetFacts, told.dataset, folder / STUDY, again)
    if told.sealed and not (folder / seals.SEAL).is_file():
        raise FormatError(f"{folder / seals.SEAL} is missing. {seals.REMEDY}")
    checked(_Trials, rows, folder / TRIALS, again)
    trials = [Trial(**row) for row in rows["trials"]]
    try:
        plan = Plan.from_dict(record)
        for place, trial in enumerate(trials, start=1):
            _check(trial, place, plan)
    except (ConfigError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{folder} holds a study that was altered, or is another version's: {error} {again}"
        ) from error
    budget = record["budget"]
    return Study(
        plan, told.dataset, budget["trials"], budget["seconds"], trials, folder, told.command, dict(told.versions)
    )


def _check(trial: Trial, place: int, plan: Plan) -> None:
    """Raise ValueError or :class:`ConfigError` unless a trial is one of the plan's, and whole."""
    config = run_config(trial.config)
    epochs = [epoch for epoch, _ in trial.scores]
    right = (
        trial.number == place,
        config.name == plan.model,
        json.loads(json.dumps(plan.settings(config))) == trial.settings,
        (trial.value is not None) == (trial.state == "complete"),
        (trial.error is not None) == (trial.state == "failed"),
        trial.same_as is None or 0 < trial.same_as < place,
        epochs == sorted(set(epochs)) and all(isinstance(epoch, int) and epoch > 0 for epoch in epochs),
        trial.state != "pruned" or bool(epochs),
        trial.epoch is None or trial.epoch in epochs,
    )
    if not all(right):
        raise ValueError(f"trial {place} of {TRIALS} does not hold together.")


def to_toml(config: Document) -> str:
    """Return a configuration's plain values as TOML; a None is left out, for a missing option is None."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in config.items() if not isinstance(value, Mapping)]
    for section, values in config.items():
        if isinstance(values, Mapping) and values:
            lines += ["", f"[{section}]"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    """Return a value for the table: nothing for None, lists as JSON."""
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
