"""Implicit ALS: Hu, Koren and Volinsky, ICDM 2008, as the implicit library computes it.

For the library's best speed, BLAS has one thread while the library's own threads run, and matrices are of its type;
users that were not in training are folded in.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix
from threadpoolctl import threadpool_limits
from torch import Tensor

from recvae import defaults
from recvae.baselines.popularity import item_counts, popularity_where_empty
from recvae.capabilities import Vectors
from recvae.errors import InputError, WorkError
from recvae.nn.batches import Batch
from recvae.options import WIDEST, Between, OfEveryModel, OneOf, option, takes
from recvae.ranking.alike import cosines, cosines_among
from recvae.recommender import Recommender, popularity_for_the_unknown
from recvae.training.forks import after_fork
from recvae.training.tensors import Expected

if TYPE_CHECKING:
    from implicit.cpu.als import AlternatingLeastSquares


@dataclass(frozen=True, kw_only=True)
class ImplicitALSOptions:
    """Options of implicit ALS, by the library's own names."""

    factors: int = option(256, "Number of latent factors.", search=OneOf(128, 256, 512, 1024), ge=1, le=WIDEST)
    regularization: float = option(
        10.0, "Weight of the squared norms of the factors.", search=Between(1.0, 200.0, log=True), gt=0
    )
    alpha: float = option(
        10.0,
        "Confidence of a click; that of no click is 1. With 1 clicks have no extra weight.",
        search=Between(1.0, 50.0, log=True),
        gt=0,
    )
    iterations: int = option(15, "Number of sweeps over users and items.", ge=1)


@dataclass(frozen=True, kw_only=True)
class ImplicitALSArguments(ImplicitALSOptions, OfEveryModel):
    """The arguments of ImplicitALS: its options, seed and device."""


class ImplicitALS(Recommender):
    """Weighted matrix factorisation by alternating least squares; new users are folded in exactly."""

    name = "implicit-als"
    no_start = "is fitted by the implicit library in a few alternations, from factors that it draws itself"
    introduced = True
    model_defaults = ImplicitALSOptions()
    follows: ClassVar[defaults.Rule] = defaults.IMPLICIT_ALS
    _system: tuple[Tensor, Tensor] | None = None

    @takes(ImplicitALSArguments)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def learn(self, matrix: csr_array) -> None:
        self.counts = item_counts(matrix)
        als = self._als()
        with one_blas_thread(wait=True), self._solvable():
            als.fit(_clicks(matrix), show_progress=False)
        self._hold(als, als.item_factors)

    def scores(self, histories: csr_array) -> Tensor:
        return popularity_for_the_unknown(self._folded_in(histories) @ self.factors.T, histories, self.counts)

    def scores_of(self, batch: Batch) -> Tensor:
        scores = torch.nn.functional.linear(self._solved(batch), self.factors)
        return popularity_where_empty(scores, batch.lengths, self.counts)

    def vectors(self) -> Vectors:
        """Return the factors, and one dimension more: an item's popularity, and 1 for a user without a history."""

        def of_users(batch: Batch) -> Tensor:
            return torch.cat((self._solved(batch), (batch.lengths == 0).float()[:, None]), dim=1)

        return Vectors(torch.cat((self.factors, self.counts[:, None]), dim=1), of_users)

    def _solved(self, batch: Batch) -> Tensor:
        """Return the factors of users, (B, factors), as a graph finds them."""
        alpha = self.config.options(ImplicitALSOptions).alpha
        return solved(batch, self.factors, *self._systems(), alpha, steps_for(alpha)).float()

    def _systems(self) -> tuple[Tensor, Tensor]:
        """Return Y'Y + regularization I and its inverse, float64 (factors, factors); computed once."""
        if self._system is None:
            gram = torch.from_numpy(self.als.YtY).double()
            gram += self.config.options(ImplicitALSOptions).regularization * torch.eye(len(gram), dtype=torch.float64)
            self._system = gram, torch.linalg.inv(gram)
        return self._system

    def scores_at(self, histories: csr_array, items: Tensor, *conditions: csr_array) -> Tensor:
        scores = self._folded_in(histories) @ self.factors[items].T
        return popularity_for_the_unknown(scores, histories, self.counts[items])

    def _folded_in(self, histories: csr_array) -> Tensor:
        """Return the factors of users, (b, factors), solved from their histories."""
        self.als.num_threads = torch.get_num_threads()  # read now: a forked process has one thread
        with one_blas_thread(), self._solvable():
            users = self.als.recalculate_user(np.arange(histories.shape[0]), _clicks(histories))
        return torch.from_numpy(np.atleast_2d(users))

    def tensors(self) -> dict[str, Tensor]:
        return {"item_factors": self.factors, "counts": self.counts}

    def expected(self) -> Mapping[str, Expected]:
        factors = Expected((self.n_items, self.config.options(ImplicitALSOptions).factors))
        return {"item_factors": factors, "counts": Expected((self.n_items,), low=0)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.counts = tensors["counts"]
        self._hold(self._als(), tensors["item_factors"].numpy())

    def similarity(self, items: Tensor) -> Tensor:
        return cosines(self.factors, items)

    def similarity_among(self, items: Tensor) -> Callable[[Tensor], Tensor]:
        return cosines_among(self.factors, items)

    def _als(self) -> "AlternatingLeastSquares":
        from implicit.cpu.als import AlternatingLeastSquares

        options = self.config.options(ImplicitALSOptions)
        with one_blas_thread():  # the constructor warns where BLAS has more
            return AlternatingLeastSquares(
                factors=options.factors,
                regularization=options.regularization,
                alpha=options.alpha,
                iterations=options.iterations,
                random_state=self.config.seed,
                num_threads=torch.get_num_threads(),  # the factors do not depend on the number
            )

    @contextmanager
    def _solvable(self) -> Iterator[None]:
        """Turn the library's error for equations that cannot be solved into a sentence with a remedy."""
        try:
            yield
        except ValueError as error:
            regularization = self.config.options(ImplicitALSOptions).regularization
            raise WorkError(
                f"implicit cannot solve for the factors ({error}). Use a model.regularization above {regularization}."
            ) from error

    def _hold(self, als: "AlternatingLeastSquares", item_factors: NDArray[np.float32]) -> None:
        als.item_factors = item_factors
        self.als, self.factors = als, torch.from_numpy(item_factors)
        self._system = None


MOST_STEPS = 200  # of conjugate gradients in a graph
_ERROR = 1e-9  # of the factors that they find, in the norm of the equations


def steps_for(alpha: float) -> int:
    """Return the number of steps in which :func:`solved` finds the factors to rounding, from its theorem.

    Raises :class:`InputError` where a graph would be too long for it.
    """
    root = math.sqrt(max(alpha, 1 / alpha))
    steps = 1 if root == 1 else math.ceil(math.log(2 / _ERROR) / -math.log((root - 1) / (root + 1)))
    if steps > MOST_STEPS:
        raise InputError(
            f"implicit ALS with model.alpha={alpha:g} cannot be exported: a graph has no solver of linear equations, "
            f"and conjugate gradients would need {steps:,} steps. Serve the run itself."
        )
    return steps


def solved(batch: Batch, factors: Tensor, gram: Tensor, inverse: Tensor, alpha: float, steps: int) -> Tensor:
    """Return the factors of users, float64 (B, f), by conjugate gradients, for a graph has no solver of equations.

    The equations of a user are (G + (alpha - 1) Y_u' Y_u) x = alpha Y_u' 1, with ``gram`` G = Y'Y + regularization I,
    (f, f), and Y_u the rows of ``factors`` Y (n_items, f) that were clicked. They are multiplied with ``inverse``, that
    of G. Since Y_u' Y_u <= Y'Y <= G, all eigenvalues then lie between 1 and alpha, whatever the user clicked, so that
    each step makes the error smaller by (sqrt(c) - 1) / (sqrt(c) + 1) at least, c = max(alpha, 1 / alpha): Hestenes and
    Stiefel 1952; Saad, "Iterative Methods for Sparse Linear Systems", 2003, section 6.11.
    """
    clicked = factors.index_select(0, batch.columns).double()  # (N, f)
    zeros = clicked.new_zeros(batch.lengths.shape[0], gram.shape[0])

    def summed(each: Tensor) -> Tensor:
        return zeros.index_add(0, batch.rows, each)

    x = zeros
    residual = alpha * summed(clicked)
    direction = better = residual @ inverse
    length = (residual * better).sum(1, keepdim=True)  # (B, 1)
    for _ in range(steps):
        along = (clicked * direction.index_select(0, batch.rows)).sum(1, keepdim=True)
        image = direction @ gram + (alpha - 1) * summed(clicked * along)
        step = _ratio(length, (direction * image).sum(1, keepdim=True))
        x = x + step * direction
        residual = residual - step * image
        better = residual @ inverse
        before, length = length, (residual * better).sum(1, keepdim=True)
        direction = better + _ratio(length, before) * direction
    return x


def _ratio(one: Tensor, other: Tensor) -> Tensor:
    """Return one / other, and 0 where ``other`` is 0: the user has no history, or nothing is left to be found."""
    return torch.where(other > 0, one / torch.where(other > 0, other, 1.0), 0.0)


def _clicks(matrix: csr_array) -> csr_matrix:
    """Return binarised clicks as the csr_matrix that implicit wants."""
    ones = np.ones(len(matrix.indices), dtype=np.float32)
    return csr_matrix((ones, matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)), shape=matrix.shape)


_limiting = threading.Lock()  # held while BLAS is limited to one thread


def _anew() -> None:
    """Make a new lock in a forked process: the old one may be held by a thread of the parent process."""
    global _limiting
    _limiting = threading.Lock()


after_fork(_anew)


@contextmanager
def one_blas_thread(*, wait: bool = False) -> Iterator[None]:
    """Limit BLAS to one thread: implicit runs threads of its own, and both would compete for the cores.

    The limit is one of the process, so one caller at a time sets and restores it: a second caller would record the
    first one's limit as the value to restore. A caller that finds it set computes under it, and without it once the
    first caller is done; with ``wait`` the caller waits and sets the limit itself, as long work should.
    """
    lock = _limiting
    mine = lock.acquire(blocking=wait)
    try:
        with threadpool_limits(1, "blas") if mine else nullcontext():
            yield
    finally:
        if mine:
            lock.release()
