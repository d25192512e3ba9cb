"""Where a training run keeps its best weights: in memory, or in a run folder that survives a kill at any moment."""

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from recvae import checkpoint
from recvae.config import run_config
from recvae.errors import ConfigError, FormatError, InputError
from recvae.files import PART, find_aside, put_back, refuse_existing, set_aside
from recvae.fixed import Fixed
from recvae.training import EpochReport, TrainState

if TYPE_CHECKING:
    from recvae.vae import NeuralRecommender


class InMemory:
    """Keeps a copy of the best weights."""

    def __init__(self, model: "NeuralRecommender") -> None:
        self.model = model
        self.best: dict[str, Tensor] | None = None

    keep_state = None
    restored: Mapping[str, Tensor] = {}

    def begin(self) -> TrainState | None:
        """Return the state to continue from: none."""
        return None

    def keep_best(self, report: EpochReport) -> None:
        """Copy the weights; the last epoch's stay where they are."""
        note_best(self.model, report)
        options = self.model.config.train
        last = report.epoch == options.epochs and not options.average  # an average takes its place only after the run
        trained = self.model.network.named_parameters()
        self.best = None if last else {name: value.detach().clone() for name, value in trained}

    def end(self) -> None:
        """Put the best weights back."""
        if self.best is not None:
            self.model.network.load_state_dict(self.best, strict=False)  # what is not trained is as it was


class InFolder:
    """Writes the run folder as the run goes: best weights, metrics, and last the state, which makes an epoch done.

    run.json is written first of all, so that a folder that was begun is always known for what it is. With ``overwrite``
    an earlier run is set aside, and deleted only once this one has weights of its own.
    """

    def __init__(self, model: "NeuralRecommender", folder: Path, matrix: Any, *, resume: bool, overwrite: bool) -> None:
        self.model, self.folder = model, folder
        self.resume, self.overwrite = resume, overwrite
        self.clicks = _fingerprint(matrix, weighted=model.config.model.weighted, given=model.given())
        self.rows: list[dict[str, Any]] = []
        self.aside: Path | None = None
        self.has_weights = False
        self.fixed = Fixed(folder, model.fixed)
        self.restored: dict[str, Tensor] = {}  # what no epoch changes, of a run that is resumed

    def begin(self) -> TrainState | None:
        """Start the folder, or return the state to continue from (None where no epoch was finished)."""
        state = None
        if self.resume and (self.folder / checkpoint.RUN).is_file():
            self._same_settings(checkpoint.read_run(self.folder))
            found = checkpoint.read_state(self.folder)
            if found is not None:
                state, facts = found
                if facts["clicks"] != self.clicks:
                    other = "clicks or tags" if self.model.condition_names else "clicks"
                    raise InputError(f"{self.folder} was trained on other {other}; resuming needs the same.")
                self.rows = facts["rows"]
                done = state.values["done"]
                if done > self.model.config.train.epochs:
                    raise InputError(
                        f"{self.folder} has done {done} epochs; resume=True needs train.epochs of at least that."
                    )
                checkpoint.write_metrics(self.folder, self.rows)  # a kill may have come between the state and these
                self.model.best_epoch, self.model.metrics = facts["best_epoch"], facts["metrics"]
                if facts["best_epoch"] is not None:
                    # Now, not after hours, if it is damaged.
                    tensors, of_weights = checkpoint.read_weights(self.folder / checkpoint.WEIGHTS)
                    self.restored = self.fixed.restored(tensors, of_weights)
                    self.has_weights = True
        else:
            refuse_existing(self.folder, marker=checkpoint.RUN, overwrite=self.overwrite)
            if (self.folder / checkpoint.RUN).is_file():
                earlier = find_aside(self.folder)
                if earlier is not None and not (self.folder / checkpoint.WEIGHTS).is_file():
                    put_back(earlier, self.folder)  # what is there now is less than what it was to replace
                self.aside = set_aside(self.folder)
        if self.aside is None and not self.has_weights:
            self.aside = find_aside(self.folder)  # an earlier run, which a killed one was to replace
        for cut_off in (*self.folder.glob(f".*{PART}"), *self.folder.glob(f"resume/.*{PART}")):
            cut_off.unlink()  # what a killed write left behind
        checkpoint.write_run(self.folder, self.model.run())
        checkpoint.write_items(self.folder, self.model.items)
        return state

    def keep_best(self, report: EpochReport) -> None:
        """Write the weights, which carry their own facts, and run.json."""
        note_best(self.model, report)
        tensors, facts = self.fixed.apart(self.model.tensors(), self.model.facts())
        checkpoint.write_weights(self.folder / checkpoint.WEIGHTS, tensors, facts)
        self.fixed.tidy()
        self.has_weights = True
        checkpoint.write_run(self.folder, self.model.run())
        if self.aside is not None:
            shutil.rmtree(self.aside.parent, ignore_errors=True)
            self.aside = None

    def keep_state(self, state: TrainState, report: EpochReport) -> None:
        """Write what the next epoch depends on, and the metrics."""
        self.rows.append(report.to_dict())
        facts = {
            "rows": self.rows,
            "clicks": self.clicks,
            "best_epoch": self.model.best_epoch,
            "metrics": self.model.metrics,
        }
        checkpoint.write_state(self.folder, state, facts)
        checkpoint.write_metrics(self.folder, self.rows)

    def end(self) -> None:
        """Put the best weights back; a run that never had any gives an earlier one its place again."""
        if self.aside is not None:
            put_back(self.aside, self.folder)
        elif self.has_weights:
            tensors, facts = checkpoint.read_weights(self.folder / checkpoint.WEIGHTS)
            # A run killed between weights and state has weights of an epoch that it has yet to do again.
            self.model.best_epoch, self.model.metrics = facts["best_epoch"], facts["metrics"]
            self.model.network.load_state_dict(tensors, strict=not self.model.fixed)  # what is fixed is as it was
        else:
            self.model.best_epoch = None

    def _same_settings(self, run: checkpoint.Run) -> None:
        """Refuse to continue a run with other settings or other items; more epochs are welcome where they are exact."""
        ours = self.model.run()
        if run.model != ours.model:
            raise InputError(f"{self.folder} holds a '{run.model}' run; resume=True needs the same model.")
        try:
            config = run_config(run.config).to_dict()  # options that are newer than the run are at their defaults
        except ConfigError as error:
            raise FormatError(
                f"{self.folder / checkpoint.RUN} was altered, or is another version's. {error}"
            ) from error
        theirs, mine = (_flat({"config": c, "dataset": r.dataset}) for c, r in ((config, run), (ours.config, ours)))
        free = {"config.train.epochs"} if "refit" in run.dataset else {"config.train.epochs", "config.train.stop_after"}
        keys = sorted({*theirs, *mine} - free)
        changed = [key for key in keys if theirs.get(key) != mine.get(key)]
        settings = [key for key in changed if key.startswith("config.")]
        if settings:
            was = ", ".join(f"{key.removeprefix('config.')}={theirs.get(key)}" for key in settings)
            raise InputError(f"{self.folder} was trained with {was}; resume=True needs the same settings.")
        schedules = {"config.model.anneal": ("share", "cyclical"), "config.train.decay": ("cosine",)}
        tied = [key.removeprefix("config.") for key, values in schedules.items() if mine.get(key) in values]
        epochs = theirs.get("config.train.epochs")
        if tied and epochs != mine.get("config.train.epochs"):
            raise InputError(
                f"{self.folder} has a schedule over its {epochs} epochs ({tied[0]}), so resume=True cannot change "
                f"their number. Train again, or with another {tied[0]}."
            )
        if changed == ["dataset.validation_metric"]:
            metric = theirs.get("dataset.validation_metric")
            raise InputError(f"{self.folder} was validated by {metric}; resume=True needs --metric {metric}.")
        if run.vocabulary != ours.vocabulary or changed:
            raise InputError(f"{self.folder} was trained on another dataset; resume=True needs the same one.")


def note_best(model: "NeuralRecommender", report: EpochReport) -> None:
    """Remember which epoch the kept weights are from, and its score."""
    model.best_epoch = report.epoch
    model.metrics = {} if report.score is None else {"validation": report.score}


def _fingerprint(matrix: Any, *, weighted: bool, given: Iterable[bytes]) -> str:
    """Return a digest of a canonical CSR, of its values only where they are used, and of what else was given."""
    digest = hashlib.sha256(repr((matrix.shape, matrix.nnz)).encode())
    digest.update(matrix.indptr.astype("<i8").data)
    digest.update(matrix.indices.astype("<i4").data)
    if weighted:
        digest.update(matrix.data.astype("<f8").data)
    for part in given:
        digest.update(part)
    return digest.hexdigest()


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values by dotted name, lists for tuples as in JSON."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": v for inner, v in _flat(value).items()}
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat
