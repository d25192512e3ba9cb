"""Training a finished run's model again on all clicks but the test part: ``recvae train DIR --refit RUN --out RUN2``.

The validation clicks of RUN chose its best epoch. With that number known nothing needs validating, so they are trained
on too, for as many epochs; schedules go on as for RUN's own number of epochs (``train.stop_after``). The model, its
options and the seed are RUN's. No score is kept that the validation clicks would give: they have been trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy.sparse import csr_array

from recvae.config import RunConfig, run_config
from recvae.errors import ConfigError, FormatError, InputError
from recvae.experiments.facts import other_split
from recvae.files import Document, JsonObject
from recvae.training.run_folder import RUN, read_metrics, read_run, version_of

if TYPE_CHECKING:
    from data_prep.dataset import Dataset


@dataclass(frozen=True)
class Refit:
    """The settings with which a run is trained again.

    ``config`` ends after the best epoch; ``epoch`` is that epoch (None for models without any), ``score`` what
    ``metric`` was in it; ``vocabulary`` is the hash of the items that the run was trained on, ``start`` the version of
    the run that it started from, if any.
    """

    run: Path
    config: RunConfig
    epoch: int | None
    metric: str | None
    score: float | None
    vocabulary: str
    dataset: Document
    start: str | None = None

    def facts(self, clicks: csr_array) -> JsonObject:
        """Return the facts in run.json about a refit on ``clicks`` (n_users, n_items), as plain values."""
        return {
            "epoch": self.epoch,
            "metric": self.metric,
            "score": self.score,
            "users": int(clicks.shape[0]),
            "clicks": int(clicks.nnz),
        }

    def check_start(self, start: Path | None) -> None:
        """Raise :class:`InputError` unless ``start`` is the run that this one started from: epochs count from there."""
        if self.start is None and start is not None:
            raise InputError(f"{self.run} had no warm start, and a refit trains as it did: leave the warm start out.")
        if self.start is not None and (start is None or version_of(start) != self.start):
            named = "" if start is None else f", which {start} is not"
            raise InputError(
                f"{self.run} started from the run of version {self.start}{named}. A refit trains as it did: name that "
                "run with --warm-start."
            )

    def check_catalogue(self, data: "Dataset") -> None:
        """Raise :class:`InputError` where the run was trained on other items than ``data`` has, or another split."""
        place = data.path or data.name
        if self.vocabulary != data.vocabulary_hash:
            trained_on = self.dataset.get("name", "unnamed data")
            raise InputError(
                f"{self.run} was trained on another catalogue ({trained_on}) than that of {place} ({data.name}). "
                "--refit needs the dataset folder that it was trained on."
            )
        if other_split(self.dataset, data):
            raise InputError(
                f"{self.run} was trained on another split of {data.name} than {place} now holds. --refit needs the "
                "dataset folder that it was trained on."
            )


def plan_refit(run: Path) -> Refit:
    """Read the settings with which a finished run is trained again.

    Raises :class:`InputError` where ``run`` is not finished or was refitted itself, and :class:`FormatError` where it
    is no run folder or a damaged one.
    """
    before = read_run(run)
    if "refit" in before.dataset:
        raise InputError(f"{run} was refitted itself, without validation. Name the run that it was refitted from.")
    try:
        config = run_config(before.config)
    except ConfigError as error:
        raise FormatError(f"{run / RUN} was altered, or is another version's. {error}") from error
    if config.train is not None:
        _check_finished(run, config.train, before.best_epoch, read_metrics(run))
        config = replace(config, train=replace(config.train, stop_after=before.best_epoch or 0))
    return Refit(
        run=run,
        config=config,
        epoch=before.best_epoch,
        metric=before.dataset.get("validation_metric"),
        score=before.metrics.get("validation"),
        vocabulary=before.vocabulary,
        dataset=before.dataset,
        start=None if before.start is None else before.start.version,
    )


def _check_finished(run: Path, options: Any, best_epoch: int | None, rows: Sequence[Document]) -> None:
    """Raise :class:`InputError` for a run that has more epochs to do; one saved without its epochs is taken as done."""
    last = min(options.epochs, options.stop_after or options.epochs)
    finish = f"Finish it first: recvae train DIR --out {run} --resume"
    if best_epoch is None:
        raise InputError(f"{run} has no best epoch yet. {finish}")
    if rows and len(rows) < last:
        since_best = sum(row.get("score") is not None and row.get("epoch", 0) > best_epoch for row in rows)
        if not options.patience or since_best < options.patience:
            raise InputError(f"{run} has done {len(rows)} of its {last} epochs, and a later one may be best. {finish}")
