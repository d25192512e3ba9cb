"""One request at a time on one thread: loaded models of ML-20M's shape, one user's history to ten items.

A request cannot take less than reading the weights of the last layer once, which is measured in turn. Usage:

    python benchmarks/serving.py
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import ITEMS, Figure, Seconds, against, alone, copy_bandwidth, options, record
from threadpoolctl import threadpool_limits
from torch import Tensor

import recvae
from data_prep import ml20m_shape

K = 10
READING = "reading the decoder's last weights once"


def loaded_model(name: str, folder: Path, items: int, hidden: int, latent: int) -> Any:
    """Return a model as a server would have it: trained, here on next to nothing, saved, and loaded."""
    widths = {"RecVAE": hidden, "MultVAE": (hidden,), "MultDAE": ()}
    model = getattr(recvae, name)(hidden=widths[name], latent=latent, epochs=1, batch_size=16, device="cpu")
    model.fit(ml20m_shape(users=16, items=items, clicks=1000)).save(folder)
    return recvae.load(folder, device="cpu")


def histories_of(users: int, items: int) -> list[Any]:
    """Return one-row CSR histories whose lengths vary as users' do in ML-20M."""
    matrix = ml20m_shape(users=users, items=items, clicks=73 * users)
    return [matrix[[user]] for user in range(users)]


@torch.no_grad()
def check(model: Any, histories: Sequence[Any]) -> None:
    """Compare lists with a stable sort of the model's scores; items may swap places within 1e-5 of a score only."""
    for history in histories:
        ids, scores = model.recommend(history, K)
        exact = model.scores(history).numpy()[0]
        exact[history.indices] = -np.inf
        best = np.sort(exact)[::-1][:K]
        bound = 1e-5 * np.abs(best).max()
        right = np.abs(exact[ids[0]] - best).max() <= bound and np.abs(scores[0] - best).max() <= bound
        if not right or len(set(ids[0].tolist())) != K:
            raise SystemExit("A request is not answered by a stable sort of its scores.")


def in_turn(runs: Sequence[Callable[[], object]]) -> list[float]:
    """Run each once; return the seconds of each."""
    seconds = []
    for run in runs:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def requests(model: Any, weights: Tensor, histories: Sequence[Any], rounds: int) -> tuple[Seconds, list[float]]:
    """Return p50 of requests and of readings, and p99 of requests, one per round."""
    for history in histories[:50]:  # warm-up
        in_turn((partial(model.recommend, history, K), weights.sum))
    reading = f"{READING}, {weights.nbytes / 1e6:.0f} MB"
    p50: Seconds = {"ours": [], reading: []}
    p99: list[float] = []
    for _ in range(rounds):
        pairs = [in_turn((partial(model.recommend, history, K), weights.sum)) for history in histories]
        taken, readings = np.array(pairs).T
        p50["ours"].append(float(np.quantile(taken, 0.5)))
        p50[reading].append(float(np.quantile(readings, 0.5)))
        p99.append(float(np.quantile(taken, 0.99)))
    return p50, p99


def main() -> None:
    arguments = options(__doc__).parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)  # NumPy's BLAS as well
    items, hidden, latent, n_requests = (2000, 60, 20, 50) if arguments.small else (ITEMS, 600, 200, 300)
    histories = histories_of(n_requests, items)
    figures: list[Figure] = []
    seconds = {}
    for title, name in (("RecVAE", "RecVAE"), ("Mult-VAE", "MultVAE"), ("Mult-DAE", "MultDAE")):
        with tempfile.TemporaryDirectory() as folder:
            model = loaded_model(name, Path(folder) / "run", items, hidden, latent)
        weights = model.network.output.weight.detach()  # the model's own memory: as warm in the cache as for a request
        check(model, histories[:20])
        p50, p99 = requests(model, weights, histories, arguments.rounds)
        size = f"{weights.nbytes / 1e6:.0f} MB"
        figures += [
            against(f"{title}, one request, p50", p50, f"{READING}, {size}", floor=True),
            alone(f"{title}, one request, p99", p99),
        ]
        seconds[title] = {"p50": p50, "p99": p99}
    counts = [history.nnz for history in histories]
    lengths = f"{min(counts)} to {max(counts):,}"
    results = {
        "title": "Serving",
        "about": f"One user's history to {K} item ids by loaded models ({items:,} items, hidden {hidden}, latent"
        f" {latent}, float32) on one thread: {n_requests} requests a round, with histories of {lengths} items."
        " Reading is a sum over the weights of the last layer, in turn with the requests. p50 and p99 are over"
        " the requests of a round.",
        "figures": figures,
        "seconds": seconds,
        "ceilings": {"copy_gb_per_s": copy_bandwidth()},
    }
    record("serving", results, arguments)


if __name__ == "__main__":
    main()
