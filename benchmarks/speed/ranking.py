"""Top-100 lists of all users of ML-20M's shape from latents that are there already: ours, implicit's, bare products."""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks import harness
from benchmarks.harness import Contender, against
from benchmarks.speed.lists import Lists, check_lists, ranked
from data_prep import ml20m_shape
from recvae.ranking.best import SCORES_IN_MEMORY

K = 100
SHAPE = harness.USERS, harness.ITEMS, harness.CLICKS
IMPLICIT = "implicit"


def implicit_lists(users: Tensor, items: Tensor, histories: Any) -> Callable[[], Lists]:
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


def measure(arguments: Namespace) -> dict[str, Any]:
    n_users, n_items, clicks, latent = (2000, 1500, 60_000, 32) if arguments.small else (*SHAPE, 200)
    histories = ml20m_shape(users=n_users, items=n_items, clicks=clicks)
    few = histories[:600]
    check_lists(lambda users, items: ranked(users, items, few, K), few, latent, K)
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, latent, generator=generator) for n in (n_users, n_items))
    recommend = implicit_lists(users, items, histories)
    (_, ours), (_, theirs) = ranked(users, items, histories, K), recommend()
    if not np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max():  # items may swap places within rounding only
        raise SystemExit("Our lists and implicit's differ.")

    contenders: dict[str, Contender] = {"ours": lambda: ranked(users, items, histories, K), IMPLICIT: recommend}
    batch = SCORES_IN_MEMORY // n_items  # the rows that ours takes at a time
    floors = {
        f"the matrix product alone, {name}": kernel for name, kernel in harness.product_kernels(batch, n_items).items()
    }
    parts = torch.split(users, batch)  # the products of all batches, each over the one before
    contenders |= {name: partial(lambda one: [one(part, items) for part in parts], way) for name, way in floors.items()}
    seconds = harness.interleaved(contenders, arguments.rounds)
    what = f"top-{K} of {n_users:,} users"
    fastest = min(harness.medians(seconds)[name] for name in floors)
    rate = 2 * n_users * n_items * latent / fastest / 1e9
    return {
        "figures": [against(what, seconds, IMPLICIT), *(against(what, seconds, name, floor=True) for name in floors)],
        "seconds": seconds,
        "ceilings": {"copy_gb_per_s": harness.copy_bandwidth(), "product_gflops": rate},
    }
