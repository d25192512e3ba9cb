"""Top-100 lists of all users of ML-20M's shape from latents that are there already, without what they have clicked.

Ours against implicit's ``recommend`` at 200 factors, and against the bare matrix product of the same batches, which
gives the scores and ranks nothing. Usage:

    python benchmarks/ranking.py
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from harness import (
    CLICKS,
    ITEMS,
    USERS,
    Contender,
    against,
    copy_bandwidth,
    interleaved,
    medians,
    options,
    product_kernels,
    record,
)
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits
from torch import Tensor

from data_prep import ml20m_shape
from recvae.products import product
from recvae.ranking import SCORES_IN_MEMORY, rank

K = 100
IMPLICIT = "implicit"

Lists = tuple[NDArray[np.int32], NDArray[np.float32]]


def ours(users: Tensor, items: Tensor, histories: Any) -> Lists:
    """Rank by ``users @ items.T``, as every model of ours with a linear last layer does."""
    done = 0

    def score(rows: Any) -> Tensor:
        nonlocal done
        block = product(users[done : done + rows.shape[0]], items)
        done += rows.shape[0]
        return block

    return rank(score, histories, K)


def implicit_lists(users: Tensor, items: Tensor, histories: Any) -> Any:
    """Return implicit's ranking as a call: its own threads, as many as ours, and BLAS held to one as it asks."""
    from implicit.cpu.als import AlternatingLeastSquares

    with threadpool_limits(1, "blas"):  # its constructor warns otherwise
        als = AlternatingLeastSquares(factors=users.shape[1], num_threads=torch.get_num_threads())
    als.user_factors, als.item_factors = users.numpy(), items.numpy()
    seen = csr_matrix((histories.data, histories.indices, histories.indptr), shape=histories.shape)

    def recommend() -> Lists:
        with threadpool_limits(1, "blas"):
            ids, scores = als.recommend(np.arange(len(users)), seen, N=K, filter_already_liked_items=True)
        return ids, scores

    return recommend


def scores_alone(kernel: Callable[[Tensor, Tensor], None], users: Tensor, items: Tensor, batch: int) -> None:
    """The floor: the products of all batches, each over the one before."""
    for part in torch.split(users, batch):
        kernel(part, items)


def check_exact(histories: Any, latent: int) -> None:
    """Compare our lists with a stable sort, where arithmetic is exact and ties are everywhere: small whole numbers."""
    generator = torch.Generator().manual_seed(0)
    users = torch.randint(-3, 4, (histories.shape[0], latent), generator=generator).float()
    items = torch.randint(-3, 4, (histories.shape[1], latent), generator=generator).float()
    ids, scores = ours(users, items, histories)
    exact = (users @ items.T).numpy()
    exact[histories.nonzero()] = -np.inf
    stable = np.argsort(-exact, axis=1, kind="stable")[:, :K]
    if not (np.array_equal(ids, stable) and np.array_equal(scores, np.take_along_axis(exact, stable, axis=1))):
        raise SystemExit("Our lists are not those of a stable sort.")


def check_alike(ours: Lists, theirs: Lists) -> None:
    """Compare the sorted scores: items may swap places within rounding only."""
    gap = float(np.abs(ours[1] - theirs[1]).max() / np.abs(theirs[1]).max())
    share = float((ours[0] == theirs[0]).mean())
    print(f"against implicit: scores agree to {gap:.1e}, {share:.4%} of the places hold the same item")
    if not gap <= 1e-5:
        raise SystemExit("Our lists and implicit's differ.")


def main() -> None:
    arguments = options(__doc__).parse_args()
    n_users, n_items, clicks, latent = (2000, 1500, 60_000, 32) if arguments.small else (USERS, ITEMS, CLICKS, 200)
    histories = ml20m_shape(users=n_users, items=n_items, clicks=clicks)
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(n_users, latent, generator=generator)
    items = torch.randn(n_items, latent, generator=generator)
    check_exact(histories[:600], latent)
    recommend = implicit_lists(users, items, histories)
    check_alike(ours(users, items, histories), recommend())

    contenders: dict[str, Contender] = {"ours": lambda: ours(users, items, histories), IMPLICIT: recommend}
    batch = SCORES_IN_MEMORY // n_items  # the rows that ours takes at a time
    kernels = product_kernels(batch, n_items)
    for name, kernel in kernels.items():
        contenders[name] = partial(scores_alone, kernel, users, items, batch)
    seconds = interleaved(contenders, arguments.rounds)
    middle = medians(seconds)
    best = min(kernels, key=lambda name: middle[name])
    floors = {name: f"the matrix product alone, {name}" for name in kernels}
    for name, floor in floors.items():
        seconds[floor] = seconds[name]
    what = f"top-{K} of {n_users:,} users"
    operations = 2 * n_users * n_items * latent
    results = {
        "title": "Ranking",
        "about": f"Lists of {K} items for {n_users:,} users of {n_items:,} items, from given latents of {latent}"
        f" dimensions, without the {clicks:,} clicks. Our lists are those of a stable sort; implicit's hold the same"
        " scores to rounding. The matrix product alone is that of the same batches, by each of torch's kernels.",
        "figures": [
            against(what, seconds, IMPLICIT),
            *(against(what, seconds, floor, floor=True) for floor in floors.values()),
        ],
        "seconds": {name: seconds[name] for name in contenders},
        "ceilings": {"copy_gb_per_s": copy_bandwidth(), "product_gflops": operations / middle[best] / 1e9},
    }
    record("ranking", results, arguments)


if __name__ == "__main__":
    main()
