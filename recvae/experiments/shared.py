"""A search by several processes, which take their trials from one of Optuna's storages.

What a process tries next depends on what the others have finished by then: such a study is not repeated by running it
again. Everything else is as in :mod:`recvae.experiments.tune`; the folder of each process has the trials of all.
"""

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from recvae.defaults import Size
from recvae.experiments.measure import validate_with
from recvae.experiments.proposals import SharedSearch, require_optuna, settings_of, silent
from recvae.experiments.space import Plan
from recvae.experiments.study import Study, Trial
from recvae.experiments.tune import Events, Runner, begin_study, config_key, points_left, some_complete
from recvae.files import writing
from recvae.recommender import build

if TYPE_CHECKING:
    from data_prep.dataset import Dataset


def tune_shared(
    plan: Plan,
    data: "Dataset",
    folder: str | Path,
    storage: str,
    *,
    trials: int | None = None,
    seconds: float | None = None,
    device: str = "auto",
    overwrite: bool = False,
    command: str = "",
    events: Events | None = None,
) -> Study:
    """Take trials from ``storage`` until there are ``trials`` of all processes, or for ``seconds`` of this one.

    Processes that search the same plan on the same dataset share a study there; the first puts the starting points into
    it. A study in the storage goes on where it is named again. Trials may be a few more than asked for, one for each
    other process at most. ``folder`` is written as by :func:`recvae.experiments.tune.tune`, with the trials that all
    processes have finished. Arguments and errors are otherwise those of that function; :class:`InputError` also where
    the storage cannot be used.
    """
    require_optuna()
    events = events or Events()
    with writing(Path(folder)):
        plan = plan.for_data(Size.of(data.train))
        study = begin_study(plan, data, folder, trials, seconds, resume=False, overwrite=overwrite, command=command)
        validation = validate_with(data, plan.metric, build(plan.start, device))
        runner = Runner(data, validation, device, events)
        with silent():
            search = SharedSearch(storage, _name(plan, study), plan)
            began = time.perf_counter()
            try:
                while not _is_over(study, search, time.perf_counter() - began):
                    done = _next(search, study, runner)
                    study.take(search.trials())
                    events.on_done(done, study)
            finally:
                if not study.trials and (found := search.trials()):  # others have done all
                    study.take(found)
                study.draw()
    return some_complete(study)


def _name(plan: Plan, study: Study) -> str:
    """Return the study's name in the storage: that of the model, and a digest of plan and dataset."""
    about = json.dumps([plan.to_dict(), study.dataset], sort_keys=True, default=str)
    return f"recvae {plan.model} {hashlib.sha256(about.encode()).hexdigest()[:16]}"


def _is_over(study: Study, search: SharedSearch, seconds: float) -> bool:
    if study.trials_wanted is not None and search.begun() >= study.trials_wanted:
        return True
    if study.seconds_wanted is not None and seconds >= study.seconds_wanted:
        return True
    tried = {config_key(trial.config): trial for trial in search.trials()}
    return len(tried) >= len(study.plan.starts) and points_left(study.plan, tried) == []


def _next(search: SharedSearch, study: Study, runner: Runner) -> Trial:
    """Return the next trial, done and in the storage."""
    proposal, start = search.ask()
    plan, number = search.plan, proposal.number + 1
    try:
        source, config = ("searched", None) if start is None else plan.starts[start]
        if config is None:
            config = plan.config(settings_of(plan.space, proposal.params))
        same = {config_key(trial.config): trial for trial in reversed(search.trials())}
        before = same.get(config_key(config.to_dict()))
        if before is not None:  # a trial with the same configuration has the same value
            trial = replace(before, number=number, source=source, seconds=0.0)
        else:
            trial = runner.run(study, number, source, config, None if start is not None else proposal)
    except BaseException:  # Ctrl-C among others: the others must not wait for this trial
        search.give_up(proposal)
        raise
    search.tell(proposal, trial)
    return trial
