"""A configuration trained on a dataset, and the model measured: the one way to do it, for every verb and benchmark.

:func:`begin` reads all that the model learns from and is validated by, so that damage shows before any work;
:meth:`Fit.run` trains. :func:`measure` does both and evaluates the model on test users.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from scipy.sparse import csr_array

from eval import Evaluation, evaluate, parse_metrics, ratings_validator, validator
from recvae.capabilities import R2
from recvae.config import RunConfig
from recvae.errors import InputError
from recvae.experiments.facts import beyond_catalogue, facts
from recvae.experiments.refit import Refit
from recvae.files import Document, JsonObject, refuse_existing
from recvae.matrices import item_counts
from recvae.queries import Query
from recvae.recommender import Validation, build
from recvae.registry import entry
from recvae.reports.results import ModelResult
from recvae.training.keepers import under_way
from recvae.training.run_folder import RUN, read_run
from recvae.training.start import check_kind

if TYPE_CHECKING:
    from data_prep.dataset import Dataset
    from eval import RatingPredictor
    from recvae.recommender import Recommender
    from recvae.training.distributed import Processes


OnStep = Callable[[int, int], None]  # updates done in this epoch, updates in an epoch
OnEpoch = Callable[[Document], None]  # the plain values of an EpochReport


@dataclass(frozen=True)
class Fit:
    """A model and the data that it is to be trained with, all of it read; :func:`begin` makes one.

    ``inputs``: the arguments of :meth:`Recommender.fit` that come from the dataset. ``validation``, by ``metric``, is
    None for a model that is refitted. ``folder``: the run folder to write; None keeps the model in memory. ``resume``
    goes on with the run in it, and ``overwrite`` replaces an earlier one. ``start``: the run folder of a warm start.
    ``across``: the processes that train the model together.
    """

    model: "Recommender"
    inputs: Document
    metric: str
    validation: Validation | None
    folder: Path | None
    resume: bool
    overwrite: bool
    start: Path | None = None
    across: "Processes | None" = None

    @property
    def clicks(self) -> csr_array:
        """The training matrix, CSR (n_users, n_items): clicks, or ratings for a model of them."""
        return self.inputs["train"]

    def run(self, *, on_step: OnStep | None = None, on_epoch: OnEpoch | None = None) -> float:
        """Train the model, and return the seconds that its ``fit`` took; ``model.metrics`` has its validation score.

        The hooks are called for a model with epochs. Interrupted (Ctrl-C), such a model is left with the best weights
        so far, also in the folder, and KeyboardInterrupt goes on to the caller.
        """
        model, more = self.model, JsonObject()
        by_epochs = model.config.train is not None
        if by_epochs:
            more = {"folder": self.folder, "resume": self.resume, "overwrite": self.overwrite, "on_step": on_step}
            more |= {} if self.start is None else {"start": self.start}
            more |= {} if self.across is None else {"across": self.across}
            more["on_epoch"] = None if on_epoch is None else lambda report: on_epoch(report.to_dict())
        began = time.perf_counter()
        model.fit(**self.inputs, validation=self.validation, **more)
        seconds = time.perf_counter() - began
        if not by_epochs:
            model.metrics = {} if self.validation is None else {"validation": self.validation(model)}
            if self.folder is not None:
                model.save(self.folder, overwrite=self.overwrite)
        return seconds


def begin(
    config: RunConfig,
    data: "Dataset",
    *,
    metric: str | None = None,
    validation: Validation | None = None,
    refit: Refit | None = None,
    device: str = "auto",
    folder: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    start: Path | None = None,
    across: "Processes | None" = None,
) -> Fit:
    """Return a fit of a configuration on a dataset, with everything checked and read.

    ``metric``, on the validation users, chooses the epoch that is kept; by default that of the run that is resumed or
    that training starts from, or else the model's own. ``validation``: its function, for a caller that has it already.
    ``refit``: the run whose model is trained again, on the validation users' clicks too and without validation.
    ``folder``, ``resume`` and ``overwrite`` as in :class:`Fit`; where there is no run in the folder yet, ``resume``
    begins one. ``start``: the run folder from whose parameters training begins; the model checks it before it trains.
    ``across``: the processes that train the model together, all of which call this; they have no warm start.

    Raises :class:`InputError` for arguments that do not go together, a folder that may not be replaced and a dataset
    that the model cannot use, and :class:`FormatError` for a damaged file.
    """
    if folder is None and (resume or overwrite):
        raise InputError("resume and overwrite are about a run's folder; name it.")
    if resume and config.train is None:
        raise InputError(f"'{config.name}' is not trained by epochs, so there is nothing to resume.")
    model = build(config, device)
    earlier = None if start is None else _checked_start(start, model, folder)
    if refit is not None:
        refit.check_start(start)
    if across is not None:
        model.refuse_parts()
    before: Document | None = None  # the dataset facts of the run that is resumed
    if folder is not None and resume:
        begun = under_way(folder)
        before = read_run(begun).dataset if (begun / RUN).is_file() else None
    of_refit = None if before is None else before.get("refit")
    is_refit = refit is not None or of_refit is not None
    if is_refit and metric is not None:
        raise InputError(f"{folder} is refitted, without validation: leave --metric out.")
    if folder is not None and before is None:
        refuse_existing(folder, marker=RUN, overwrite=overwrite)
    if refit is not None:
        refit.check_catalogue(data)
    metric = metric or (before or earlier or {}).get("validation_metric") or model.default_metric
    inputs = model.training_inputs(data, refit=is_refit)
    if is_refit:
        validation = None
        model.dataset = facts(data, refit=of_refit if refit is None else refit.facts(inputs["train"]))
    else:
        validation = validation or validate_with(data, metric, model)
        model.dataset = facts(data, validation_metric=metric)
    return Fit(model, inputs, metric, validation, folder, resume, overwrite, start, across)


def _checked_start(start: Path, model: "Recommender", folder: Path | None) -> Document:
    """Return the dataset facts of a run from which a model starts.

    Raises :class:`InputError` where it cannot, as far as this shows before the weights are read.
    """
    if model.no_start:
        title = entry(model.name).title
        raise InputError(f"{title} has no warm start: it {model.no_start}. Train it without one.")
    if folder is not None and folder.resolve() == start.resolve():
        raise InputError(f"A run cannot start from {start} and be written there. Name another folder to write.")
    run = read_run(start)
    check_kind(str(start), run.model, model.name)
    return run.dataset


def validate_with(data: "Dataset", metric: str, model: "Recommender | None" = None) -> Validation:
    """Return the function that scores models like ``model``, without it any of clicks, on the validation users.

    ``metric`` is a ranking's, or :data:`~recvae.capabilities.R2`; :class:`InputError` where the model has no such
    thing.
    """
    if metric == R2:
        if model is None or not model.predicts_ratings:
            raise InputError(
                f"'{R2}' is about predicted ratings, which this model does not make. Use a ranking's metric, such as "
                "ndcg@100."
            )
        score = ratings_validator(data.ratings("validation_in"), data.ratings("validation_out"))
        return lambda trained: score(cast("RatingPredictor", trained))
    if model is None:
        query, clicks = Query(data.validation_in), data.validation_out
    else:
        query, clicks = model.held_out_inputs(data, "validation")
    beyond = beyond_catalogue(data, "validation")
    plain = validator(query, clicks, metric, beyond=beyond)
    under: dict[tuple[str, ...], Validation] = {}  # by the conditions that a model has once it is trained

    def validate(trained: "Recommender") -> float:
        names = trained.condition_names
        if not names:
            return plain(trained)
        if names not in under:
            asked = trained.held_out_inputs(data, "validation").query
            under[names] = plain if asked.conditions is None else validator(asked, clicks, metric, beyond=beyond)
        return under[names](trained)

    return validate


def evaluated(
    model: "Recommender",
    data: "Dataset",
    metrics: str | Sequence[str],
    *,
    split: str = "test",
    progress: Callable[[int, int], None] | None = None,
    most_per_tag: int | None = None,
    diversity: float = 0.0,
) -> Evaluation:
    """Return the evaluation of a model on the held-out users of ``split``, of the lists under these rules."""
    names = {metric.name for metric in parse_metrics(metrics)}
    popularity = None
    if "novelty" in names:
        popularity = item_counts(data.train)
    query, clicks = model.held_out_inputs(data, split)
    beyond = beyond_catalogue(data, split)
    if most_per_tag is not None or diversity:
        query = replace(query, most_per_tag=most_per_tag, diversity=diversity)
    train = data.train if "diversity" in names else None
    return evaluate(model, query, clicks, metrics, popularity=popularity, train=train, beyond=beyond, progress=progress)


def measure(
    config: RunConfig,
    data: "Dataset",
    metrics: str | Sequence[str],
    *,
    metric: str | None = None,
    device: str = "auto",
    on_step: OnStep | None = None,
    on_epoch: OnEpoch | None = None,
) -> "tuple[Recommender, ModelResult]":
    """Train one model in memory, ``metric`` choosing its epoch as in :func:`begin`, and evaluate it on test users."""
    fit = begin(config, data, metric=metric, device=device)
    seconds = fit.run(on_step=on_step, on_epoch=on_epoch)
    evaluation = evaluated(fit.model, data, metrics)
    result = ModelResult(evaluation, train_seconds=round(seconds, 3), config=fit.model.config.to_dict())
    return fit.model, result
