"""The public variational models: a network, trained by the loop, behind the common contract."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from recvae import checkpoint
from recvae.batches import Clicks
from recvae.errors import InputError
from recvae.files import refuse_existing
from recvae.models.base import Network
from recvae.models.mult import MultDAENetwork, MultDAEOptions, MultVAENetwork, MultVAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.recommender import Recommender, Validation, cosines
from recvae.training import EpochReport, Hooks, TrainOptions, TrainState, train


class NeuralRecommender(Recommender):
    """What the models with a network share."""

    build: ClassVar[Callable[..., Network]]  # (n_items, options, seed)
    network: Network

    def fit(
        self,
        train: Any,
        *,
        validation: Validation | None = None,
        item_ids: Sequence[str] | None = None,
        titles: Sequence[str] | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
        on_epoch: Callable[[EpochReport], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Train, and keep the weights of the epoch that validated best (the last one without ``validation``).

        With ``folder`` the run is written there as it goes: best weights, metrics, and a state from which
        ``resume=True`` continues bit for bit on the same device (it starts where there is nothing to continue);
        ``overwrite`` replaces an earlier run. Interrupted (Ctrl-C), the model is left with the best weights so far and
        KeyboardInterrupt goes on to the caller. ``on_epoch`` and ``on_step`` report progress.
        """
        matrix = self._begin_fit(train, item_ids, titles)
        self.network = self._network()
        keeper = _Folder(self, Path(folder)) if folder is not None else _Memory(self)
        state = keeper.begin(resume=resume, overwrite=overwrite)

        hooks = Hooks(
            validate=None if validation is None else lambda: validation(self),
            on_step=on_step,
            on_epoch=on_epoch,
            keep_best=keeper.keep_best,
            keep_state=keeper.keep_state,
        )
        clicks = Clicks(matrix, self.device, weighted=self.config.model.weighted)
        try:
            run_training(self.network, clicks, self.config.train, seed=self.config.seed, hooks=hooks, state=state)
        finally:
            if isinstance(self.network, RecVAENetwork):
                self.network.release()
            keeper.restore_best()
        return self

    def _network(self) -> Network:
        network = type(self).build(self.n_items, self.config.model, self.config.seed)
        return network.to(self.device)

    def scores(self, histories: Any) -> Tensor:
        clicks = Clicks(histories, self.device, weighted=self.config.model.weighted)
        return self.network.logits(clicks.all())

    def tensors(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.network = self._network()
        self.network.load_state_dict(dict(tensors))

    def similarity(self, items: Tensor) -> Tensor:
        return cosines(self.network.item_vectors(), items)


run_training = train  # fit has an argument called train, as every recommender's fit does


class _Memory:
    """Keeps the best weights in memory."""

    def __init__(self, model: NeuralRecommender) -> None:
        self.model = model
        self.best: dict[str, Tensor] | None = None

    def begin(self, *, resume: bool, overwrite: bool) -> TrainState | None:
        del overwrite
        if resume:
            raise InputError("resume=True needs the run's folder.")
        return None

    def keep_best(self, report: EpochReport) -> None:
        note_best(self.model, report)
        if report.epoch < report.epochs:  # the last epoch's weights stay where they are
            self.best = {name: value.clone() for name, value in self.model.network.state_dict().items()}
        else:
            self.best = None

    keep_state = None

    def restore_best(self) -> None:
        if self.best is not None:
            self.model.network.load_state_dict(self.best)


class _Folder:
    """Writes the run folder as the run goes: best weights, metrics, and last the state, which makes an epoch done."""

    def __init__(self, model: NeuralRecommender, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.rows: list[dict[str, Any]] = []

    def begin(self, *, resume: bool, overwrite: bool) -> TrainState | None:
        """Start the folder, or return the state to continue from (None where no epoch was finished)."""
        if resume and (self.folder / checkpoint.RUN).is_file():
            run = checkpoint.read_run(self.folder)
            self._same_run(run)
            found = checkpoint.read_state(self.folder)
            if found is None:
                return None
            state, facts = found
            self.rows = facts["rows"]
            self.model.best_epoch, self.model.metrics = facts["best_epoch"], facts["metrics"]
            return state
        refuse_existing(self.folder, marker=checkpoint.RUN, overwrite=overwrite)
        if self.folder.exists():
            shutil.rmtree(self.folder)
        checkpoint.write_items(self.folder, self.model.items)
        checkpoint.write_run(self.folder, self.model.run())
        return None

    def _same_run(self, run: checkpoint.Run) -> None:
        """Refuse to continue a run with other settings or other items (more epochs are welcome)."""
        ours = self.model.run()
        if run.vocabulary != ours.vocabulary or run.dataset != ours.dataset:
            raise InputError(f"{self.folder} was trained on another dataset; --resume needs the same one.")
        theirs, mine = _flat(run.config), _flat(ours.config)
        changed = [f"{key}={theirs.get(key)}" for key in mine if mine[key] != theirs.get(key) and key != "train.epochs"]
        if run.model != ours.model or changed:
            settings = ", ".join(changed) or f"model '{run.model}'"
            raise InputError(f"{self.folder} was trained with {settings}; --resume needs the same settings.")

    def keep_best(self, report: EpochReport) -> None:
        note_best(self.model, report)
        checkpoint.write_weights(self.folder / checkpoint.WEIGHTS, self.model.tensors(), self.model._facts())
        checkpoint.write_run(self.folder, self.model.run())

    def keep_state(self, state: TrainState, report: EpochReport) -> None:
        self.rows.append(report.to_dict())
        facts = {"rows": self.rows, "best_epoch": self.model.best_epoch, "metrics": self.model.metrics}
        checkpoint.write_state(self.folder, state, facts)
        checkpoint.write_metrics(self.folder, self.rows)

    def restore_best(self) -> None:
        if (self.folder / checkpoint.WEIGHTS).is_file():
            tensors, _ = checkpoint.read_weights(self.folder / checkpoint.WEIGHTS)
            self.model.network.load_state_dict(tensors)


def note_best(model: NeuralRecommender, report: EpochReport) -> None:
    """Remember which epoch the kept weights are from, and its score."""
    model.best_epoch = report.epoch
    model.metrics = {} if report.score is None else {"validation": report.score}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's options by dotted name, lists for tuples as in JSON."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": v for inner, v in _flat(value).items()}
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat


class MultDAE(NeuralRecommender):
    """Denoising autoencoder with a multinomial likelihood; Liang et al. 2018."""

    name = "mult-dae"
    model_defaults = MultDAEOptions()
    train_defaults = TrainOptions(epochs=200, learning_rate=1e-3)
    build = MultDAENetwork


class MultVAE(NeuralRecommender):
    """Variational autoencoder with a multinomial likelihood and an annealed KL; Liang et al. 2018."""

    name = "mult-vae"
    model_defaults = MultVAEOptions()
    train_defaults = TrainOptions(epochs=200, learning_rate=1e-3)
    build = MultVAENetwork


class RecVAE(NeuralRecommender):
    """Variational autoencoder with a composite prior, trained in turns; Shenbin et al. 2020."""

    name = "recvae"
    model_defaults = RecVAEOptions()
    train_defaults = TrainOptions(epochs=50, learning_rate=5e-4)
    build = RecVAENetwork
