"""The inputs and abilities that a model declares, so that nobody asks for its class, name or options to learn them.

The defaults are those of a model of clicks: it learns from the training clicks of a prepared dataset, and ranks for
users of whom some clicks are known. A model that needs or offers more says so in its own file, by overriding a default.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from recvae.errors import InputError
from recvae.files import Document, JsonObject
from recvae.queries import Query
from recvae.registry import entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from scipy.sparse import csr_array
    from torch import Tensor

    from recvae.config import RunConfig
    from recvae.nn.batches import Batch

METRIC = "ndcg@100"
"""The validation metric of a ranking for which no other is named."""

R2 = "r2"
"""The validation metric of predicted ratings: the share of their variance that the predictions explain."""

Part = Literal["ratings", "item_tags", "user_tags"]
"""A part of a dataset beside its clicks."""


class Prepared(Protocol):
    """The parts of a prepared dataset (:class:`data_prep.Dataset`) that a model may take its inputs from.

    Matrices are canonical ``csr_array``, users x items, float32; ``split`` is "train", "validation" or "test".
    """

    @property
    def name(self) -> str:
        """The dataset's name."""

    @property
    def path(self) -> Path | None:
        """The dataset's folder; None for a dataset in memory."""

    @property
    def manifest(self) -> Document:
        """The facts of the dataset: name, filters, split and counts, as plain values."""

    @property
    def item_ids(self) -> "NDArray[Any]":
        """Raw item ids by column, str (n_items,)."""

    @property
    def item_titles(self) -> "NDArray[Any]":
        """Titles by column, str (n_items,), empty where there is none."""

    @property
    def item_tags(self) -> Mapping[str, Sequence[str]]:
        """Tags by item id, of the items that have any."""

    @property
    def user_tags(self) -> Mapping[str, Mapping[str, str]]:
        """Attributes, values by name, by user id, of the users that have any."""

    def user_ids(self, split: str) -> "NDArray[Any]":
        """Return the user ids of a split's rows, str (n,)."""

    def matrix(self, name: str) -> "csr_array":
        """Return the clicks called "train", "validation_in", "validation_out", "test_in" or "test_out"."""

    def ratings(self, name: str) -> "csr_array":
        """Return the ratings, above 0, of the same users and items; raise :class:`InputError` where there are none."""

    def refit_matrix(self, *, ratings: bool = False) -> "csr_array":
        """Return all clicks, or ratings, but those of test users: training users first, then validation users."""


class HeldOut(NamedTuple):
    """Users whose items a model is to find: the query about them, and their held-out clicks, CSR (n, n_items).

    Row r of the query's histories and of ``clicks`` is the same user; training users have no held-out clicks, and
    ``clicks`` is None. The query's conditions are the known attributes of these users, where the model uses such.
    """

    query: Query
    clicks: "csr_array | None"


class Vectors(NamedTuple):
    """Vectors of a model whose scores are inner products: score (u, i) = <of_users(batch)[u], items[i]>.

    ``items`` float32 (n_items, D); ``of_users`` returns float32 (B, D) of a batch, and is traced as
    :meth:`Capabilities.scores_of` is. A score's bias is a dimension in which each user has 1.
    """

    items: "Tensor"
    of_users: "Callable[[Batch], Tensor]"


class Capabilities:
    """The declarations that every model has; the base class of :class:`recvae.recommender.Recommender`."""

    config: "RunConfig"

    contends: ClassVar[bool] = True
    """Whether ``recvae benchmark`` compares the model where no models are named."""

    introduced: ClassVar[bool] = False
    """Whether ``recvae quickstart`` trains the model; a subclass is another model, and says so again or is not."""

    task: ClassVar[tuple[str, ...]] = ()
    """The options, as ``section.key``, that decide what the model learns from and is scored by.

    Scores of models that differ in them do not compare.
    """

    no_start: ClassVar[str] = "is learned from the clicks in one go"
    """Why the model has no warm start, as the end of a sentence about it; empty for a model that has one."""

    about_likelihood: ClassVar[str] = ""
    """A sentence that ``recvae diagnose`` adds where the likelihood leaves out a part of the model."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.introduced = vars(cls).get("introduced", False)

    @classmethod
    def reads(cls, options: Any) -> tuple[Part, ...]:
        """Return the parts of a dataset, beside its clicks, that a model with these options takes its inputs from."""
        del options
        return ()

    @property
    def of_ratings(self) -> bool:
        """Whether histories hold ratings in place of clicks."""
        return "ratings" in self.reads(self.config.model)

    @property
    def predicts_ratings(self) -> bool:
        """Whether the model has ``predict_ratings``, as :class:`eval.RatingPredictor` does, beside its ranking."""
        return False

    @property
    def named_value(self) -> float:
        """The value, in a history, of an item that is only named: 1 for a click."""
        return 1.0

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes of users that are conditions, ``attribute=value``; of each of them a user has one value."""
        return ()

    @property
    def default_metric(self) -> str:
        """The validation metric that chooses the epoch where none is named."""
        return R2 if self.predicts_ratings else METRIC

    def training_inputs(self, data: Prepared, *, refit: bool = False) -> JsonObject:
        """Return the arguments of ``fit`` that come from a dataset: ``train``, ``item_ids``, ``titles`` and more.

        ``item_tags`` is among them where the dataset has any. ``refit`` adds the validation users' clicks to the
        training users'. Raises :class:`FormatError` where a file is damaged and :class:`InputError` where the dataset
        lacks a part that the model reads.
        """
        of_ratings = self.of_ratings
        if refit:
            train = data.refit_matrix(ratings=of_ratings)
        else:
            train = data.ratings("train") if of_ratings else data.matrix("train")
        tags = {"item_tags": data.item_tags} if data.item_tags else {}
        return {"train": train, "item_ids": data.item_ids.tolist(), "titles": data.item_titles.tolist(), **tags}

    def held_out_inputs(self, data: Prepared, split: str) -> HeldOut:
        """Return the users of a split, "validation" or "test", or "train" without held-out clicks.

        Of a model of ratings the histories are ratings, and clicks are still what is to be found. Conditions are known
        once the model is fitted. Errors are those of :meth:`training_inputs`.
        """
        shown = "train" if split == "train" else f"{split}_in"
        histories = data.ratings(shown) if self.of_ratings else data.matrix(shown)
        return HeldOut(Query(histories), None if split == "train" else data.matrix(f"{split}_out"))

    # --- graphs: 'recvae export' traces these methods, which are made of torch's operations on tensors, and read no
    # number of users or clicks as a number of Python --------------------------------------------------------------

    if TYPE_CHECKING:
        name: ClassVar[str]

        def similarity(self, items: Tensor) -> Tensor:
            """Return how alike items (m,) are to every item, (m, n_items)."""

    def scores_of(self, batch: "Batch") -> "Tensor":
        """Return the model's ``scores``, (B, n_items), of a batch with the values and conditions of the histories.

        The default raises :class:`InputError`: a model without this method cannot be exported.
        """
        raise InputError(
            f"{entry(self.name).title} cannot be exported: its class has no method scores_of, from which a graph is "
            "made. Serve the run itself, or export another model."
        )

    def alike_of(self, items: "Tensor") -> "Tensor":
        """Return by what ``similarity_among`` compares each of ``items`` (m,) with every item: (m, n_items).

        The default is the model's ``similarity``, and 0 where that is -inf or NaN.
        """
        return self.similarity(items).nan_to_num(nan=0.0, neginf=0.0)

    def vectors(self) -> Vectors:
        """Return the vectors of users and items whose inner products are the scores.

        The default raises :class:`InputError`: the scores are no inner products.
        """
        raise InputError(
            f"The scores of {entry(self.name).title} are no inner products of a user's vector and an item's, so that "
            "an index of vectors cannot find its lists. Export without vectors."
        )
