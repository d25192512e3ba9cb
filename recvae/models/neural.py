"""The public variational models: a network, trained by the loop, behind the common contract."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from scipy.sparse import csr_array
from torch import Tensor

from recvae.arguments import Frame, flag, function, path_of
from recvae.capabilities import Vectors
from recvae.config import value_of
from recvae.errors import InputError
from recvae.files import Document, JsonObject
from recvae.models.start import Source, start_of
from recvae.nn.batches import Batch, Clicks
from recvae.nn.held_clicks import HeldClicks, held_batch
from recvae.nn.layers import Linear
from recvae.nn.network import Network
from recvae.nn.shards import Items, Shard
from recvae.queries import Answer, Query
from recvae.ranking.alike import cosines, cosines_among
from recvae.ranking.held import rank_held
from recvae.recommender import Recommender, Validation
from recvae.training.logs import TrainingLog, logged, refuse_other_logs
from recvae.training.loop import EpochReport, Hooks, TrainOptions, train
from recvae.training.start import Start
from recvae.training.tensors import Expected, of_network
from recvae.training.versions import arithmetic
from recvae.training.vocabulary import Naming, Tags

if TYPE_CHECKING:
    from recvae.training.distributed import Processes


class NeuralRecommender(Recommender):
    """A model with a network that the training loop trains."""

    build: ClassVar[Callable[..., Network]]  # (n_items, options, seed)
    network: Network
    no_start = ""
    shard: Shard | None = None  # the part of the items whose rows this process has, where it does not have all
    fixed: ClassVar[tuple[str, ...]] = ()  # tensors that no epoch changes, made and written once a run

    def fit(
        self,
        train: csr_array | Frame,
        *,
        validation: Validation | None = None,
        item_ids: Sequence[str] | None = None,
        titles: Sequence[str] | None = None,
        item_tags: Tags | None = None,
        user_column: str = "user",
        item_column: str = "item",
        folder: str | Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
        on_epoch: Callable[[EpochReport], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
        log: TrainingLog | None = None,
        start: Source | None = None,
        across: "Processes | None" = None,
    ) -> Self:
        """Train, and keep the weights of the epoch that validated best (the last one without ``validation``).

        With ``folder`` the run is written there as it goes: best weights, metrics, and a state from which
        ``resume=True`` continues bit for bit on the same device, with the same versions, number of threads and CPU
        instructions (:class:`~recvae.errors.OtherMachineWarning` where it does not; it starts where there is nothing to
        continue); ``overwrite`` replaces an earlier run. Interrupted (Ctrl-C), the model is left with the best weights
        so far and KeyboardInterrupt reaches the caller. ``on_epoch`` and ``on_step`` report progress.
        ``log`` takes the options and each epoch's figures, for MLflow or TensorBoard (:mod:`recvae.training.logs`).

        ``start``, a fitted model of this kind or its run folder, is an earlier run from whose parameters training
        begins (:mod:`recvae.training.start`): its catalogue may be another one, and items are matched by id. A resumed
        run goes on from its own state; it needs no ``start``, and refuses another than it began from.

        ``across``: the processes that train the model together, each with a part of the items
        (:mod:`recvae.training.distributed`); all of them call this, with one folder, from which the trained model is
        loaded afterwards. They have no ``start``.
        """
        for name, called in (("validation", validation), ("on_epoch", on_epoch), ("on_step", on_step)):
            function(name, called)
        refuse_other_logs(log)
        resume, overwrite = flag("resume", resume), flag("overwrite", overwrite)
        if folder is None and (resume or overwrite):
            raise InputError("resume and overwrite are about a run's folder; name it.")
        if across is not None and start is not None:
            raise InputError("A warm start is for one process: train without torchrun, or without the start.")
        earlier = None if start is None else start_of(start, self.name)
        matrix = self._begin_fit(train, Naming(item_ids, titles, item_tags, user_column, item_column))
        with logged(log, self.config, on_epoch) as heard:
            again = {"resume": resume, "overwrite": overwrite}
            if across is not None:
                self._fit_across(across, matrix, folder, validation, heard, on_step, **again)
            else:
                self._fit_here(earlier, matrix, folder, validation, heard, on_step, **again)
        return self

    def _fit_here(
        self,
        earlier: Start | None,
        matrix: csr_array,
        folder: str | Path | None,
        validation: Validation | None,
        on_epoch: Callable[[EpochReport], None] | None,
        on_step: Callable[[int, int], None] | None,
        *,
        resume: bool,
        overwrite: bool,
    ) -> None:
        """Train as :meth:`fit` does, in this process alone."""
        from recvae.training.keepers import InFolder, InMemory

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

    def _fit_across(
        self,
        across: "Processes",
        matrix: csr_array,
        folder: str | Path | None,
        validation: Validation | None,
        on_epoch: Callable[[EpochReport], None] | None,
        on_step: Callable[[int, int], None] | None,
        *,
        resume: bool,
        overwrite: bool,
    ) -> None:
        """Train as :meth:`fit` does, together with other processes."""
        from recvae.training.held_folder import HeldFolder

        if folder is None:
            raise InputError("Several processes train into a run's folder; name it.")
        self.refuse_parts()
        across.same({**self.versions, **arithmetic(self.device), "--data-parallel": across.data_parallel})
        self.shard = shard = across.shard(self.n_items)
        self.network = self._network()
        keeper = HeldFolder(self, path_of(folder), matrix, across, shard, resume=resume, overwrite=overwrite)

        def step(done: int, total: int) -> None:
            across.meet()
            if on_step is not None:
                on_step(done, total)

        hooks = Hooks(
            validate=None if validation is None else lambda: across.gathered(validation(self))[0],
            on_step=step,
            on_epoch=on_epoch,
            keep_best=keeper.keep_best,
            keep_state=keeper.keep_state,
            keep_within=lambda state: keeper.keep_state(state, None),
        )
        clicks = HeldClicks(matrix, shard, self.device, weighted=self.weighted, replicas=across.replicas())
        try:
            with across.signals():
                state = keeper.begin()
                self._prepare(matrix)
                options, seed = self.config.options(TrainOptions), self.config.seed
                run_training(self.network, clicks, options, seed=seed, hooks=hooks, state=state)
        finally:
            self.network.release()
            keeper.end()

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
        return type(self).build(self._items(), self.config.model, self.config.seed)

    def _items(self) -> Items:
        """Return the items whose rows the network has: all, or the part of this process."""
        return self.n_items if self.shard is None else self.shard

    def batch(self, histories: csr_array, conditions: csr_array | None = None) -> Batch:
        """Return canonical CSR rows (b, n_items), under conditions, CSR (b, C) or None, as the network takes them."""
        if self.shard is not None:
            batch = held_batch(histories, self.shard, self.device, weighted=self.weighted)
        else:
            batch = Batch.of(histories, self.device, weighted=self.weighted)
        return batch if conditions is None else batch.under(conditions)

    def _ranked(self, query: Query, item_tags: csr_array | None) -> Answer:
        if self.shard is None:
            return super()._ranked(query, item_tags)

        def score(part: Query) -> tuple[Batch, Tensor]:
            batch = self.batch(part.histories, part.conditions)
            return batch, self.network.logits(batch)

        return rank_held(score, query, self.shard)

    def scores(self, histories: csr_array, *conditions: csr_array) -> Tensor:
        return self.network.logits(self.batch(histories, *conditions))

    def scores_of(self, batch: Batch) -> Tensor:
        return self.network.logits(self._as_read(batch))

    def vectors(self) -> Vectors:
        return Vectors(self.network.item_vectors(), lambda batch: self.network.user_vectors(self._as_read(batch)))

    def _as_read(self, batch: Batch) -> Batch:
        """Return a batch of histories as the network reads it: its values are 1 where they are no weights."""
        return batch if self.weighted else batch.of_ones()

    def scores_at(self, histories: csr_array, items: Tensor, *conditions: csr_array) -> Tensor:
        return self.network.logits_at(self.batch(histories, *conditions).sharing(), items.to(self.device))

    def tensors(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def expected(self) -> Mapping[str, Expected]:
        shard, self.shard = self.shard, None  # a file holds all items
        try:
            with torch.device("meta"):  # a network without memory
                return of_network(self._bare_network())
        finally:
            self.shard = shard

    def read_part(
        self, folder: Path, expected: Callable[[Document], Mapping[str, Expected]], across: "Processes"
    ) -> JsonObject:
        from recvae.training.run_folder import read_weights_by_rows

        tensors: dict[str, Tensor] = {}
        parts: dict[str, int] = {}

        def form(facts: Document) -> Mapping[str, Expected]:
            whole = expected(facts)
            self.shard = across.shard(self.n_items)
            self.load_tensors({})
            tensors.update(self.network.state_dict())
            parts.update(self.network.item_axes())
            return whole

        def take(name: str, rows: Tensor, start: int) -> None:
            assert self.shard is not None
            self.shard.put(tensors[name], rows, start, parts.get(name))

        return read_weights_by_rows(folder, form, take)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.device("meta"):
            network = self._bare_network()
        self.network = network.to_empty(device=self.device)
        self.network.load_state_dict(dict(tensors), strict=self.shard is None)  # a part is filled row by row

    def hold(self) -> None:
        for layer in self.network.modules():
            if isinstance(layer, Linear):
                layer.hold()

    def similarity(self, items: Tensor) -> Tensor:
        return cosines(self.network.output.weight, items)

    def similarity_among(self, items: Tensor) -> Callable[[Tensor], Tensor]:
        return cosines_among(self.network.output.weight, items)


run_training = train  # fit has an argument called train, as every recommender's fit does
