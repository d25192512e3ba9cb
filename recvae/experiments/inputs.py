"""What a model is given of a prepared dataset: what it learns from, and what it is told of held-out users."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from eval import ratings_validator, validator
from recvae.config import value_of
from recvae.errors import InputError
from recvae.models.conditional import ConditionalVAE

if TYPE_CHECKING:
    from data_prep.dataset import Dataset
    from recvae.models.vaeac import VAEAC
    from recvae.recommender import Recommender


R2 = "r2"
"""The validation metric of predicted ratings, :func:`eval.ratings_validator`."""


class HeldOut(NamedTuple):
    """Users whose histories a model ranks for: CSR (n, n_items) each, row r of both the same user.

    ``conditions``, CSR (n, C), say what is known of these users; None where that is nothing, or the model has no use
    for it.
    """

    histories: Any
    clicks: Any
    conditions: Any = None


def learned_from(model: "Recommender", data: "Dataset", *, refit: bool = False) -> dict[str, Any]:
    """Return the arguments of :meth:`Recommender.fit` that come from a dataset.

    A model of ratings gets those in place of the clicks. ``refit`` adds the validation users' clicks. Raises
    :class:`FormatError` where a file is damaged and :class:`InputError` where there are no ratings, no tags that the
    model asks for, or other ratings count as liked than those that are clicks.
    """
    least = data.manifest.get("filters", {}).get("min_rating")
    if model.of_ratings and least is not None and least > 0 and least != model.named_value:
        raise InputError(
            f"The clicks of {data.path or data.name} are ratings from {least} on, and this model calls those from "
            f"{model.named_value} on liked: set model.liked_from={least}."
        )
    if refit:
        train = data.refit_matrix(ratings=model.of_ratings)
    else:
        train = data.ratings("train") if model.of_ratings else data.train
    given = {"train": train, "item_ids": data.item_ids.tolist(), "titles": data.item_titles.tolist()}
    return given | _conditions(model, data, refit=refit) if isinstance(model, ConditionalVAE) else given


def held_out(model: "Recommender", data: "Dataset", split: str) -> HeldOut:
    """Return the users of ``split``, "validation" or "test"; errors as :func:`learned_from`.

    Of a model of ratings the histories are ratings, and clicks are still what is to be ranked.
    """
    return HeldOut(_histories(model, data, split), data.matrix(f"{split}_out"), known_of_users(model, data, split))


def predicts_ratings(model: "Recommender") -> "TypeGuard[VAEAC]":
    """Return whether a model predicts ratings, beside ranking by them."""
    return model.of_ratings and bool(value_of(model.config, "model.likelihood") == "gaussian")


def default_metric(model: "Recommender", otherwise: str) -> str:
    """Return the validation metric of a model for which none is named."""
    return R2 if predicts_ratings(model) else otherwise


def validate_with(data: "Dataset", metric: str, model: "Recommender | None" = None) -> Callable[[Any], float]:
    """Return the function that scores models like ``model``, without it any of clicks, on the validation users.

    ``metric`` is a ranking's, or :data:`R2`; :class:`InputError` where the model has no such thing.
    """
    if metric == R2:
        if model is None or not predicts_ratings(model):
            raise InputError(
                f"'{R2}' is about predicted ratings, which this model does not make. Use a ranking's metric, such as "
                "ndcg@100."
            )
        return ratings_validator(data.ratings("validation_in"), data.ratings("validation_out"))
    histories, clicks = _histories(model, data, "validation"), data.validation_out
    plain = validator(histories, clicks, metric)
    told: dict[tuple[str, ...], Callable[[Any], float]] = {}  # by the conditions that a model has once it is trained

    def validate(trained: Any) -> float:
        conditions = known_of_users(trained, data, "validation")
        if conditions is None:
            return plain(trained)
        if trained.condition_names not in told:
            told[trained.condition_names] = validator(histories, clicks, metric, conditions=conditions)
        return told[trained.condition_names](trained)

    return validate


def _histories(model: "Recommender | None", data: "Dataset", split: str) -> Any:
    name = f"{split}_in"
    return data.ratings(name) if model is not None and model.of_ratings else data.matrix(name)


def _conditions(model: ConditionalVAE, data: "Dataset", *, refit: bool) -> dict[str, Any]:
    """Return what a conditional VAE learns from beside the clicks."""
    options, place = model.options, data.path or data.name
    given: dict[str, Any] = {}
    if options.item_tags:
        if not data.item_tags:
            raise InputError(
                f"{place} has no item tags to condition on. Prepare it again with --titles FILE that has tags in its "
                "third column, or train without them: --set model.item_tags=false"
            )
        given["item_tags"] = data.item_tags
    if options.user_attributes:
        tags = _user_tags(data)
        users: Iterable[str] = data.user_ids("train")
        if refit:  # the rows of refit_matrix
            users = dict.fromkeys([*users, *data.user_ids("validation")])
        given["user_attributes"] = [tags.get(user, {}) for user in users]
    return given


def known_of_users(model: Any, data: "Dataset", split: str) -> Any:
    """Return the conditions that the attributes of a split's users are, CSR (n, C), or None.

    Raises :class:`InputError` where the model knows attributes and the dataset has none.
    """
    if not isinstance(model, ConditionalVAE) or not model.options.user_attributes:
        return None
    tags = _user_tags(data)
    return model.conditions_of([tags.get(user, {}) for user in data.user_ids(split)])


def _user_tags(data: "Dataset") -> dict[str, dict[str, str]]:
    """Return attributes by user; raise :class:`InputError` where there are none at all."""
    if not data.user_tags:
        raise InputError(
            f"{data.path or data.name} has no user attributes to condition on. Prepare it again with --user-tags FILE, "
            "or train without model.user_attributes."
        )
    return data.user_tags
