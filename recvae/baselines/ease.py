"""EASE: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, arXiv 1905.03375."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.sparse import csr_array
from torch import Tensor

from recvae import defaults
from recvae.baselines.popularity import item_counts, popularity_where_empty
from recvae.errors import WorkError
from recvae.nn.batches import Batch
from recvae.nn.kernels import gathered_sum_at
from recvae.options import Between, OfEveryModel, OptionSet, option, takes
from recvae.recommender import Recommender, popularity_for_the_unknown
from recvae.training.tensors import Expected

TILE = 512  # columns of the Gram matrix made at a time


@dataclass(frozen=True, kw_only=True)
class EASEOptions:
    """Options of EASE."""

    l2: float = option(
        500.0, "Lambda of lambda * sum of squared weights.", search=Between(10.0, 5000.0, log=True), gt=0
    )


@dataclass(frozen=True, kw_only=True)
class EASEArguments(EASEOptions, OfEveryModel):
    """The arguments of EASE: its options, seed and device."""


class EASE(Recommender):
    """Linear item-item model with a zero diagonal, in closed form.

    Memory grows with the square of the catalogue: 12 bytes a pair of items while fitting, 4 afterwards.
    """

    name = "ease"
    no_start = "is computed from all clicks in closed form"
    introduced = True
    model_defaults: ClassVar[OptionSet] = EASEOptions()
    follows: ClassVar[defaults.Rule] = defaults.EASE

    @takes(EASEArguments)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def learn(self, matrix: csr_array) -> None:
        self.counts = item_counts(matrix)
        self.weights = torch.from_numpy(closed_form(matrix, self.config.options(EASEOptions).l2))

    def scores(self, histories: csr_array) -> Tensor:
        batch = Batch.of(histories)
        return popularity_for_the_unknown(batch.row_sums(self.weights, batch.values), histories, self.counts)

    def scores_of(self, batch: Batch) -> Tensor:
        scores = batch.row_sums(self.weights, torch.ones_like(batch.values))
        return popularity_where_empty(scores, batch.lengths, self.counts)

    def scores_at(self, histories: csr_array, items: Tensor, *conditions: csr_array) -> Tensor:
        batch = Batch.of(histories)
        scores = gathered_sum_at(self.weights, batch.columns, batch.offsets, batch.values, items)
        return popularity_for_the_unknown(scores, histories, self.counts[items])

    def tensors(self) -> dict[str, Tensor]:
        return {"weights": self.weights, "counts": self.counts}

    def expected(self) -> Mapping[str, Expected]:
        return {"weights": Expected((self.n_items, self.n_items)), "counts": Expected((self.n_items,), low=0)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.weights, self.counts = tensors["weights"], tensors["counts"]

    def similarity(self, items: Tensor) -> Tensor:
        return self.weights.index_select(0, items)

    def alike_of(self, items: Tensor) -> Tensor:
        every = torch.arange(self.n_items)
        there, back = self.weights.index_select(0, items), self.weights[every, items[:, None]]
        return there.sign() * (there * back).clamp(min=0).sqrt()

    def similarity_among(self, items: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the partial correlations of items: what two of them share beyond all others, from -1 to 1.

        For B = I - P diag(1 / diag P) it is -P_ij / sqrt(P_ii P_jj), the square root of B_ij B_ji with the sign of
        both: weights themselves have no common scale and are not symmetric.
        """
        items = items.cpu()

        def alike(places: Tensor) -> Tensor:
            chosen = items.gather(1, places.cpu()[:, None])
            there, back = self.weights[chosen, items], self.weights[items, chosen]
            return there.sign() * (there * back).clamp_min_(0).sqrt()

        return alike


def closed_form(matrix: csr_array, l2: float | NDArray[np.float64]) -> NDArray[np.float32]:
    """Return B = I - P diag(1 / diag P) with P = (X'X + diag l2)^-1, float32 (n_items, n_items); equations 8 and 10.

    ``matrix`` CSR (n_users, n_items), binarised. ``l2``: the cost of the squared weights in each item's row of B,
    (n_items,), or one number for all. Inverted in float64 in the memory of X'X. Raises :class:`WorkError` where
    X'X + diag l2 is not positive definite to rounding.
    """
    n_items = matrix.shape[1]
    clicks = matrix.astype(np.float64)
    clicks.data[:] = 1.0
    by_item = clicks.T.tocsr()
    gram = np.empty((n_items, n_items), order="F")
    for start in range(0, n_items, TILE):  # a sparse X'X would be larger than the dense one
        gram[:, start : start + TILE] = (by_item[start : start + TILE] @ clicks).toarray().T
    gram[np.diag_indices(n_items)] += l2
    factor, failed = lapack.dpotrf(gram, lower=1, overwrite_a=1, clean=0)
    if not failed:
        inverse, failed = lapack.dpotri(factor, lower=1, overwrite_c=1)
    if failed:
        raise WorkError(
            f"The matrix of item pairs cannot be inverted: a penalty of {np.min(l2):g} is too little. Use a larger l2."
        )
    diagonal = inverse.diagonal().copy()
    weights = np.empty((n_items, n_items), dtype=np.float32)
    for start in range(0, n_items, TILE):  # LAPACK fills the lower triangle; the upper one is its mirror image
        stop = min(n_items, start + TILE)
        block = np.empty((stop - start, n_items))
        block[:, :start] = inverse[start:stop, :start]
        corner = np.tril(inverse[start:stop, start:stop])
        block[:, start:stop] = corner + np.tril(corner, -1).T
        block[:, stop:] = inverse[stop:, start:stop].T
        weights[start:stop] = -block / diagonal
    weights[np.diag_indices(n_items)] = 0
    return weights
