"""The one contract of every model and baseline: fit, recommend, similar items, save, load."""

import difflib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from recvae import version
from recvae.arguments import flag, function, items, path_of, shown
from recvae.config import RunConfig, run_config, value_of
from recvae.defaults import Rule, Size
from recvae.errors import ConfigError, DataError, FormatError, InputError, WorkError, did_you_mean, listed
from recvae.files import whole_folder
from recvae.files.swap import one_version
from recvae.nn.batches import canonical
from recvae.options import SEED, explain
from recvae.queries import checked, encoded, is_table, of_each_user
from recvae.ranking import Ranked, rank
from recvae.registry import entry
from recvae.training.forks import expect_forks
from recvae.training.tensors import Expected
from recvae.training.vocabulary import Vocabulary

if TYPE_CHECKING:
    from recvae.training.records import Later, Run

Validation = Callable[["Recommender"], float]


class Recommender(ABC):
    """A model of clicks that ranks the catalogue for any history, also of a user it never saw.

    Options are keyword arguments, checked together: ``RecVAE(latent=100, epochs=30, seed=1)``. Those in ``follows`` get
    their default from the training matrix's size in :meth:`fit`, after which ``config`` holds them. Matrices are
    scipy.sparse CSR, users x items, and row i of a result answers row i of the histories.
    """

    name: ClassVar[str]
    model_defaults: ClassVar[Any]
    train_defaults: ClassVar[Any] = None
    follows: ClassVar[Rule] = {}  # the options whose default is a function of the training matrix's size

    def __init_subclass__(cls, **more: Any) -> None:
        """Let ``help`` and notebooks know the options of a model that has them as keyword arguments."""
        super().__init_subclass__(**more)
        init: Any = cls.__init__
        if hasattr(cls, "model_defaults") and (init is Recommender.__init__ or hasattr(init, "arguments")):
            explain(cls, cls.model_defaults, *([] if cls.train_defaults is None else [cls.train_defaults]))

    def __init__(self, *, seed: int = SEED, device: str = "auto", **options: Any) -> None:
        of_training = [] if self.train_defaults is None else list(vars(self.train_defaults))
        of_model = list(vars(self.model_defaults))
        sections: dict[str, dict[str, Any]] = {"model": {}, "train": {}}
        for key, value in options.items():
            near = difflib.get_close_matches(key, [*of_model, *of_training], n=1)  # the option itself, or a slip of it
            sections["train" if near and near[0] in of_training else "model"][key] = value
        if not sections["train"]:
            del sections["train"]
        self._configure(run_config({"name": self.name, "seed": seed, **sections}), device)

    def _configure(self, config: RunConfig, device: str) -> None:
        expect_forks()
        self.config = self._asked = config
        self.device = torch_device(device)
        self.process = os.getpid()
        self.items = Vocabulary([], [])
        self.condition_names: tuple[str, ...] = ()
        self.best_epoch: int | None = None
        self.metrics: dict[str, float] = {}
        self.dataset: dict[str, Any] = {}
        self.versions: dict[str, str] = {}  # that trained it; those of this process where it does not say
        self.resumed: tuple[Later, ...] = ()

    def __repr__(self) -> str:
        """Return the options that are not the defaults, and what was learned: RecVAE(latent=100; fitted: 40 items)."""
        defaults = {**vars(self.model_defaults), **vars(self.train_defaults or self.model_defaults), "seed": SEED}
        options = {**vars(self.config.model), **vars(self.config.train or self.config.model), "seed": self.config.seed}
        changed = [f"{name}={shown(value)}" for name, value in options.items() if value != defaults[name]]
        return f"{type(self).__name__}({', '.join(changed) or 'default options'}; {self._state()})"

    def _state(self) -> str:
        """Return what was learned, for the repr."""
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

    # --- what a model provides ---------------------------------------------------------------------------------

    def fit(
        self,
        train: Any,
        *,
        validation: Validation | None = None,
        item_ids: Sequence[str] | None = None,
        titles: Sequence[str] | None = None,
    ) -> Self:
        """Learn from clicks and return self.

        ``train``: CSR (n_users, n_items), an entry a click. ``validation``: scores this model as it stands, higher is
        better, and picks the epoch that is kept (models without epochs do not call it). ``item_ids`` (raw ids, as
        strings) and ``titles`` name the columns; without them an item's id is its column's number. Raises
        :class:`DataError` for a matrix that cannot be used.
        """
        function("validation", validation)
        self.learn(self._begin_fit(train, item_ids, titles))
        return self

    def learn(self, matrix: Any) -> None:
        """Learn from a canonical CSR, in one go; models with epochs have a :meth:`fit` of their own instead."""
        raise NotImplementedError  # not abstract: a model has one of the two

    @abstractmethod
    def scores(self, histories: Any) -> Tensor:
        """Return one score per user and item, float32 (b, n_items), of canonical CSR rows (b, n_items).

        A model that has conditions takes them, CSR (b, C), as a second argument.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return what was learned, by name."""

    @abstractmethod
    def expected(self) -> Mapping[str, Expected]:
        """Return what :meth:`tensors` returns by its form, from configuration, items and conditions alone.

        A file is compared with it before it is read, so nothing of the size of the tensors may be made here.
        """

    @abstractmethod
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`tensors` returned, which is as :meth:`expected`; ``items`` is set already."""

    @abstractmethod
    def similarity(self, items: Tensor) -> Tensor:
        """Return how alike each of ``items``, int64 (n,), is to every item: (n, n_items), new memory."""

    @property
    def of_ratings(self) -> bool:
        """Whether histories hold ratings in place of clicks: the option ``ratings`` of a model that has it."""
        return bool(getattr(self.config.model, "ratings", False))

    @property
    def named_value(self) -> float:
        """What an item that is only named stands for in a history: a click, or the least rating that is liked."""
        return float(value_of(self.config, "model.liked_from")) if self.of_ratings else 1.0

    # --- what everybody uses -----------------------------------------------------------------------------------

    def follow(self, matrix: Any) -> str:
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
        histories: Any,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Any = None,
        deny: Any = None,
        conditions: Any = None,
    ) -> Ranked:
        """Return the ``k`` best items for each history: ids int32 (n, k), scores float32 (n, k), best first.

        ``histories``: CSR (n, n_items), one row per user; none need have been in the training matrix, and an empty one
        is legal. ``exclude_seen`` leaves out what the history holds. ``allow`` and ``deny``: item indices for all
        users, or a CSR of masks (n, n_items). ``conditions``: names, out of :attr:`condition_names`, for all users, a
        list of such names for each, or a CSR (n, C) whose entries say which of them each user asks under. Short rows
        are padded with id -1 and score -inf; equal scores go to the lower index. Raises :class:`InputError` where
        shapes do not fit or ``k`` < 1, and for conditions that the model does not have.
        """
        self._need_fit()
        shape: tuple[int, ...] = getattr(histories, "shape", ())
        if len(shape) == 2 and shape[1] != self.n_items:
            raise InputError(
                f"The histories have {shape[1]} columns, but the model knows {self.n_items} items. "
                "Use the catalogue it was trained with."
            )
        if conditions is not None and len(shape) == 2:
            conditions = self._conditions(conditions, shape[0])
        return rank(self.scores, histories, k, exclude_seen=exclude_seen, allow=allow, deny=deny, conditions=conditions)

    def recommend_ids(
        self,
        histories: Iterable[Iterable[str]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] | None = None,
        conditions: Any = None,
        skip_unknown: bool = False,
    ) -> tuple[list[list[str]], list[list[float]]]:
        """Return the ``k`` best raw item ids for each list of raw item ids, and their scores, best first.

        ``allow`` and ``deny`` are raw item ids for all users; ``conditions`` as for :meth:`recommend`. A list is
        shorter than ``k`` where fewer items are left. Raises :class:`InputError` naming the items it does not know,
        unless ``skip_unknown``.
        """
        self._need_fit()
        matrix, unknown = self.encode(histories)
        masks = {}
        for name, named in (("allow", allow), ("deny", deny)):
            if named is not None:
                mask, strange = self.encode([items(f"'{name}'", named)])
                masks[name] = mask.indices
                unknown += strange
        if unknown and not skip_unknown:
            raise InputError(f"The model does not know the item {listed(unknown)}.{self._nearest(unknown[0])}")
        ids, scores = self.recommend(matrix, k, exclude_seen=exclude_seen, conditions=conditions, **masks)
        kept = [row[row >= 0] for row in ids]
        return (
            [[self.items.ids[i] for i in row] for row in kept],
            [values[: len(row)].tolist() for row, values in zip(kept, scores, strict=True)],
        )

    def encode(self, histories: Iterable[Iterable[str]]) -> tuple[Any, list[str]]:
        """Return lists of raw item ids as CSR (n, n_items), and the ids the model does not know, each once.

        The values are ones, or for a model of ratings the least rating that counts as liked.
        """
        from scipy.sparse import csr_array

        unknown: dict[str, None] = {}
        indptr, indices = [0], []  # type: tuple[list[int], list[int]]
        for history in items("The histories", histories):
            if isinstance(history, str | bytes):
                raise InputError(
                    f"A history is a list of item ids, not one text such as {shown(history)}. "
                    f"Write [[{shown(history)}]]."
                )
            row = set()
            for item in items("A history", history):
                named = item_name(item)
                column = self.columns.get(named)
                if column is None:
                    unknown[named] = None
                else:
                    row.add(column)
            indices += sorted(row)
            indptr.append(len(indices))
        values = np.full(len(indices), self.named_value, dtype=np.float32)
        return csr_array((values, indices, indptr), shape=(len(indptr) - 1, self.n_items)), list(unknown)

    def encode_conditions(self, names: Sequence[Sequence[str]]) -> Any:
        """Return lists of condition names as CSR (n, C) of ones; raise :class:`InputError` for one there is not."""
        if not self.condition_names:
            raise InputError(
                f"This {entry(self.name).title} model has no conditions: it ranks by the history alone. A "
                "conditional-vae that was trained with item tags or user attributes has them."
            )
        return encoded(names, self.condition_names)

    def similar_items(self, ids: Sequence[int] | int, k: int = 10) -> Ranked:
        """Return the ``k`` items most like each of ``ids`` (columns): ids int32 (n, k) and scores float32 (n, k).

        The score is the cosine of two items' vectors (decoder weights, ALS factors), for EASE and EDLAE the weight of
        one item in the other's score, for item-kNN the similarity (neighbours only, so lists may be short). The item
        itself is left out. Raises :class:`InputError` for an item outside the catalogue.
        """
        from scipy.sparse import csr_array

        self._need_fit()
        try:
            asked = np.atleast_1d(np.asarray(ids))
        except (TypeError, ValueError, RuntimeError):  # lists of several lengths, tensors elsewhere
            asked = np.empty((1, 1))
        if not asked.size and asked.ndim == 1:
            asked = asked.astype(np.int64)
        if asked.dtype.kind not in "iu" or asked.ndim != 1 or ((asked < 0) | (asked >= self.n_items)).any():
            raise InputError(f"Items are named by a list of their columns, 0 .. {self.n_items - 1}; got {shown(ids)}.")
        rows = np.arange(len(asked))
        one_hot = csr_array((np.ones(len(asked), np.float32), (rows, asked)), shape=(len(asked), self.n_items))
        return rank(lambda part: self.similarity(torch.from_numpy(part.indices).long()), one_hot, k)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write a run folder that loads without the training data; whole or not at all."""
        from recvae.training.run_folder import RUN, seal, write_items, write_run, write_weights

        self._need_fit()
        overwrite = flag("overwrite", overwrite)
        with whole_folder(path_of(folder), marker=RUN, overwrite=overwrite) as temporary:
            write_items(temporary, self.items)
            write_weights(temporary, self.tensors(), self.facts())
            write_run(temporary, self.run())
            seal(temporary)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> Self:
        """Return the model of a run folder; raise :class:`FormatError` where it is damaged or of another model.

        Where the folder is being replaced, all of the model is the earlier one or all is the new one.
        """
        place = path_of(folder)
        return one_version(place, lambda: cls._read(place, device))

    @classmethod
    def _read(cls, folder: Path, device: str) -> Self:
        from recvae.training.run_folder import RUN, WEIGHTS, read_items, read_run, read_weights

        run = read_run(folder)
        if run.model != cls.name:
            raise FormatError(f"{folder} holds a '{run.model}' model, not a '{cls.name}' one.")
        try:
            config = run_config(run.config)
        except ConfigError as error:
            raise FormatError(f"{folder / RUN} was altered, or is another version's. {error}") from error
        model = cls.from_config(config, device)
        model.items = read_items(folder, run)

        def expected(facts: Mapping[str, Any]) -> Mapping[str, Expected]:
            if facts["vocabulary"] != run.vocabulary or facts["model"] != run.model:
                raise FormatError(f"{folder / WEIGHTS} belongs to another run than {folder / RUN}. Train again.")
            model.condition_names = tuple(facts.get("conditions", ()))
            return model.expected()

        tensors, facts = read_weights(folder, expected)
        model.best_epoch, model.metrics, model.dataset = facts["best_epoch"], facts["metrics"], run.dataset
        model.versions, model.resumed = run.versions, run.resumed
        model.load_tensors(tensors)
        return model

    def run(self) -> "Run":
        """Return what run.json says of this model."""
        from recvae.training.records import Run

        return Run(
            model=self.name,
            config=self.config.to_dict(),
            n_items=self.n_items,
            vocabulary=self.items.hash(),
            titles=self.items.titles_hash(),
            versions=self.versions or version.versions(),
            best_epoch=self.best_epoch,
            metrics=self.metrics,
            dataset=self.dataset,
            resumed=self.resumed,
            sealed=True,
        )

    @cached_property
    def columns(self) -> dict[str, int]:
        """Column of each raw item id."""
        return {item: column for column, item in enumerate(self.items.ids)}

    # --- shared parts ------------------------------------------------------------------------------------------

    def _nearest(self, unknown: str) -> str:
        """Return a suggestion, where one can mean something and be found in a moment."""
        return "" if unknown.isdigit() or self.n_items > 20_000 else did_you_mean(unknown, self.columns)

    def facts(self) -> dict[str, Any]:
        """Return what the weights' file says of itself."""
        return {
            "model": self.name,
            "vocabulary": self.items.hash(),
            "best_epoch": self.best_epoch,
            "metrics": self.metrics,
            **({"conditions": list(self.condition_names)} if self.condition_names else {}),
        }

    def _conditions(self, conditions: Any, n: int) -> Any:
        """Return the conditions of ``n`` users, as :meth:`recommend` takes them, as canonical CSR (n, C) of ones."""
        if is_table(conditions) and self.condition_names:
            return checked(conditions, n, len(self.condition_names))
        if not hasattr(conditions, "ndim") and not isinstance(conditions, str):
            conditions = items("The conditions", conditions)  # once: it may be used up by that
        lists = of_each_user(conditions, n)
        if lists is None:  # the same for all
            names = [] if is_table(conditions) else list(conditions)
            return self.encode_conditions([names])[np.zeros(n, dtype=np.int64)]
        return self.encode_conditions(lists)

    def _begin_fit(self, train: Any, item_ids: Sequence[str] | None, titles: Sequence[str] | None) -> Any:
        """Check the training matrix, name its columns, and return it in canonical form."""
        matrix = canonical(train)
        n_users, n_items = matrix.shape
        if not matrix.nnz:
            raise DataError(f"The training matrix ({n_users} users x {n_items} items) holds no clicks.")
        ids = [str(i) for i in range(n_items)]
        if item_ids is not None:
            ids = [item_name(i) for i in items("item_ids", item_ids)]
        names = [""] * n_items
        if titles is not None:
            names = ["" if title is None else str(title) for title in items("titles", titles)]
        for what, values in (("item ids", ids), ("titles", names)):
            if len(values) != n_items:
                raise DataError(f"There are {len(values)} {what} for {n_items} columns.")
        if len(set(ids)) != n_items:
            raise DataError("The item ids are not distinct; each column needs its own.")
        self.follow(matrix)
        self.items = Vocabulary(ids, names)
        self.__dict__.pop("columns", None)
        self.best_epoch, self.metrics = None, {}
        self.versions, self.resumed = version.versions(), ()
        return matrix

    def _need_fit(self) -> None:
        if not self.n_items:
            raise InputError(f"This {entry(self.name).title} model is not fitted yet; call fit or load first.")
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


def load(folder: str | Path, device: str = "auto") -> Recommender:
    """Return the model of a run folder, of whatever kind it is; raise :class:`FormatError` where it is damaged."""
    from recvae.training.run_folder import read_run

    place = path_of(folder)
    return one_version(place, lambda: model_class(read_run(place).model).load(place, device))


def torch_device(name: str) -> torch.device:
    """Return the device called ``name``; 'auto' takes a CUDA device where there is one.

    Raises :class:`InputError` where there is no such device.
    """
    if not isinstance(name, str | torch.device):
        raise InputError(f"A device is a name such as 'cpu' or 'cuda', or 'auto' to choose, and not {shown(name)}.")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("holds no values")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, UnicodeError) as error:
        raise InputError(
            f"The device {shown(str(name))} cannot be used here. Use device='cpu', or 'auto' to choose."
        ) from error
    return device


def item_name(item: Any) -> str:
    """Return a raw item id, a text or a whole number, as text; raise :class:`InputError` for anything else."""
    if isinstance(item, str):
        return item
    if isinstance(item, int | np.integer) and not isinstance(item, bool) and -(10**18) < int(item) < 10**18:
        return str(item)
    raise InputError(f"An item id is a text, and not {shown(item)}.")


def cosines(vectors: Tensor, items: Tensor) -> Tensor:
    """Return the cosines of the rows ``items`` (n,) of ``vectors`` (n_items, K) with all rows, (n, n_items)."""
    vectors = torch.nn.functional.normalize(vectors.detach(), dim=1)
    return vectors[items.to(vectors.device)] @ vectors.T


def popularity_for_the_unknown(scores: Tensor, histories: Any, counts: Tensor) -> Tensor:
    """Give rows without any history the popularity ranking; a linear model has only zeros for them."""
    empty = torch.from_numpy(np.flatnonzero(np.diff(histories.indptr) == 0)).to(scores.device)
    if len(empty):
        scores[empty] = counts.to(scores.dtype)
    return scores
