"""The one contract of every model and baseline: fit, recommend, similar items, save, load."""

import difflib
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recvae.arguments import Frame, function, is_frame, path_of, shown
from recvae.by_ids import ByIds
from recvae.config import RunConfig, run_config
from recvae.defaults import Rule, Size
from recvae.errors import DataError, InputError, WorkError
from recvae.files import JsonObject
from recvae.files.swap import one_version
from recvae.matrices import canonical
from recvae.nn.devices import torch_device
from recvae.options import SEED, OptionSet, TrainOptions, explain
from recvae.parameters import Parameters
from recvae.queries import (
    Answer,
    Mask,
    Names,
    Query,
    about_items,
    encoded_conditions,
    refuse_other_catalogue,
    with_conditions,
)
from recvae.ranking.alike import among_all
from recvae.ranking.best import SCORES_IN_MEMORY
from recvae.ranking.lists import in_numpy, rank
from recvae.ranking.reasons import find_reasons
from recvae.registry import entry
from recvae.training import versions
from recvae.training.forks import expect_forks
from recvae.training.kept import Kept
from recvae.training.vocabulary import Naming, Tags, Vocabulary

if TYPE_CHECKING:
    from recvae.training.distributed import Processes
    from recvae.training.records import Later, Started

Validation = Callable[["Recommender"], float]


class Recommender(ByIds, Parameters, Kept):
    """A model of clicks that ranks the catalogue for any history, also of a user it never saw.

    Options are keyword arguments, checked together: ``RecVAE(latent=100, epochs=30, seed=1)``. Those in ``follows`` get
    their default from the training matrix's size in :meth:`fit`, after which ``config`` holds them. Matrices are
    scipy.sparse CSR, users x items, and row i of a result answers row i of the histories.
    """

    name: ClassVar[str]
    model_defaults: ClassVar[OptionSet]
    train_defaults: ClassVar[TrainOptions | None] = None
    follows: ClassVar[Rule] = {}  # the options whose default is a function of the training matrix's size

    def __init_subclass__(cls, **more: Any) -> None:
        """Let ``help`` and notebooks know the options of a model that has them as keyword arguments."""
        super().__init_subclass__(**more)
        if "scores" in vars(cls):  # a class above knows neither a short way to these scores nor their graph
            for other in {"scores_at", "scores_of"} - vars(cls).keys():
                setattr(cls, other, getattr(Recommender, other))
        init: Any = cls.__init__
        if hasattr(cls, "model_defaults") and (init is Recommender.__init__ or hasattr(init, "arguments")):
            explain(cls, cls.model_defaults, *([] if cls.train_defaults is None else [cls.train_defaults]))

    def __init__(self, *, seed: int = SEED, device: str = "auto", **options: Any) -> None:
        of_training = [] if self.train_defaults is None else list(vars(self.train_defaults))
        of_model = list(vars(self.model_defaults))
        sections: dict[str, JsonObject] = {"model": {}, "train": {}}
        for key, value in options.items():
            near = difflib.get_close_matches(key, [*of_model, *of_training], n=1)  # the option itself, or a slip of it
            sections["train" if near and near[0] in of_training else "model"][key] = value
        if not sections["train"]:
            del sections["train"]
        self._configure(run_config({"name": self.name, "seed": seed, **sections}), device)

    def _configure(self, config: RunConfig, device: str) -> None:
        expect_forks()
        self.config = self._asked = config
        self._device, self.device = device, torch_device(device)
        self.process = os.getpid()
        self.items = Vocabulary([], [])
        self.condition_names: tuple[str, ...] = ()
        self.best_epoch: int | None = None
        self.metrics: dict[str, float] = {}
        self.dataset: JsonObject = {}
        self.versions: dict[str, str] = {}  # of the programs that trained the model; empty: of this process
        self.resumed: tuple[Later, ...] = ()
        self.start: Started | None = None

    def __repr__(self) -> str:
        """Return the options that differ from the defaults, and the state: RecVAE(latent=100; fitted: 40 items)."""
        defaults = {**vars(self.model_defaults), **vars(self.train_defaults or self.model_defaults), "seed": SEED}
        options = {**vars(self.config.model), **vars(self.config.train or self.config.model), "seed": self.config.seed}
        changed = [f"{name}={shown(value)}" for name, value in options.items() if value != defaults[name]]
        return f"{type(self).__name__}({', '.join(changed) or 'default options'}; {self._state()})"

    @property
    def title(self) -> str:
        """The model's name for people, as the registry has it."""
        return entry(self.name).title

    def _state(self) -> str:
        """Return the state of the model, for the repr."""
        if not self.n_items:
            return "not fitted"
        best = "" if self.best_epoch is None else f", best epoch {self.best_epoch}"
        return f"fitted: {self.n_items:,} items{best}"

    @classmethod
    def from_config(cls, config: RunConfig, device: str = "auto") -> Self:
        """Return an unfitted model of a configuration; raise :class:`InputError` where it is for another model."""
        if not isinstance(config, RunConfig):
            raise InputError(f"A configuration is what recvae.config.run_config makes, not {shown(config)}.")
        if config.name != cls.name:
            raise InputError(f"The configuration is for '{config.name}', not for '{cls.name}'.")
        model = cls.__new__(cls)
        model._configure(config, device)
        return model

    # --- methods that a model provides --------------------------------------------------------------------------

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
    ) -> Self:
        """Learn from clicks and return self.

        ``train``: CSR (n_users, n_items), an entry a click; or a data frame of pandas, polars, pyarrow or the like, a
        row a click, whose columns ``user_column`` and ``item_column`` hold raw ids. A frame's users and items are taken
        in ascending order of their ids, a click that comes again counts once, and an item is known by its id as text.
        ``validation``: scores this model as it stands, higher is better, and picks the epoch that is kept (models
        without epochs do not call it). ``item_ids`` (raw ids, as strings) and ``titles`` name the columns of a matrix;
        without them an item's id is its column's number. ``item_tags``: tags by item id, such as genres, by which
        :meth:`recommend` then allows, denies and mixes items. A model with
        ``train_defaults`` takes ``folder``, ``resume``, ``overwrite``, ``on_epoch``, ``on_step`` and ``start`` too, as
        :meth:`recvae.models.neural.NeuralRecommender.fit` does. Raises :class:`DataError` for a matrix or a
        frame that cannot be used.
        """
        function("validation", validation)
        naming = Naming(item_ids, titles, item_tags, user_column, item_column)
        self.learn(self._begin_fit(train, naming))
        return self

    def learn(self, matrix: csr_array) -> None:
        """Learn from a canonical CSR, in one go; models with epochs have a :meth:`fit` of their own instead."""
        raise NotImplementedError  # not abstract: a model has one of the two

    @abstractmethod
    def scores(self, histories: csr_array) -> Tensor:
        """Return one score per user and item, float32 (b, n_items), of canonical CSR rows (b, n_items).

        A model that has conditions takes them, CSR (b, C), as a second argument.
        """

    def scores_at(self, histories: csr_array, items: Tensor, *conditions: csr_array) -> Tensor:
        """Return :meth:`scores` of ``items`` alone, int64 (m,): float32 (b, m), which may differ in rounding.

        A model overrides it where the scores of a few items cost less than those of all.
        """
        rows = max(1, SCORES_IN_MEMORY // max(1, self.n_items))
        blocks = [
            [part[start : start + rows] for part in (histories, *conditions)]
            for start in range(0, histories.shape[0], rows)
        ]
        scores = [self.scores(*block) for block in blocks]
        return torch.cat([part[:, items.to(part.device)] for part in scores])

    @abstractmethod
    def similarity(self, items: Tensor) -> Tensor:
        """Return how alike each of ``items``, int64 (n,), is to every item: (n, n_items), new memory."""

    def similarity_among(self, items: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a function that says how alike some items of each user are, which ``diversity`` in a query asks for.

        ``items`` int64 (b, P). The function takes a place in each row, int64 (b,), and returns how alike the item there
        is to each item of the row: (b, P), 1 for the same item or the most alike, 0 for a pair without similarity. This
        one reads :meth:`similarity` for the b items; a model that computes the P pairs alone is faster.
        """
        return among_all(self.similarity, items)

    def hold(self) -> None:
        """Take memory to answer faster; the model is not trained any more. A service calls this once."""

    # --- methods that everybody uses ----------------------------------------------------------------------------

    def follow(self, matrix: csr_array) -> str:
        """Give the options that nobody set their values for a training matrix (n_users, n_items), and return these.

        :meth:`fit` does so itself; call it before to see them. The text is empty where every option was set.
        """
        size = Size.of(matrix)
        self.config = self._asked.for_data(size)
        return self._asked.following(size)

    @property
    def n_items(self) -> int:
        """Size of the catalogue; 0 before fit."""
        return len(self.items)

    def recommend(
        self,
        histories: csr_array | Frame,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Mask = None,
        deny: Mask = None,
        conditions: Names = None,
        allow_tags: Names = None,
        deny_tags: Names = None,
        most_per_tag: int | None = None,
        diversity: float = 0.0,
        reasons: int = 0,
    ) -> Answer:
        """Return the ``k`` best items for each history: the answer to a :class:`Query` of these arguments.

        ``histories``: CSR (n, n_items), one row per user; none need have been in the training matrix, and an empty one
        is legal. A data frame with columns ``user`` and ``item`` has a row for each user, in order of first appearance;
        :meth:`recommend_frame` names them. ``exclude_seen`` leaves out what the history holds. ``allow`` and ``deny``:
        item indices for all users, or a CSR of masks (n, n_items). ``conditions``: names, out of
        :attr:`condition_names`, for all users, a list of such names for each, or a CSR (n, C) whose entries say which
        of them each user asks under. ``allow_tags`` and ``deny_tags``: tags, out of ``items.tag_names``, in the same
        three forms; an item is listed that is allowed and has one of the allowed tags, and that neither is denied nor
        has a denied tag.
        ``most_per_tag``: at most so many items of one tag in a list. ``diversity``, from 0 to 1, trades scores for
        unlike items. ``reasons``: for each listed item, so many items of the history that lowered its score most if
        they were not there, in ``answer.reasons``. Errors are those of :class:`Query` and :meth:`answer`.
        """
        if is_frame(histories):
            (histories,), _ = self.encode_frames(histories)
        rules = allow, deny, conditions, allow_tags, deny_tags, most_per_tag, diversity, reasons
        return self.answer(Query(histories, k, exclude_seen, *rules))

    def answer(self, query: Query) -> Answer:
        """Return the best items for each history of a query: ids int32 (n, k), scores float32 (n, k), best first.

        Rules apply before the best are selected, so that lists are full while items remain; short rows are padded with
        id -1 and score -inf, and equal scores go to the lower index. With ``most_per_tag`` or ``diversity`` the lists
        are those of :mod:`recvae.ranking.rerank`. Raises :class:`InputError` for a query about another catalogue, for
        conditions or tags that the model does not have, and for diversity where it cannot say which items are alike.
        """
        self._need_fit()
        refuse_other_catalogue(query, self.n_items)
        query = self._known(query)
        item_tags = self.items.tag_table if query.about_tags else None
        answer = self._ranked(query, item_tags)
        if query.reasons:
            score_at = in_numpy(lambda rows, items, *more: self.scores_at(rows, torch.from_numpy(items), *more))
            reasons = find_reasons(in_numpy(self.scores), score_at, query, answer.ids, item_tags=item_tags)
            answer = replace(answer, reasons=reasons)
        return answer

    def _ranked(self, query: Query, item_tags: csr_array | None) -> Answer:
        """Return the lists of a query that is in the model's columns."""
        return rank(self.scores, query, item_tags=item_tags, alike=self.similarity_among)

    def encode_conditions(self, names: Sequence[Sequence[str]]) -> csr_array:
        """Return lists of condition names as CSR (n, C) of ones.

        Raises :class:`InputError` for a name that there is not, and for two values of one of :attr:`attributes`.
        """
        return encoded_conditions(names, self.condition_names, self.attributes, self.title).in_scipy()

    def similar_items(
        self,
        ids: Sequence[int] | int,
        k: int = 10,
        *,
        allow: Mask = None,
        deny: Mask = None,
        allow_tags: Names = None,
        deny_tags: Names = None,
    ) -> Answer:
        """Return the ``k`` items most like each of ``ids`` (columns): ids int32 (n, k) and scores float32 (n, k).

        The score is the cosine of two items' vectors (decoder weights, ALS factors), for EASE and EDLAE the weight of
        one item in the other's score, for item-kNN the similarity (neighbours only, so lists may be short). The item
        itself is left out; ``allow``, ``deny``, ``allow_tags`` and ``deny_tags`` as for :meth:`recommend`. Raises
        :class:`InputError` for an item outside the catalogue.
        """
        self._need_fit()
        rules = {"allow": allow, "deny": deny, "allow_tags": allow_tags, "deny_tags": deny_tags}
        query = self._known(about_items(ids, k, self.n_items, **rules))
        item_tags = self.items.tag_table if query.about_tags else None
        return rank(lambda part: self.similarity(torch.from_numpy(part.indices).long()), query, item_tags=item_tags)

    # --- shared parts ------------------------------------------------------------------------------------------

    def _known(self, query: Query) -> Query:
        """Return a query with its names of conditions and tags in the model's columns, and its matrices in SciPy.

        Raises :class:`InputError` for names that the model does not have.
        """
        return self.items.with_columns(with_conditions(query, self.condition_names, self.encode_conditions)).in_scipy()

    def _begin_fit(self, train: csr_array | Frame, naming: Naming) -> csr_array:
        """Check the training clicks, name their columns, and return them as a matrix in canonical form."""
        train, naming = self._in_matrix(train, naming)
        matrix = canonical(train)
        n_users, n_items = matrix.shape
        if not matrix.nnz:
            raise DataError(f"The training matrix ({n_users} users x {n_items} items) holds no clicks.")
        vocabulary = Vocabulary.of(n_items, naming.item_ids, naming.titles, naming.item_tags)
        self.follow(matrix)
        self.items = vocabulary
        self.best_epoch, self.metrics = None, {}
        self.versions, self.resumed, self.start = versions.versions(), (), None
        return matrix

    def _need_fit(self) -> None:
        if not self.n_items:
            raise InputError(f"This {self.title} model is not fitted yet; call fit or load first.")
        if self.device.type != "cpu" and self.process != os.getpid():
            raise WorkError(
                f"This process was forked after the model was put on '{self.device}', which does not survive that. "
                "Start processes with multiprocessing's method 'spawn', and load the model in each."
            )


def model_class(name: str) -> type[Recommender]:
    """Return the class of a registered model; raise :class:`InputError` with the nearest name where there is none."""
    kind = entry(name).model_class()
    assert issubclass(kind, Recommender), f"{kind} is registered as '{name}' and is no Recommender"
    return kind


def build(config: RunConfig, device: str = "auto") -> Recommender:
    """Return an unfitted model of any registered kind; raise :class:`InputError` for a device that there is not."""
    return model_class(config.name).from_config(config, device)


def load(folder: str | Path, device: str = "auto", *, across: "Processes | None" = None) -> Recommender:
    """Return the model of a run folder, of whatever kind it is; raise :class:`FormatError` where it is damaged.

    ``across``: the processes that rank together, each of which then has a part of the items; all call this.
    """
    from recvae.training.run_folder import read_run

    place = path_of(folder)
    if across is not None:
        kind = model_class(read_run(place).model)
        kind.refuse_parts()
        return kind._made(place, device, across)
    return one_version(place, lambda: model_class(read_run(place).model).load(place, device))


def popularity_for_the_unknown(scores: Tensor, histories: csr_array, counts: Tensor) -> Tensor:
    """Give rows without any history the popularity ranking; a linear model has only zeros for them."""
    empty = torch.from_numpy(np.flatnonzero(np.diff(histories.indptr) == 0)).to(scores.device)
    if len(empty):
        scores[empty] = counts.to(scores.dtype)
    return scores
