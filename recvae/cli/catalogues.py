"""Whether a run and a dataset folder are of the same items and the same split."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_prep.dataset import Dataset
    from recvae.recommender import Recommender
    from recvae.serving.model import Model


def refuse_other_data(model: "Recommender", run: Path, data: "Dataset", folder: Path) -> None:
    """Raise :class:`InputError` naming both folders unless the columns mean the same items, of the same split."""
    from recvae.errors import InputError
    from recvae.experiments.facts import other_split

    refuse_other_catalogue(model, run, data, folder)
    if other_split(model.dataset, data):
        raise InputError(
            f"{run} was trained on another split of {data.name} than {folder} now holds, so clicks that it learned "
            "from may be held out here. Use the dataset folder that it was trained on, or train again."
        )


def refuse_other_catalogue(model: "Model", run: Path, data: "Dataset", folder: Path) -> None:
    """Raise :class:`InputError` naming both folders unless the columns mean the same items."""
    from recvae.errors import InputError

    if model.items.hash() != data.vocabulary_hash:
        trained_on = model.dataset.get("name")
        name = f" ({trained_on})" if trained_on else ""
        raise InputError(
            f"{run} was trained on another catalogue{name} than that of {folder} ({data.name}): the columns are other "
            "items. Use the dataset folder that it was trained on."
        )
