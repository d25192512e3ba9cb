"""Where a training run keeps its best weights: in memory, or in a run folder that survives a kill at any moment."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar, Protocol

from scipy.sparse import csr_array
from torch import Tensor

from recvae import version
from recvae.config import RunConfig, run_config
from recvae.errors import ConfigError, FormatError, InputError, WorkError
from recvae.files import Document, JsonObject, refuse_existing, writing
from recvae.files.swap import clear_inside, clear_replaced, failure, next_of, put, recover, remove, target
from recvae.nn.network import Network
from recvae.training import run_folder, seals
from recvae.training.fixed import Fixed
from recvae.training.loop import EpochReport, TrainOptions, TrainState, is_scheduled
from recvae.training.records import Later, Run
from recvae.training.tensor_files import Facts
from recvae.training.tensors import Expected
from recvae.training.vocabulary import Vocabulary


class Trained(Protocol):
    """What a keeper needs of the model that is trained; :class:`recvae.models.neural.NeuralRecommender` has it all."""

    config: RunConfig
    items: Vocabulary
    condition_names: tuple[str, ...]
    best_epoch: int | None
    metrics: dict[str, float]
    network: Network
    fixed: ClassVar[tuple[str, ...]]
    versions: dict[str, str]
    resumed: tuple[Later, ...]

    @property
    def weighted(self) -> bool:
        """Whether the values of the training matrix are used."""

    def run(self) -> Run:
        """Return what run.json says of the model."""

    def facts(self) -> JsonObject:
        """Return what the weights' file says of itself."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what was learned, by name."""

    def expected(self) -> Mapping[str, Expected]:
        """Return the names, shapes, types and ranges of the tensors that the model learns."""

    def given(self) -> Iterable[bytes]:
        """Return what the model learns from beside the clicks, in parts, to be compared when a run is resumed."""


class InMemory:
    """Keeps a copy of the best weights."""

    def __init__(self, model: Trained) -> None:
        self.model = model
        self.best: dict[str, Tensor] | None = None

    keep_state = None
    has_fixed = False

    def begin(self) -> TrainState | None:
        """Return the state to continue from: none."""
        return None

    def keep_best(self, report: EpochReport) -> None:
        """Copy the weights; the last epoch's stay where they are."""
        note_best(self.model, report)
        options = self.model.config.options(TrainOptions)
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
    the run begins in a hidden folder beside the earlier one, whose place it takes with its first weights. Nobody else
    may write there from :meth:`begin` to :meth:`end`.

    A last epoch is always validated, also where ``validate_every`` does not say so. A longer run knows nothing of such
    a validation: its state and its best epoch are those of the scheduled ones. So where the last epoch is best by it,
    the best weights of a longer run are kept in resume/best.safetensors, until that has better ones.
    """

    def __init__(self, model: Trained, folder: Path, matrix: csr_array, *, resume: bool, overwrite: bool) -> None:
        self.model, self.folder = model, target(folder)
        self.home = self.folder  # where the files are now
        self.resume, self.overwrite = resume, overwrite
        self.clicks = _fingerprint(matrix, weighted=model.weighted, given=model.given())
        self.rows: list[JsonObject] = []
        self.has_weights = False
        self.new = self.begun = False  # whether the files in ``home`` are this call's, and whether there are any
        self.held = ExitStack()
        self.finished = False
        self.fixed = Fixed(model.fixed)
        self.has_fixed = False  # whether the network has what no epoch changes, of the run that is resumed

    def begin(self) -> TrainState | None:
        """Start the folder, or return the state to continue from (None where no epoch was finished)."""
        self.held.enter_context(writing(self.folder))
        state = None
        begun = under_way(self.folder)
        if self.resume and (begun / run_folder.RUN).is_file():
            self.home = begun
            state = self._continue()
        else:
            refuse_existing(self.folder, marker=run_folder.RUN, overwrite=self.overwrite)
            remove(next_of(self.folder))
            if (self.folder / run_folder.RUN).is_file():
                self.home = next_of(self.folder)
            self.new = True
        for folder in (self.home, self.home / Path(run_folder.STATE).parent):
            clear_inside(folder)
        self.begun = True
        with self._named():
            run_folder.write_run(self.home, self.model.run())
            run_folder.write_items(self.home, self.model.items)
            if state is not None:  # a kill may have come between the state and these
                run_folder.write_metrics(self.home, self.rows)
        self._take_place()
        return state

    def _continue(self) -> TrainState | None:
        """Take over and return the state in ``home``, None where no epoch was finished there.

        Raises :class:`InputError` where it is of other settings, of other clicks or of more epochs.
        """
        run = run_folder.read_run(self.home)
        self._same_settings(run)
        found = run_folder.read_state(self.home)
        if found is None:
            return None
        state, facts = found
        done = state.values["done"]
        if facts["clicks"] != self.clicks:
            other = "clicks or tags" if self.model.condition_names else "clicks"
            raise InputError(f"{self.folder} was trained on other {other}; resuming needs the same.")
        if done > self.model.config.options(TrainOptions).epochs:
            raise InputError(f"{self.folder} has done {done} epochs; resume=True needs train.epochs of at least that.")
        self.rows = facts["rows"]
        if self.rows[-1]["best_epoch"]:  # weights that are damaged are found now, and not after hours
            tensors, of_file = run_folder.read_weights(self.home, lambda _: self.model.expected())
            self.has_fixed = self.fixed.restore(self.model.network, tensors, of_file)
            self.model.best_epoch, self.model.metrics = of_file["best_epoch"], of_file["metrics"]
            self.has_weights = True
        self._note(state)
        self.model.versions, self.model.resumed = run.versions, run.resumed
        if not self.finished:
            self.model.resumed = _later(run, done)
            self._forget_extra(state)
        return state

    def _note(self, state: TrainState) -> None:
        """Remember whether a run that is in ``state`` goes on."""
        options, values = self.model.config.options(TrainOptions), state.values
        last = min(options.epochs, options.stop_after or options.epochs)
        out_of_patience = bool(options.patience) and values["since_best"] >= options.patience
        self.finished = values["done"] >= last or out_of_patience

    def _forget_extra(self, state: TrainState) -> None:
        """Take back the validation of a last epoch that is not the last any more, unless it was scheduled anyway."""
        options, row, values = self.model.config.options(TrainOptions), self.rows[-1], state.values
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

    def _take_place(self) -> None:
        """Put a run that has weights in the place of the one that it replaces, which goes."""
        if not self.has_weights:
            return
        if self.home != self.folder:
            try:
                put(self.home, self.folder)
            except OSError as error:
                raise failure(self.folder, error) from error
            self.home = self.folder
        clear_replaced(self.folder)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Let a failure name the place that the user knows."""
        try:
            yield
        except WorkError as error:
            raise WorkError(str(error).replace(str(self.home), str(self.folder))) from error

    def keep_best(self, report: EpochReport) -> None:
        """Write the weights, which carry their own facts, and run.json."""
        with self._named():
            if (
                report.score is not None
                and not is_scheduled(report.epoch, self.model.config.options(TrainOptions))
                and self.rows
            ):
                self._keep_aside(self.rows[-1]["best_epoch"])
            note_best(self.model, report)
            try:
                tensors, facts = self.fixed.apart(self.home, self.model.tensors(), self.model.facts())
                run_folder.write_best(self.home, self.model.run(), tensors, facts)
            finally:  # whatever came between the two files
                self.has_weights = self.has_weights or (self.home / run_folder.WEIGHTS).is_file()
            run_folder.tidy_fixed(self.home)
        self._take_place()

    def _keep_aside(self, scheduled: int) -> None:
        """Keep the weights of the best scheduled epoch, where they are still in model.safetensors."""
        kept = run_folder.read_facts(self.home)
        if scheduled and kept is not None and kept["best_epoch"] == scheduled:
            run_folder.keep_aside(self.home)

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
        with self._named():
            run_folder.write_state(self.home, state, facts)
            self._note(state)
            if report.best and report.best_epoch == best_epoch:
                run_folder.remove_aside(self.home)

    def end(self) -> None:
        """Put the best weights back; a run that never had any leaves nothing, and an earlier one as it was."""
        with self.held:
            if self.has_weights and self.home == self.folder:
                self._put_weights_back()
                return
            self.model.best_epoch = None
            if self.begun and self.home != self.folder:
                remove(self.home)
            elif self.begun and self.new:
                run_folder.remove_run(self.folder)

    def _put_weights_back(self) -> None:
        """Give the model the best weights, and close the folder's seal over what is there."""
        tensors, facts = run_folder.read_weights(self.folder)
        best = self.rows[-1]["best_epoch"] if self.rows else 0
        if self.finished and facts["best_epoch"] != best:
            tensors, facts = self._put_in_place(best, tensors, facts)
        # A run killed between weights and state has weights of an epoch that it has yet to do again.
        self.model.best_epoch, self.model.metrics = facts["best_epoch"], facts["metrics"]
        self.model.network.load_state_dict(tensors)
        seals.narrow(self.folder)

    def _put_in_place(self, best: int, tensors: dict[str, Tensor], facts: Facts) -> tuple[dict[str, Tensor], Facts]:
        """Put the best weights that were kept aside in the place of those that a shorter run ended with."""
        of_kept = run_folder.read_facts(self.folder, run_folder.BEST)
        if of_kept is None or of_kept["best_epoch"] != best:
            return tensors, facts
        tensors, facts = run_folder.read_weights(self.folder, file=run_folder.BEST)
        self.model.best_epoch, self.model.metrics = facts["best_epoch"], facts["metrics"]
        run_folder.write_best(self.folder, self.model.run())
        run_folder.remove_aside(self.folder)
        return tensors, facts

    def _same_settings(self, run: Run) -> None:
        """Refuse to continue a run with other settings or other items; more epochs are welcome where they are exact."""
        ours = self.model.run()
        if run.model != ours.model:
            raise InputError(f"{self.folder} holds a '{run.model}' run; resume=True needs the same model.")
        try:
            config = run_config(run.config).to_dict()  # options that are newer than the run are at their defaults
        except ConfigError as error:
            raise FormatError(
                f"{self.folder / run_folder.RUN} was altered, or is another version's. {error}"
            ) from error
        theirs, mine = (_flat({"config": c, "dataset": r.dataset}) for c, r in ((config, run), (ours.config, ours)))
        free = {"config.train.epochs"} if "refit" in run.dataset else {"config.train.epochs", "config.train.stop_after"}
        keys = sorted({*theirs, *mine} - free)
        changed = [key for key in keys if theirs.get(key) != mine.get(key)]
        settings = [key for key in changed if key.startswith("config.")]
        if settings:
            was = ", ".join(f"{key.removeprefix('config.')}={theirs.get(key)}" for key in settings)
            raise InputError(f"{self.folder} was trained with {was}; resume=True needs the same settings.")
        tied = tied_to_epochs(ours.config)
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


def under_way(folder: Path) -> Path:
    """Return where the run that was begun last is: in ``folder``, or hidden beside it until it has a model.

    An earlier run that a killed process had set aside gets its place back.
    """
    recover(folder, marker=run_folder.RUN, whole=run_folder.WEIGHTS)
    begun = next_of(folder)
    return begun if all((place / run_folder.RUN).is_file() for place in (folder, begun)) else folder


def tied_to_epochs(config: Document) -> list[str]:
    """Return the options whose schedule goes over all epochs, so that more of them make another run from the start."""
    schedules = {"model.anneal": ("share", "cyclical"), "train.decay": ("cosine",)}
    values = _flat(config)
    return [key for key, long in schedules.items() if values.get(key) in long]


def _later(run: Run, done: int) -> tuple[Later, ...]:
    """Return the versions that a run went on with where they were others than before, those of now too."""
    later = tuple(part for part in run.resumed if part.epoch <= done)
    now = version.versions()
    before = later[-1].versions if later else run.versions
    return later if now == before else (*later, Later(epoch=done + 1, versions=now))


def note_best(model: Trained, report: EpochReport) -> None:
    """Remember which epoch the kept weights are from, and its score."""
    model.best_epoch = report.epoch
    model.metrics = {} if report.score is None else {"validation": report.score}


def _fingerprint(matrix: csr_array, *, weighted: bool, given: Iterable[bytes]) -> str:
    """Return a digest of a canonical CSR, of its values only where they are used, and of what else was given."""
    digest = hashlib.sha256(repr((matrix.shape, matrix.nnz)).encode())
    digest.update(matrix.indptr.astype("<i8").data)
    digest.update(matrix.indices.astype("<i4").data)
    if weighted:
        digest.update(matrix.data.astype("<f8").data)
    for part in given:
        digest.update(part)
    return digest.hexdigest()


def _flat(config: Document) -> JsonObject:
    """Return nested values by dotted name, lists for tuples as in JSON."""
    flat: JsonObject = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": v for inner, v in _flat(value).items()}
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat
