"""Where a training run keeps its best weights: in memory, or in a run folder that survives a kill at any moment."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from recvae import checkpoint, seals
from recvae.config import run_config
from recvae.errors import ConfigError, FormatError, InputError
from recvae.files import PART, find_aside, put_back, refuse_existing, set_aside
from recvae.records import Later, Run
from recvae.training import EpochReport, TrainState, is_scheduled

if TYPE_CHECKING:
    from recvae.vae import NeuralRecommender


class InMemory:
    """Keeps a copy of the best weights."""

    def __init__(self, model: "NeuralRecommender") -> None:
        self.model = model
        self.best: dict[str, Tensor] | None = None

    keep_state = None

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

    A last epoch is always validated, also where ``validate_every`` does not say so. A longer run knows nothing of such
    a validation: its state and its best epoch are those of the scheduled ones. So where the last epoch is best by it,
    the best weights of a longer run are kept in resume/best.safetensors, until that has better ones.
    """

    def __init__(self, model: "NeuralRecommender", folder: Path, matrix: Any, *, resume: bool, overwrite: bool) -> None:
        self.model, self.folder = model, folder
        self.resume, self.overwrite = resume, overwrite
        self.clicks = _fingerprint(matrix, weighted=model.config.model.weighted, given=model.given())
        self.rows: list[dict[str, Any]] = []
        self.aside: Path | None = None
        self.has_weights = False
        self.finished = False

    def begin(self) -> TrainState | None:
        """Start the folder, or return the state to continue from (None where no epoch was finished)."""
        state = None
        if self.resume and (self.folder / checkpoint.RUN).is_file():
            run = checkpoint.read_run(self.folder)
            self._same_settings(run)
            found = checkpoint.read_state(self.folder)
            if found is not None:
                state, facts = found
                self._continue(run, state, facts)
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
        if state is not None:  # a kill may have come between the state and these
            checkpoint.write_metrics(self.folder, self.rows)
        return state

    def _continue(self, run: Run, state: TrainState, facts: checkpoint.Facts) -> None:
        """Take over what a state says; raise :class:`InputError` where it is of other clicks or of more epochs."""
        options, done = self.model.config.train, state.values["done"]
        if facts["clicks"] != self.clicks:
            other = "clicks or tags" if self.model.condition_names else "clicks"
            raise InputError(f"{self.folder} was trained on other {other}; resuming needs the same.")
        if done > options.epochs:
            raise InputError(f"{self.folder} has done {done} epochs; --resume needs train.epochs of at least that.")
        self.rows = facts["rows"]
        if self.rows[-1]["best_epoch"]:  # weights that are damaged are found now, and not after hours
            _, of_file = checkpoint.read_weights(self.folder, lambda _: self.model.expected())
            self.model.best_epoch, self.model.metrics = of_file["best_epoch"], of_file["metrics"]
            self.has_weights = True
        self._note(state)
        self.model.versions, self.model.resumed = run.versions, run.resumed
        if not self.finished:
            self.model.resumed = _later(run, done)
            self._forget_extra(state)

    def _note(self, state: TrainState) -> None:
        """Remember whether a run that is in ``state`` goes on."""
        options, values = self.model.config.train, state.values
        last = min(options.epochs, options.stop_after or options.epochs)
        out_of_patience = bool(options.patience) and values["since_best"] >= options.patience
        self.finished = values["done"] >= last or out_of_patience

    def _forget_extra(self, state: TrainState) -> None:
        """Take back the validation of a last epoch that is not the last any more, unless it was scheduled anyway."""
        options, row, values = self.model.config.train, self.rows[-1], state.values
        if row["score"] is not None and not is_scheduled(row["epoch"], options):
            if "arithmetic" not in values:  # a state of the time when it was counted with the others
                if row["best"]:
                    raise InputError(
                        f"{self.folder} was trained by an earlier recvae, which kept the last epoch's weights in place "
                        f"of those that a longer run goes by (validate_every = {options.validate_every}). Train again."
                    )
                values["since_best"] -= 1
            best = {"best_epoch": values["best_epoch"], "best_score": values["best_score"]}
            self.rows[-1] = {**row, "score": None, "best": False, **best}
        self.rows = [{**row, "epochs": options.epochs} for row in self.rows]

    def keep_best(self, report: EpochReport) -> None:
        """Write the weights, which carry their own facts, and run.json."""
        if report.score is not None and not is_scheduled(report.epoch, self.model.config.train) and self.rows:
            self._keep_aside(self.rows[-1]["best_epoch"])
        note_best(self.model, report)
        checkpoint.write_best(self.folder, self.model.run(), self.model.tensors(), self.model.facts())
        self.has_weights = True
        if self.aside is not None:
            shutil.rmtree(self.aside.parent, ignore_errors=True)
            self.aside = None

    def _keep_aside(self, scheduled: int) -> None:
        """Keep the weights of the best scheduled epoch, where they are still in model.safetensors."""
        kept = checkpoint.read_facts(self.folder)
        if scheduled and kept is not None and kept["best_epoch"] == scheduled:
            checkpoint.keep_aside(self.folder)

    def keep_state(self, state: TrainState, report: EpochReport) -> None:
        """Write what the next epoch depends on, and the metrics."""
        self.rows.append(report.to_dict())
        best_epoch, best_score = state.values["best_epoch"], state.values["best_score"]
        facts = {
            "rows": self.rows,
            "clicks": self.clicks,
            "best_epoch": best_epoch or None,
            "metrics": {} if best_score is None else {"validation": best_score},
        }
        checkpoint.write_state(self.folder, state, facts)
        self._note(state)
        if report.best and report.best_epoch == best_epoch:
            checkpoint.remove_aside(self.folder)

    def end(self) -> None:
        """Put the best weights back; a run that never had any gives an earlier one its place again."""
        if self.aside is not None:
            put_back(self.aside, self.folder)
            return
        if not self.has_weights:
            self.model.best_epoch = None
            return
        tensors, facts = checkpoint.read_weights(self.folder)
        best = self.rows[-1]["best_epoch"] if self.rows else 0
        if self.finished and facts["best_epoch"] != best:
            tensors, facts = self._put_in_place(best, tensors, facts)
        # A run killed between weights and state has weights of an epoch that it has yet to do again.
        self.model.best_epoch, self.model.metrics = facts["best_epoch"], facts["metrics"]
        self.model.network.load_state_dict(tensors)
        seals.narrow(self.folder)

    def _put_in_place(
        self, best: int, tensors: dict[str, Tensor], facts: checkpoint.Facts
    ) -> tuple[dict[str, Tensor], checkpoint.Facts]:
        """Put the best weights that were kept aside in the place of those that a shorter run ended with."""
        of_kept = checkpoint.read_facts(self.folder, checkpoint.BEST)
        if of_kept is None or of_kept["best_epoch"] != best:
            return tensors, facts
        tensors, facts = checkpoint.read_weights(self.folder, file=checkpoint.BEST)
        self.model.best_epoch, self.model.metrics = facts["best_epoch"], facts["metrics"]
        checkpoint.write_best(self.folder, self.model.run())
        checkpoint.remove_aside(self.folder)
        return tensors, facts

    def _same_settings(self, run: Run) -> None:
        """Refuse to continue a run with other settings or other items; more epochs are welcome where they are exact."""
        ours = self.model.run()
        if run.model != ours.model:
            raise InputError(f"{self.folder} holds a '{run.model}' run; --resume needs the same model.")
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
            raise InputError(f"{self.folder} was trained with {was}; --resume needs the same settings.")
        schedules = {"config.model.anneal": ("share", "cyclical"), "config.train.decay": ("cosine",)}
        tied = [key.removeprefix("config.") for key, values in schedules.items() if mine.get(key) in values]
        epochs = theirs.get("config.train.epochs")
        if tied and epochs != mine.get("config.train.epochs"):
            raise InputError(
                f"{self.folder} has a schedule over its {epochs} epochs ({tied[0]}), so --resume cannot change "
                f"their number. Train again, or with another {tied[0]}."
            )
        if changed == ["dataset.validation_metric"]:
            metric = theirs.get("dataset.validation_metric")
            raise InputError(f"{self.folder} was validated by {metric}; --resume needs --metric {metric}.")
        if run.vocabulary != ours.vocabulary or changed:
            raise InputError(f"{self.folder} was trained on another dataset; --resume needs the same one.")


def _later(run: Run, done: int) -> tuple[Later, ...]:
    """Return the versions that a run went on with where they were others than before, those of now too."""
    later = tuple(part for part in run.resumed if part.epoch <= done)
    now = checkpoint.versions()
    before = later[-1].versions if later else run.versions
    return later if now == before else (*later, Later(epoch=done + 1, versions=now))


def note_best(model: "NeuralRecommender", report: EpochReport) -> None:
    """Remember which epoch the kept weights are from, and its score."""
    model.best_epoch = report.epoch
    model.metrics = {} if report.score is None else {"validation": report.score}


def _fingerprint(matrix: Any, *, weighted: bool, given: bytes) -> str:
    """Return a digest of a canonical CSR, of its values only where they are used, and of what else was given."""
    digest = hashlib.sha256(repr((matrix.shape, matrix.nnz)).encode())
    digest.update(matrix.indptr.astype("<i8").data)
    digest.update(matrix.indices.astype("<i4").data)
    if weighted:
        digest.update(matrix.data.astype("<f8").data)
    digest.update(given)
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
