"""Optuna, the only module that imports it: the next settings to try, from the trials that there are.

Alone, a process keeps its trials itself, and Optuna is told all of them before each proposal. Several processes share
one of Optuna's storages, a journal file or a database: :class:`SharedSearch`.
"""

import json
import random
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from recvae.config import RunConfig, run_config, value_of
from recvae.errors import InputError
from recvae.experiments.space import Plan
from recvae.experiments.study import Study, Trial
from recvae.files import Document, JsonObject
from recvae.options import Between, OneOf, Space

if TYPE_CHECKING:
    import optuna

    Proposal: TypeAlias = optuna.Trial

STARTUP = 10  # trials before TPE takes over from chance
PRUNE_FROM = 5  # complete trials, which a median needs to mean something
PAUSES = (
    0.2,
    0.5,
    1.0,
)  # seconds before the tables of a database, which another process may be making, are tried again
STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}  # of a trial, here and in Optuna


def propose(study: Study) -> "optuna.Trial":
    """Return Optuna's proposal for the next trial, which follows from all finished trials."""
    import optuna

    space = study.plan.space
    distributions = {key: distribution(kind) for key, kind in space.items()}
    seed = random.Random(f"{study.plan.start.seed} {len(study.trials)}").getrandbits(32)
    search = optuna.create_study(**_method(seed))
    for trial in study.trials:
        params = params_of(space, run_config(trial.config))
        if params is not None:
            search.add_trial(_frozen(trial, params, distributions))
    return search.ask(distributions)


def _method(seed: int | None) -> JsonObject:
    """Return the arguments of Optuna's studies: TPE and the median rule. Without a seed, for several processes."""
    import optuna

    with warnings.catch_warnings():
        # Optuna 4 calls multivariate TPE so, and the liar that keeps processes from trying the same.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP, multivariate=True, seed=seed, constant_liar=seed is None
        )
    pruner = optuna.pruners.MedianPruner(n_startup_trials=PRUNE_FROM)
    return {"direction": "maximize", "sampler": sampler, "pruner": pruner}


def _frozen(trial: Trial, params: JsonObject, distributions: JsonObject) -> Any:
    """Return a finished trial as Optuna has it."""
    import optuna

    state = STATES[trial.state]
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState[state],
        value=trial.value,
        params=params,
        distributions=distributions,
        intermediate_values=dict(trial.best_so_far),
    )


def distribution(space: Space) -> Any:
    """Return Optuna's form of a space; a choice is searched by its place, in order where its values have one."""
    from optuna import distributions as of

    if isinstance(space, Between):
        if isinstance(space.low, int) and isinstance(space.high, int):
            return of.IntDistribution(space.low, space.high, log=space.log)
        return of.FloatDistribution(space.low, space.high, log=space.log)
    last = len(space.values) - 1
    return of.IntDistribution(0, last) if _ordered(space) else of.CategoricalDistribution(range(last + 1))


def params_of(space: Mapping[str, Space], config: RunConfig) -> JsonObject | None:
    """Return where a configuration lies in the space: at the nearest point of a range or of choices that have an order,
    None where it has no place.
    """
    params: JsonObject = {}
    for key, kind in space.items():
        value = value_of(config, key)
        if isinstance(kind, Between) and isinstance(value, int | float):
            params[key] = min(max(value, kind.low), kind.high)
        elif isinstance(kind, OneOf) and value in kind.values:
            params[key] = kind.values.index(value)
        elif isinstance(kind, OneOf) and _ordered(kind) and isinstance(value, int | float):
            params[key] = min(range(len(kind.values)), key=lambda place: abs(kind.values[place] - value))
        else:
            return None
    return params


def settings_of(space: Mapping[str, Space], params: Document) -> JsonObject:
    """Return the values that Optuna's parameters stand for; four digits are enough, and read better."""
    settings: JsonObject = {}
    for key, kind in space.items():
        value = params[key]
        if isinstance(kind, OneOf):
            value = kind.values[value]
        elif isinstance(value, float):
            value = min(max(float(f"{value:.4g}"), kind.low), kind.high)
        settings[key] = value
    return settings


def _ordered(space: OneOf) -> bool:
    """Whether the values are numbers that grow."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in space.values)
    return numbers and list(space.values) == sorted(space.values)


def require_optuna() -> str:
    """Return Optuna's version; raise :class:`InputError` where it is missing."""
    try:
        import optuna
    except ImportError as error:
        raise InputError("Tuning needs Optuna. Install it with: pip install 'recvae[tune]'") from error
    return str(optuna.__version__)


@contextmanager
def silent() -> Iterator[None]:
    """Keep Optuna from logging."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class SharedSearch:
    """The search of a plan in one of Optuna's storages, from which any number of processes take trials.

    ``storage``: the URL of a database that SQLAlchemy knows, or the path of a journal file. ``name`` is the search's
    name there. Raises :class:`InputError` where the storage cannot be used.
    """

    def __init__(self, storage: str, name: str, plan: Plan) -> None:
        import optuna

        self.plan = plan
        where = _storage(storage)
        more = _method(None)
        direction = more.pop("direction")
        try:
            self.study = optuna.create_study(study_name=name, storage=where, direction=direction, **more)
        except optuna.exceptions.DuplicatedStudyError:
            self.study = optuna.load_study(study_name=name, storage=where, **more)
        else:  # the process that makes the study puts the starting points into it
            for place in range(len(plan.starts)):
                self._enqueue(place)

    def _enqueue(self, place: int) -> None:
        params = params_of(self.plan.space, self.plan.starts[place][1]) or {}
        self.study.enqueue_trial(params, user_attrs={"start": place})

    def begun(self) -> int:
        """Return the number of trials of all processes, those under way included."""
        found = self.study.get_trials(deepcopy=False)
        return sum(trial.state.name == "RUNNING" or "trial" in trial.user_attrs for trial in found)

    def trials(self) -> list[Trial]:
        """Return the finished trials of all processes, numbered from 1."""
        found = [trial.user_attrs.get("trial") for trial in self.study.get_trials(deepcopy=False)]
        told = [Trial(**json.loads(text)) for text in found if text is not None]
        return [replace(trial, number=number) for number, trial in enumerate(told, start=1)]

    def ask(self) -> "tuple[optuna.Trial, int | None]":
        """Return Optuna's next proposal, and the place of the starting point that it stands for, if any."""
        proposal = self.study.ask({key: distribution(kind) for key, kind in self.plan.space.items()})
        return proposal, proposal.user_attrs.get("start")

    def tell(self, proposal: "optuna.Trial", trial: Trial) -> None:
        """Put a finished trial into the storage."""
        start = proposal.user_attrs.get("start")
        if start is not None and trial.state == "complete":
            for epoch, score in trial.best_so_far:
                proposal.report(score, epoch)
        proposal.set_user_attr("trial", json.dumps(asdict(trial)))
        has_place = start is None or params_of(self.plan.space, self.plan.starts[start][1]) is not None
        complete = trial.state == "complete" and has_place  # a start outside the space teaches nothing about it
        state = STATES[trial.state] if complete or trial.state != "complete" else "FAIL"
        self.study.tell(proposal, trial.value if complete else None, state=_state(state))

    def give_up(self, proposal: "optuna.Trial") -> None:
        """Leave a proposal, whose trial was interrupted; a starting point is there for the next who asks."""
        self.study.tell(proposal, state=_state("FAIL"))
        start = proposal.user_attrs.get("start")
        if start is not None:
            self._enqueue(start)


def _state(name: str) -> "optuna.trial.TrialState":
    import optuna

    return optuna.trial.TrialState[name]


def _database(url: str) -> "optuna.storages.BaseStorage":
    """Return the storage in a database, whose tables are made where there are none.

    Where another process makes them at the same moment, the second one fails, and finds them there when it tries again.
    """
    import optuna
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    # Another process may hold SQLite's lock for a while.
    wait = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    for pause in PAUSES:
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=wait)
        except (IntegrityError, OperationalError, ProgrammingError):
            time.sleep(pause)
    return optuna.storages.RDBStorage(url, engine_kwargs=wait)


def _storage(storage: str) -> "optuna.storages.BaseStorage":
    """Return one of Optuna's storages; raise :class:`InputError` where it cannot be used."""
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if "://" not in storage:
            path = Path(storage)
            if not path.absolute().parent.is_dir():
                raise InputError(f"There is no folder {path.parent} for the journal {path.name}. Make it.")
            return optuna.storages.JournalStorage(JournalFileBackend(storage))
        return _database(storage)
    except (SQLAlchemyError, ImportError, OSError, ValueError, optuna.exceptions.OptunaError) as error:
        if isinstance(error, InputError):
            raise
        shown = storage.split("@")[-1]  # without a password
        raise InputError(
            f"The storage {shown} cannot be used ({' '.join(str(error).split())[:200]}). Give the path of a journal"
            " file, or a URL such as sqlite:///studies.db."
        ) from error
