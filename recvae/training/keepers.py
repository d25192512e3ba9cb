"""Where a training run keeps its best weights: in memory, or in a run folder that survives a kill at any moment."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar, Protocol

from scipy.sparse import csr_array
from torch import Tensor

from recvae.config import RunConfig
from recvae.errors import InputError, WorkError
from recvae.files import JsonObject, refuse_existing, writing
from recvae.files.swap import clear_inside, clear_replaced, failure, next_of, put, recover, remove, target
from recvae.nn.network import Network
from recvae.training import resuming, run_folder, seals
from recvae.training.fixed import Fixed
from recvae.training.loop import EpochReport, TrainOptions, TrainState, is_scheduled
from recvae.training.records import Later, Run, Started
from recvae.training.tensor_files import Facts
from recvae.training.tensors import Expected
from recvae.training.vocabulary import Vocabulary


class Trained(Protocol):
    """The attributes of the trained model that a keeper uses (:class:`recvae.models.neural.NeuralRecommender`)."""

    config: RunConfig
    items: Vocabulary
    condition_names: tuple[str, ...]
    best_epoch: int | None
    metrics: dict[str, float]
    network: Network
    fixed: ClassVar[tuple[str, ...]]
    versions: dict[str, str]
    resumed: tuple[Later, ...]
    start: Started | None

    @property
    def weighted(self) -> bool:
        """Whether the values of the training matrix are used."""

    def run(self) -> Run:
        """Return the content of run.json."""

    def facts(self) -> JsonObject:
        """Return the facts in the header of the weights file."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the learned tensors by name."""

    def expected(self) -> Mapping[str, Expected]:
        """Return the names, shapes, types and ranges of the tensors that the model learns."""

    def given(self) -> Iterable[bytes]:
        """Return the data beside the clicks from which the model learns, in parts: a resumed run compares them."""


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
        """Copy the weights; those of the last epoch are not copied, as nothing changes them."""
        note_best(self.model, report)
        options = self.model.config.options(TrainOptions)
        # An average enters the network only after the run.
        last = report.epoch == options.epochs and not options.average
        trained = self.model.network.named_parameters()
        self.best = None if last else {name: value.detach().clone() for name, value in trained}

    def end(self) -> None:
        """Put the best weights back."""
        if self.best is not None:
            self.model.network.load_state_dict(self.best, strict=False)  # tensors that are not trained have not changed


class InFolder:
    """Writes the run folder during the run: best weights, metrics, and last the state, with which an epoch is done.

    run.json is written first, so that an unfinished folder is always known as a run. With ``overwrite`` the run begins
    in a hidden folder beside the earlier run, and replaces that run when it has its first weights. No other process may
    write the folder from :meth:`begin` to :meth:`end`.

    The last epoch is always validated, also where ``validate_every`` does not schedule it. A longer run does not have
    this extra validation: its state and its best epoch come from the scheduled ones alone. So where the extra
    validation makes the last epoch best, the best scheduled weights, from which a longer run goes on, are kept in
    resume/best.safetensors until the longer run has better ones.
    """

    def __init__(self, model: Trained, folder: Path, matrix: csr_array, *, resume: bool, overwrite: bool) -> None:
        self.model, self.folder = model, target(folder)
        self.home = self.folder  # the folder that holds the files at present
        self.resume, self.overwrite = resume, overwrite
        self.clicks = resuming.fingerprint(matrix, weighted=model.weighted, given=model.given())
        self.rows: list[JsonObject] = []
        self.has_weights = False
        self.new = self.begun = False  # whether this call made the files in ``home``; whether it has begun
        self.held = ExitStack()
        self.finished = False
        self.fixed = Fixed(model.fixed)
        self.has_fixed = False  # whether the fixed tensors of a resumed run are in the network

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
            if state is not None:  # a killed run may have written its state and not its metrics
                run_folder.write_metrics(self.home, self.rows)
        self._take_place()
        return state

    def _continue(self) -> TrainState | None:
        """Take over the run in ``home`` and return its state, None where it finished no epoch.

        Raises :class:`InputError` where the run has other settings, other clicks or more epochs.
        """
        run = run_folder.read_run(self.home)
        resuming.check_settings(self.model.run(), run, self.folder, self.home / run_folder.RUN)
        found = self._read_state()
        resuming.check_start(self.model.start, run.start, self.folder, begun=found is not None)
        self.model.start = run.start
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
        if self.rows and self.rows[-1]["best_epoch"]:  # damaged weights are found now, not after hours
            of_file = self._read_best()
            self.model.best_epoch, self.model.metrics = of_file["best_epoch"], of_file["metrics"]
            self.has_weights = True
        self._note(state)
        self.model.versions, self.model.resumed = run.versions, run.resumed
        if not self.finished:
            self.model.resumed = resuming.later(run, done)
            if self.rows:
                self._forget_extra(state)
        return state

    def _read_state(self) -> tuple[TrainState, Facts] | None:
        """Return the state in ``home`` and its facts, None where there is none."""
        if (self.home / run_folder.HELD).is_file():
            raise InputError(
                f"{self.folder} was trained by several processes. Go on with: torchrun --nproc-per-node N -m recvae "
                "train, where N may be another number, and 1."
            )
        return run_folder.read_state(self.home)

    def _write_state(self, state: TrainState, facts: Facts) -> None:
        run_folder.write_state(self.home, state, facts)

    def _read_best(self) -> Facts:
        """Return the facts of the best weights in ``home``, which are read and checked."""
        tensors, of_file = run_folder.read_weights(self.home, lambda _: self.model.expected())
        self.has_fixed = self.fixed.restore(self.model.network, tensors, of_file)
        return of_file

    def _write_best(self) -> None:
        tensors, facts = self.fixed.apart(self.home, self.model.tensors(), self.model.facts())
        run_folder.write_best(self.home, self.model.run(), tensors, facts)

    def _note(self, state: TrainState) -> None:
        """Set ``finished``: whether a run in this state has no further epochs."""
        options, values = self.model.config.options(TrainOptions), state.values
        last = min(options.epochs, options.stop_after or options.epochs)
        out_of_patience = bool(options.patience) and values["since_best"] >= options.patience
        self.finished = values["done"] >= last or out_of_patience

    def _forget_extra(self, state: TrainState) -> None:
        """Remove the extra validation of an epoch that was the last one, now that more epochs follow."""
        options, row, values = self.model.config.options(TrainOptions), self.rows[-1], state.values
        if row["score"] is not None and not is_scheduled(row["epoch"], options):
            if "arithmetic" not in values:  # older versions counted the extra validation too
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
        """Once the run has weights, replace the earlier run by it."""
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
        """Let a failure name the folder that the user named, not the hidden one."""
        try:
            yield
        except WorkError as error:
            raise WorkError(str(error).replace(str(self.home), str(self.folder))) from error

    def keep_best(self, report: EpochReport) -> None:
        """Write the weights with their facts, and run.json."""
        with self._named():
            if (
                report.score is not None
                and not is_scheduled(report.epoch, self.model.config.options(TrainOptions))
                and self.rows
            ):
                self._keep_aside(self.rows[-1]["best_epoch"])
            note_best(self.model, report)
            try:
                self._write_best()
            finally:  # also if it was interrupted between the two files
                self.has_weights = self.has_weights or (self.home / run_folder.WEIGHTS).is_file()
            run_folder.tidy_fixed(self.home)
        self._take_place()

    def _keep_aside(self, scheduled: int) -> None:
        """Copy the weights of the best scheduled epoch, if model.safetensors still holds them."""
        kept = run_folder.read_facts(self.home)
        if scheduled and kept is not None and kept["best_epoch"] == scheduled:
            run_folder.keep_aside(self.home)

    def keep_state(self, state: TrainState, report: EpochReport) -> None:
        """Write the state from which the next epoch starts, and the metrics."""
        self.rows.append(report.to_dict())
        with self._named():
            self._write_state(state, self._facts(state))
            self._note(state)
            if report.best and report.best_epoch == state.values["best_epoch"]:
                run_folder.remove_aside(self.home)

    def _facts(self, state: TrainState) -> Facts:
        """Return the facts that a state's file has beside its values."""
        best_epoch, best_score = state.values["best_epoch"], state.values["best_score"]
        return {
            "rows": self.rows,
            "clicks": self.clicks,
            "best_epoch": best_epoch or None,
            "metrics": {} if best_score is None else {"validation": best_score},
        }

    def _nothing_kept(self) -> bool:  # to go on from, in a run without weights
        return True

    def end(self) -> None:
        """Put the best weights into the network; a run without any leaves no files, and an earlier run unchanged."""
        with self.held:
            if self.has_weights and self.home == self.folder:
                self._put_weights_back()
                return
            self.model.best_epoch = None
            if not self._nothing_kept():
                return
            if self.begun and self.home != self.folder:
                remove(self.home)
            elif self.begun and self.new:
                run_folder.remove_run(self.folder)

    def _put_weights_back(self) -> None:
        """Give the model the best weights, and narrow the folder's seal to its present files."""
        tensors, facts = run_folder.read_weights(self.folder)
        best = self.rows[-1]["best_epoch"] if self.rows else 0
        if self.finished and facts["best_epoch"] != best:
            tensors, facts = self._put_in_place(best, tensors, facts)
        # After a kill between weights and state, the weights are of an epoch that is yet to be repeated.
        self.model.best_epoch, self.model.metrics = facts["best_epoch"], facts["metrics"]
        self.model.network.load_state_dict(tensors)
        seals.narrow(self.folder)

    def _put_in_place(self, best: int, tensors: dict[str, Tensor], facts: Facts) -> tuple[dict[str, Tensor], Facts]:
        """Replace the weights with which a shorter run ended by the best weights that were kept aside."""
        of_kept = run_folder.read_facts(self.folder, run_folder.BEST)
        if of_kept is None or of_kept["best_epoch"] != best:
            return tensors, facts
        tensors, facts = run_folder.read_weights(self.folder, file=run_folder.BEST)
        self.model.best_epoch, self.model.metrics = facts["best_epoch"], facts["metrics"]
        run_folder.write_best(self.folder, self.model.run())
        run_folder.remove_aside(self.folder)
        return tensors, facts


def under_way(folder: Path) -> Path:
    """Return the folder of the run that was begun last: ``folder``, or a hidden one beside it while it has no weights.

    An earlier run that a killed process had moved aside is put back first.
    """
    recover(folder, marker=run_folder.RUN, whole=run_folder.WEIGHTS)
    begun = next_of(folder)
    return begun if all((place / run_folder.RUN).is_file() for place in (folder, begun)) else folder


def note_best(model: Trained, report: EpochReport) -> None:
    """Set the model's best epoch and its score."""
    model.best_epoch = report.epoch
    model.metrics = {} if report.score is None else {"validation": report.score}
