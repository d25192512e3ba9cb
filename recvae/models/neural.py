"""The public variational models: a network, trained by the loop, behind the common contract."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch
from scipy.sparse import csr_array
from torch import Tensor

from recvae.arguments import flag, function, path_of
from recvae.capabilities import Vectors
from recvae.config import value_of
from recvae.errors import InputError
from recvae.models.start import Source, start_of
from recvae.nn.batches import Batch, Clicks
from recvae.nn.layers import Linear
from recvae.nn.network import Network
from recvae.ranking.alike import cosines, cosines_among
from recvae.recommender import Recommender, Validation
from recvae.training.loop import EpochReport, Hooks, TrainOptions, train
from recvae.training.tensors import Expected, of_network
from recvae.training.vocabulary import Naming, Tags


class NeuralRecommender(Recommender):
    """A model with a network that the training loop trains."""

    build: ClassVar[Callable[..., Network]]  # (n_items, options, seed)
    network: Network
    no_start = ""
    fixed: ClassVar[tuple[str, ...]] = ()  # tensors that no epoch changes, made and written once a run

    def fit(
        self,
        train: csr_array,
        *,
        validation: Validation | None = None,
        item_ids: Sequence[str] | None = None,
        titles: Sequence[str] | None = None,
        item_tags: Tags | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
        on_epoch: Callable[[EpochReport], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
        start: Source | None = None,
    ) -> Self:
        """Train, and keep the weights of the epoch that validated best (the last one without ``validation``).

        With ``folder`` the run is written there as it goes: best weights, metrics, and a state from which
        ``resume=True`` continues bit for bit on the same device, with the same versions, number of threads and CPU
        instructions (:class:`~recvae.errors.OtherMachineWarning` where it does not; it starts where there is nothing to
        continue); ``overwrite`` replaces an earlier run. Interrupted (Ctrl-C), the model is left with the best weights
        so far and KeyboardInterrupt reaches the caller. ``on_epoch`` and ``on_step`` report progress.

        ``start``, a fitted model of this kind or its run folder, is an earlier run from whose parameters training
        begins (:mod:`recvae.training.start`): its catalogue may be another one, and items are matched by id. A resumed
        run goes on from its own state; it needs no ``start``, and refuses another than it began from.
        """
        for name, called in (("validation", validation), ("on_epoch", on_epoch), ("on_step", on_step)):
            function(name, called)
        resume, overwrite = flag("resume", resume), flag("overwrite", overwrite)
        if folder is None and (resume or overwrite):
            raise InputError("resume and overwrite are about a run's folder; name it.")
        from recvae.training.keepers import InFolder, InMemory

        earlier = None if start is None else start_of(start, self.name)
        matrix = self._begin_fit(train, Naming(item_ids, titles, item_tags))
        self.network = self._network()
        if earlier is not None:
            earlier.check(self.config, self.condition_names, self.network)
            self.start = earlier.record(self.items)
        keeper: InMemory | InFolder = InMemory(self)
        if folder is not None:
            keeper = InFolder(self, path_of(folder), matrix, resume=resume, overwrite=overwrite)
        hooks = Hooks(
            validate=None if validation is None else lambda: validation(self),
            on_step=on_step,
            on_epoch=on_epoch,
            keep_best=keeper.keep_best,
            keep_state=keeper.keep_state,
        )
        clicks = Clicks(matrix, self.device, weighted=self.weighted)
        try:
            state = keeper.begin()
            if not keeper.has_fixed:
                self._fix(matrix)
            self._prepare(matrix)
            if earlier is not None and state is None:
                earlier.put_into(self.network, self.items)
            run_training(
                self.network, clicks, self.config.options(TrainOptions), seed=self.config.seed, hooks=hooks, state=state
            )
        finally:
            self.network.release()
            keeper.end()
        return self

    @property
    def weighted(self) -> bool:
        """Whether the values of a matrix are the clicks' weights: the option ``weighted`` of each of these models."""
        return bool(value_of(self.config, "model.weighted"))

    def given(self) -> Iterable[bytes]:
        """Return the data beside the clicks from which the model learns, in parts: a resumed run compares them."""
        return ()

    def _fix(self, matrix: csr_array) -> None:
        """Compute from the clicks, at the start of a run, the tensors that :attr:`fixed` names."""

    def _prepare(self, matrix: csr_array) -> None:
        """Set, before training, the buffers that the network takes from the clicks (none by default)."""

    def _network(self) -> Network:
        return self._bare_network().to(self.device)

    def _bare_network(self) -> Network:
        """Return a new network where PyTorch makes tensors by default: on the CPU, or on 'meta' without any values."""
        return type(self).build(self.n_items, self.config.model, self.config.seed)

    def batch(self, histories: csr_array, conditions: csr_array | None = None) -> Batch:
        """Return canonical CSR rows (b, n_items), under conditions, CSR (b, C) or None, as the network takes them."""
        batch = Batch.of(histories, self.device, weighted=self.weighted)
        return batch if conditions is None else batch.under(conditions)

    def scores(self, histories: csr_array, *conditions: csr_array) -> Tensor:
        return self.network.logits(self.batch(histories, *conditions))

    def scores_of(self, batch: Batch) -> Tensor:
        return self.network.logits(batch if self.weighted else batch.of_ones())

    def vectors(self) -> Vectors:
        return Vectors(
            self.network.item_vectors(),
            lambda batch: self.network.user_vectors(batch if self.weighted else batch.of_ones()),
        )

    def scores_at(self, histories: csr_array, items: Tensor, *conditions: csr_array) -> Tensor:
        return self.network.logits_at(self.batch(histories, *conditions).sharing(), items.to(self.device))

    def tensors(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def expected(self) -> Mapping[str, Expected]:
        with torch.device("meta"):  # a network without memory
            return of_network(self._bare_network())

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.device("meta"):
            network = self._bare_network()
        self.network = network.to_empty(device=self.device)
        self.network.load_state_dict(dict(tensors))

    def hold(self) -> None:
        for layer in self.network.modules():
            if isinstance(layer, Linear):
                layer.hold()

    def similarity(self, items: Tensor) -> Tensor:
        return cosines(self.network.output.weight, items)

    def similarity_among(self, items: Tensor) -> Callable[[Tensor], Tensor]:
        return cosines_among(self.network.output.weight, items)


run_training = train  # fit has an argument called train, as every recommender's fit does
