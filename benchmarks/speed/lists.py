"""Lists of items: ranked from latents, checked against a stable sort, and asked for one user at a time."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.harness import Figure, Seconds, against, alone
from recvae.nn.kernels import product
from recvae.queries import Query
from recvae.ranking.lists import rank

Lists = tuple[NDArray[np.int32], NDArray[np.float32]]  # ids and scores, best first


def ranked(users: Tensor, items: Tensor, histories: Any, k: int, block: int | None = None) -> Lists:
    """Rank by ``users @ items.T`` as our models with a linear last layer do; the histories are the host's."""
    done = 0

    def score(rows: Any) -> Tensor:
        nonlocal done
        done += rows.shape[0]
        return product(users[done - rows.shape[0] : done], items)

    ids, scores = rank(score, Query(histories, k), batch_size=block)
    return ids, scores


def check_lists(way: Callable[[Tensor, Tensor], Lists], histories: Any, latent: int, k: int) -> None:
    """Compare a way to rank with a stable sort, where arithmetic is exact and ties are everywhere: -1, 0 and 1."""
    g = torch.Generator().manual_seed(0)
    users, items = (torch.randint(-1, 2, (n, latent), generator=g).float() for n in histories.shape)
    exact = (users @ items.T).numpy()
    exact[histories.nonzero()] = -np.inf
    stable = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    ids, scores = way(users, items)
    if not (np.array_equal(ids, stable) and np.array_equal(scores, np.take_along_axis(exact, stable, axis=1))):
        raise SystemExit("Our lists are not those of a stable sort.")


Answer = Callable[[Any], tuple[Any, Any]]  # from a one-row CSR to ids and scores, (k,) each


def requests(
    what: str, answer: Answer, scores: Callable[[Any], Any], weights: Tensor, histories: Sequence[Any], rounds: int
) -> tuple[list[Figure], dict[str, Any]]:
    """Ask for one user at a time, in turn with reading the last layer's weights once: p50 and p99 of each round.

    Answers are first compared with a stable sort of the same model's scores (I,), within 1e-5 of a score.
    """
    for history in histories[:20]:
        ids, values = answer(history)
        k = len(ids)
        exact = scores(history)
        exact[history.indices] = -np.inf
        best = np.sort(exact)[::-1][:k]
        bound = 1e-5 * np.abs(best).max()
        right = np.abs(exact[ids] - best).max() <= bound and np.abs(values - best).max() <= bound
        if not right or len(set(ids.tolist())) != k:
            raise SystemExit("A request is not answered by a stable sort of its scores.")
    name = f"reading the last layer's weights once, {weights.nbytes / 1e6:.0f} MB"
    p50: Seconds = {"ours": [], name: []}
    p99: list[float] = []
    for number in range(-1, rounds):
        asked = histories if number >= 0 else histories[:50]  # warm-up
        pairs = np.array([(_clock(answer, history), _clock(lambda: weights.sum().item())) for history in asked])
        if number >= 0:
            for side, values in zip(p50.values(), np.quantile(pairs, 0.5, axis=0), strict=True):
                side.append(float(values))
            p99.append(float(np.quantile(pairs[:, 0], 0.99)))
    figures = [against(f"{what}, p50", p50, name, floor=True), alone(f"{what}, p99", p99)]
    return figures, {"p50": p50, "p99": p99}


def _clock(call: Callable[..., object], *arguments: Any) -> float:
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start
