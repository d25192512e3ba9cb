"""What a model is given of a prepared dataset: what it learns from, and what it is told of held-out users."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from eval import validator

if TYPE_CHECKING:
    from data_prep.dataset import Dataset
    from recvae.recommender import Recommender


class HeldOut(NamedTuple):
    """Users whose histories a model ranks for: CSR (n, n_items) each, row r of both the same user."""

    histories: Any
    clicks: Any


def learned_from(model: "Recommender", data: "Dataset", *, refit: bool = False) -> dict[str, Any]:
    """Return the arguments of :meth:`Recommender.fit` that come from a dataset.

    ``refit`` adds the validation users' clicks. Raises :class:`FormatError` where a file is damaged.
    """
    del model  # every model learns from the same so far
    return {
        "train": data.refit_matrix() if refit else data.train,
        "item_ids": data.item_ids.tolist(),
        "titles": data.item_titles.tolist(),
    }


def held_out(model: "Recommender", data: "Dataset", split: str) -> HeldOut:
    """Return the users of ``split``, "validation" or "test"; errors as :func:`learned_from`."""
    del model
    return HeldOut(data.matrix(f"{split}_in"), data.matrix(f"{split}_out"))


def validate_with(data: "Dataset", metric: str) -> Callable[[Any], float]:
    """Return the function that scores a model on the validation users."""
    return validator(data.validation_in, data.validation_out, metric)
