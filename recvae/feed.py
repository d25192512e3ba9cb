"""What a model is given of a prepared dataset: what it learns from, and what it is told of held-out users."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from eval import validator
from recvae.conditional import ConditionalVAE
from recvae.errors import InputError

if TYPE_CHECKING:
    from data_prep.dataset import Dataset
    from recvae.recommender import Recommender


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

    ``refit`` adds the validation users' clicks. Raises :class:`FormatError` where a file is damaged and
    :class:`InputError` where the model asks for tags that the dataset does not have.
    """
    given = {
        "train": data.refit_matrix() if refit else data.train,
        "item_ids": data.item_ids.tolist(),
        "titles": data.item_titles.tolist(),
    }
    return given | _conditions(model, data, refit=refit) if isinstance(model, ConditionalVAE) else given


def held_out(model: "Recommender", data: "Dataset", split: str) -> HeldOut:
    """Return the users of ``split``, "validation" or "test"; errors as :func:`learned_from`."""
    return HeldOut(data.matrix(f"{split}_in"), data.matrix(f"{split}_out"), _known(model, data, split))


def validate_with(data: "Dataset", metric: str) -> Callable[[Any], float]:
    """Return the function that scores a model on the validation users."""
    plain = validator(data.validation_in, data.validation_out, metric)
    told: dict[tuple[str, ...], Callable[[Any], float]] = {}  # by the conditions that a model has

    def validate(model: Any) -> float:
        conditions = _known(model, data, "validation")
        if conditions is None:
            return plain(model)
        if model.condition_names not in told:
            told[model.condition_names] = validator(
                data.validation_in, data.validation_out, metric, conditions=conditions
            )
        return told[model.condition_names](model)

    return validate


def _conditions(model: ConditionalVAE, data: "Dataset", *, refit: bool) -> dict[str, Any]:
    """Return what a conditional VAE learns from beside the clicks."""
    options, place = model.config.model, data.path or data.name
    given: dict[str, Any] = {}
    if options.item_tags:
        if not data.item_tags:
            raise InputError(
                f"{place} has no item tags to condition on. Prepare it again with --titles FILE that has tags in its "
                "third column, or train without them: --set model.item_tags=false"
            )
        given["item_tags"] = data.item_tags
    if options.user_attributes:
        if not data.user_tags:
            raise InputError(
                f"{place} has no user attributes to condition on. Prepare it again with --user-tags FILE, or leave "
                "model.user_attributes out."
            )
        users: Iterable[str] = data.user_ids("train")
        if refit:  # the rows of refit_matrix
            users = dict.fromkeys([*users, *data.user_ids("validation")])
        given["user_attributes"] = [data.user_tags.get(user, {}) for user in users]
    return given


def _known(model: Any, data: "Dataset", split: str) -> Any:
    """Return the conditions that the attributes of a split's users are, CSR (n, C), or None."""
    if not isinstance(model, ConditionalVAE):
        return None
    return model.conditions_of([data.user_tags.get(user, {}) for user in data.user_ids(split)])
