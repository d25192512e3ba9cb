"""Recommenders of other libraries behind our own contract: optional, never saved as runs. ``pip install irspack``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recvae.baselines.popularity import item_counts
from recvae.config import value_of
from recvae.errors import InputError
from recvae.options import Between, OneOf, OptionSet, option
from recvae.ranking.alike import cosines
from recvae.recommender import Recommender, popularity_for_the_unknown
from recvae.registry import register
from recvae.training.tensors import Expected


@dataclass(frozen=True)
class IrspackIALSOptions:
    """Options of irspack's iALS, by the library's own names."""

    n_components: int = option(256, "Number of latent factors.", search=OneOf(64, 128, 256, 512), ge=1)
    alpha0: float = option(
        0.5, "Weight of what was not clicked; that of a click is 1.", search=Between(0.05, 5.0, log=True), gt=0
    )
    reg: float = option(3e-3, "Weight of the squared norms of the factors.", search=Between(1e-3, 3e-2, log=True), gt=0)
    nu: float = option(1.0, "Power of an item's or user's frequency in its regularisation; 0 leaves it out.", ge=0)
    train_epochs: int = option(16, "Number of sweeps over users and items.", ge=1)


class IrspackIALS(Recommender):
    """iALS with frequency-scaled regularisation; Rendle et al., RecSys 2022, arXiv 2110.14037, as irspack computes it.

    One thread, irspack's default solver (conjugate gradients), new users folded in by the library.
    """

    name = "irspack-ials"
    model_defaults: ClassVar[OptionSet] = IrspackIALSOptions()

    def learn(self, matrix: Any) -> None:
        from irspack import IALSRecommender

        self.counts = item_counts(matrix)
        more = {"random_seed": self.config.seed, "n_threads": 1}
        self.ials = IALSRecommender(_clicks(matrix), **asdict(self.config.model), **more)
        self.ials.start_learning()
        for _ in range(value_of(self.config, "model.train_epochs")):  # as its learn() does, without the progress bar
            self.ials.run_epoch()

    def scores(self, histories: Any) -> Tensor:
        scores = np.ascontiguousarray(self.ials.get_score_cold_user(_clicks(histories)), dtype=np.float32)
        return popularity_for_the_unknown(torch.from_numpy(scores), histories, self.counts)

    def similarity(self, items: Tensor) -> Tensor:
        return cosines(self.tensors()["item_factors"], items)

    def tensors(self) -> dict[str, Tensor]:
        return {"item_factors": torch.from_numpy(np.array(self.ials.get_item_embedding()))}

    def expected(self) -> Mapping[str, Expected]:
        raise InputError("A peer's model cannot be loaded from a run; fit it again.")

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        raise InputError("A peer's model cannot be loaded from a run; fit it again.")


def make_known() -> None:
    """Make the peers that are installed known by name in this process."""
    if find_spec("irspack") is not None:
        register(IrspackIALS, title="iALS (irspack)", paper="Rendle et al., RecSys 2022, arXiv 2110.14037")


def _clicks(matrix: Any) -> Any:
    """Return binarised clicks as the csr_matrix that irspack wants."""
    from scipy.sparse import csr_matrix

    ones = np.ones(len(matrix.indices), dtype=np.float64)
    return csr_matrix((ones, matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)), shape=matrix.shape)
