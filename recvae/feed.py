"""What a model is given of a prepared dataset: what it learns from, and what it is told of held-out users."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from eval import ratings_validator, validator
from recvae.errors import InputError

if TYPE_CHECKING:
    from data_prep.dataset import Dataset
    from recvae.recommender import Recommender
    from recvae.vaeac import VAEAC


R2 = "r2"
"""The validation metric of predicted ratings, :func:`eval.ratings_validator`."""


class HeldOut(NamedTuple):
    """Users whose histories a model ranks for: CSR (n, n_items) each, row r of both the same user."""

    histories: Any
    clicks: Any


def learned_from(model: "Recommender", data: "Dataset", *, refit: bool = False) -> dict[str, Any]:
    """Return the arguments of :meth:`Recommender.fit` that come from a dataset.

    A model of ratings gets those in place of the clicks. ``refit`` adds the validation users' clicks. Raises
    :class:`FormatError` where a file is damaged and :class:`InputError` where there are no ratings.
    """
    if refit:
        train = data.refit_matrix(ratings=model.of_ratings)
    else:
        train = data.ratings("train") if model.of_ratings else data.train
    return {"train": train, "item_ids": data.item_ids.tolist(), "titles": data.item_titles.tolist()}


def held_out(model: "Recommender", data: "Dataset", split: str) -> HeldOut:
    """Return the users of ``split``, "validation" or "test"; errors as :func:`learned_from`.

    Of a model of ratings the histories are ratings, and clicks are still what is to be ranked.
    """
    name = f"{split}_in"
    histories = data.ratings(name) if model.of_ratings else data.matrix(name)
    return HeldOut(histories, data.matrix(f"{split}_out"))


def predicts_ratings(model: "Recommender") -> "TypeGuard[VAEAC]":
    """Return whether a model predicts ratings, beside ranking by them."""
    return model.of_ratings and bool(model.config.model.likelihood == "gaussian")


def default_metric(model: "Recommender", otherwise: str) -> str:
    """Return the validation metric of a model for which none is named."""
    return R2 if predicts_ratings(model) else otherwise


def validate_with(data: "Dataset", metric: str, model: "Recommender | None" = None) -> Callable[[Any], float]:
    """Return the function that scores a model, without ``model`` any model of clicks, on the validation users.

    ``metric`` is a ranking's, or :data:`R2`; :class:`InputError` where the model has no such thing.
    """
    if metric != R2:
        users = (
            HeldOut(data.validation_in, data.validation_out) if model is None else held_out(model, data, "validation")
        )
        return validator(*users, metric)
    if model is None or not predicts_ratings(model):
        raise InputError(
            f"'{R2}' is about predicted ratings, which this model does not make. Use a ranking's metric, such as "
            "ndcg@100."
        )
    return ratings_validator(data.ratings("validation_in"), data.ratings("validation_out"))
