"""The search for better options: trials proposed by Optuna's TPE, trained as ``recvae train`` trains them.

A trial is a configuration, fitted in memory on the training clicks with the same seed and the same code as a run, and
its value is the best validation score: a run with the winner's configuration gets that score again, to the last bit.

What is tried next is a function of the search, the seed and the finished trials alone. So a study that was interrupted
goes on as if it had not been, and nothing of Optuna's needs to be stored (:mod:`recvae.experiments.study` has the
files).

Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011 (TPE); Akiba et al., "Optuna: A
Next-generation Hyperparameter Optimization Framework", KDD 2019.
"""

import json
import random
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.manifest import matrix_files
from recvae.config import RunConfig
from recvae.defaults import Size
from recvae.errors import InputError, WorkError, is_out_of_memory
from recvae.experiments.facts import facts
from recvae.experiments.measure import OnEpoch, OnStep, begin, validate_with
from recvae.experiments.proposals import propose, require_optuna, settings_of, silent
from recvae.experiments.space import Plan
from recvae.experiments.study import STUDY, Study, Trial, read_study
from recvae.files import Document, JsonObject, refuse_existing, writing
from recvae.files.swap import clear_inside
from recvae.options import TrainOptions
from recvae.recommender import build
from recvae.training.versions import versions

if TYPE_CHECKING:
    from data_prep.dataset import Dataset
    from recvae.experiments.proposals import Proposal


TRIALS = 30  # without a budget
PRUNE_AFTER = 1 / 3  # of a trial's epochs: the first ones tell little
LARGEST_GRID = 1_000  # spaces with at most this many settings are known setting by setting


@dataclass(frozen=True)
class Events:
    """Functions that are called as a search goes on."""

    on_trial: Callable[[int, RunConfig], None] = lambda number, config: None  # a trial begins; numbers count from 1
    on_step: OnStep = lambda done, total: None
    on_epoch: OnEpoch = lambda row: None
    on_done: Callable[[Trial, Study], None] = lambda trial, study: None  # it is in the study, and in its files


def tune(
    plan: Plan,
    data: "Dataset",
    folder: str | Path | None = None,
    *,
    trials: int | None = None,
    seconds: float | None = None,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    events: Events | None = None,
) -> Study:
    """Search for the options of ``plan`` that score best on the validation users of ``data``.

    The starting points come first, so that the best is never below them. The search ends after ``trials`` trials (30
    where no budget is given), when the trials have taken ``seconds`` (the one under way is finished), or when
    everything was tried; a space of no more points than trials are left is gone through whole. A trial that is clearly
    worse than the others at the same epoch is pruned, and one that fails (a loss that is not finite, too little
    memory) is recorded as such; neither can win.

    With ``folder`` the study is written there after every trial. ``resume=True`` goes on with the study in it (it
    starts where there is none), by its own budget where none is given; ``overwrite`` replaces an earlier one, which
    stays until this one has a trial. KeyboardInterrupt goes on to the caller, with all finished trials kept.

    Raises :class:`InputError` for a budget, folder or metric that cannot be used, a study of something else, or where
    Optuna is missing, and :class:`WorkError` where no trial was complete.
    """
    require_optuna()
    events = events or Events()
    with nullcontext() if folder is None else writing(Path(folder)):
        plan = plan.for_data(Size.of(data.train))
        study = begin_study(plan, data, folder, trials, seconds, resume=resume, overwrite=overwrite, command=command)
        validation = validate_with(data, plan.metric, build(plan.start, device))
        runner = Runner(data, validation, device, events)
        try:
            with silent():
                while (trial := _next(study, runner)) is not None:
                    study.add(trial)
                    events.on_done(trial, study)
        finally:
            study.draw()
    return some_complete(study)


def some_complete(study: Study) -> Study:
    """Return the study; raise :class:`WorkError` where none of its trials was complete."""
    if study.best is None:
        first = next((trial.error for trial in study.trials if trial.error), "")
        raise WorkError(f"No trial was complete. The first failure: {first}")
    return study


def begin_study(
    plan: Plan,
    data: "Dataset",
    folder: str | Path | None,
    trials: int | None,
    seconds: float | None,
    *,
    resume: bool,
    overwrite: bool,
    command: str,
) -> Study:
    """Return a new study, or the one in ``folder`` with its trials."""
    if trials is not None and trials < 1:
        raise InputError(f"A search needs at least one trial, not {trials}.")
    if seconds is not None and not seconds > 0:
        raise InputError(f"A search needs some time, not {seconds} seconds.")
    if folder is None and (resume or overwrite):
        raise InputError("resume and overwrite are about a study's folder; name it.")
    about = _plain(facts(data, files=_hashes(data, plan)))
    given = (trials, seconds) if (trials, seconds) != (None, None) else None
    place = None if folder is None else Path(folder)
    if place is not None and resume and (place / STUDY).is_file():
        study = read_study(place)
        _same(study, plan, about)
        clear_inside(place)
        if given is not None:
            study.trials_wanted, study.seconds_wanted = given
        study.write()  # a kill may have come between trials.json and the files that are made from it
        return study
    if place is not None:
        refuse_existing(place, marker=STUDY, overwrite=overwrite)
    trials, seconds = given or (TRIALS, None)
    made = {**versions(), "optuna": require_optuna()}
    return Study(plan, about, trials, seconds, [], place, command, made, overwrite)


def _same(study: Study, plan: Plan, about: Document) -> None:
    """Raise :class:`InputError` unless a study is a search of ``plan`` on this dataset."""
    was = study.plan
    if was.model != plan.model:
        raise InputError(f"{study.folder} holds a study of '{was.model}'; --resume needs the same model.")
    if study.dataset != about:
        name = study.dataset.get("name")
        raise InputError(f"{study.folder} holds a study on another dataset ('{name}'); --resume needs the same one.")
    if was.metric != plan.metric:
        raise InputError(f"{study.folder} was searched by {was.metric}; --resume needs --metric {was.metric}.")
    changed = [key for key in {**was.space, **plan.space} if was.space.get(key) != plan.space.get(key)]
    if changed:
        raise InputError(f"{study.folder} searched {', '.join(changed)} otherwise; --resume needs the same space.")
    if was.start != plan.start:
        raise InputError(f"{study.folder} began with other settings or another seed; --resume needs the same ones.")


def _hashes(data: "Dataset", plan: Plan) -> dict[str, str]:
    """Return the SHA-256 of the files that trials depend on, none for a dataset that is in memory only."""
    matrices = ("train", "validation_in", "validation_out")
    version = data.manifest["format_version"]
    read = [file for name in matrices for file in matrix_files(name, version)]
    parts = plan.reads()
    for part, names in (
        ("ratings", [file for name in matrices for file in matrix_files(f"{name}_ratings", version)]),
        ("item_tags", ["item_tags.csv"]),
        ("user_tags", ["user_tags.csv", "users.csv"]),
    ):
        if part in parts:
            read += names
    files = data.manifest.get("files", {})
    return {name: files[name] for name in read if name in files}


# The choice of the next trial.


def _next(study: Study, runner: "Runner") -> Trial | None:
    """Return the next trial, done; None where the search is over."""
    plan, number = study.plan, len(study.trials) + 1
    if study.trials_wanted is not None and number > study.trials_wanted:
        return None
    if study.seconds_wanted is not None and study.seconds >= study.seconds_wanted:
        return None
    if number <= len(plan.starts):
        source, config = plan.starts[number - 1]
        return runner.run(study, number, source, config, None)
    tried = {config_key(trial.config): trial for trial in reversed(study.trials)}  # the first of each kind
    left = points_left(plan, tried)
    if left == []:
        return None
    proposal = propose(study)
    config = plan.config(settings_of(plan.space, proposal.params))
    wanted = study.trials_wanted
    if left is not None:
        pick = random.Random(f"{plan.start.seed} {number}").choice(left)
        if config_key(config.to_dict()) in tried or (wanted is not None and len(left) <= wanted - number + 1):
            config = plan.config(pick)
    before = tried.get(config_key(config.to_dict()))
    if before is not None:
        return replace(before, number=number, source="searched", seconds=0.0, same_as=before.number)
    return runner.run(study, number, "searched", config, proposal)


def points_left(plan: Plan, tried: Mapping[str, Trial]) -> list[JsonObject] | None:
    """Return the settings that were not tried, None where there are too many to know."""
    points = plan.points(LARGEST_GRID)
    if points is None:
        return None
    # A starting point may differ in an option that is not searched, and is then none of these trials.
    return [point for point in points if config_key(plan.config(point).to_dict()) not in tried]


# One trial.


class _Pruned(Exception):  # noqa: N818 - it is no error
    """Ends a fit whose trial cannot win."""


@dataclass(frozen=True)
class Runner:
    """Fits configurations on one dataset."""

    data: "Dataset"
    validation: Callable[[Any], float]
    device: str
    events: Events

    def run(self, study: Study, number: int, source: str, config: RunConfig, proposal: "Proposal | None") -> Trial:
        """Fit one configuration and return its trial; without ``proposal`` it is never pruned."""
        self.events.on_trial(number, config)
        fit = begin(config, self.data, metric=study.plan.metric, validation=self.validation, device=self.device)
        model = fit.model
        scores: list[list[Any]] = []

        def on_epoch(row: Document) -> None:
            self.events.on_epoch(row)
            epoch = row["epoch"]
            if row["score"] is None:
                return
            scores.append([epoch, row["score"]])
            options = config.options(TrainOptions)
            last = min(options.epochs, options.stop_after or options.epochs)
            if proposal is None or epoch >= last:
                return
            proposal.report(row["best_score"], epoch)
            if epoch >= PRUNE_AFTER * last and proposal.should_prune():
                raise _Pruned

        state, value, error = "complete", None, None
        began = time.perf_counter()
        try:
            fit.run(on_step=self.events.on_step, on_epoch=on_epoch)
            value = model.metrics["validation"]
        except _Pruned:
            state = "pruned"
        except Exception as failure:
            if not (isinstance(failure, WorkError) or is_out_of_memory(failure)):
                raise
            state, error = "failed", " ".join(str(failure).split()) or type(failure).__name__
        seconds = time.perf_counter() - began
        return Trial(
            number=number,
            source=source,
            state=state,
            settings=_plain(study.plan.settings(config)),
            config=_plain(config.to_dict()),
            value=value,
            epoch=model.best_epoch if state == "complete" else None,
            scores=scores,
            seconds=round(seconds, 3),
            device=str(model.device),
            error=error,
        )


def _plain(value: Document) -> JsonObject:
    """Return a value as it comes back from JSON, so that a trial is the same before and after it was in a file."""
    plain: JsonObject = json.loads(json.dumps(value))
    return plain


def config_key(config: Document) -> str:
    """Return a text that two configurations share where they are the same."""
    return json.dumps(config, sort_keys=True)
