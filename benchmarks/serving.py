"""One request at a time on one thread: a loaded RecVAE of ML-20M's shape, one user's history to ten items.

A request cannot take less than reading the decoder's weights once, which is measured in turn with the requests. Usage:

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
from harness import ITEMS, Seconds, against, alone, copy_bandwidth, options, record

import recvae
from data_prep import ml20m_shape

K = 10
READING = "reading the decoder's weights once"


def loaded_model(folder: Path, items: int, hidden: int, latent: int) -> Any:
    """Return a RecVAE as a server would have it: trained, here on next to nothing, saved, and loaded."""
    model = recvae.RecVAE(hidden=hidden, latent=latent, epochs=1, batch_size=16, device="cpu")
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


def main() -> None:
    arguments = options(__doc__).parse_args()
    torch.set_num_threads(1)
    items, hidden, latent, n_requests = (2000, 60, 20, 50) if arguments.small else (ITEMS, 600, 200, 300)
    with tempfile.TemporaryDirectory() as name:
        model = loaded_model(Path(name) / "run", items, hidden, latent)
    weights = model.tensors()[
        "decoder.weight"
    ].detach()  # the model's own memory: as warm in the cache as for a request
    histories = histories_of(n_requests, items)
    check(model, histories[:20])
    for history in histories[:50]:  # warm-up
        in_turn((partial(model.recommend, history, K), weights.sum))
    p50: Seconds = {"ours": [], READING: []}
    p99: list[float] = []
    for _ in range(arguments.rounds):
        pairs = [in_turn((partial(model.recommend, history, K), weights.sum)) for history in histories]
        requests, readings = np.array(pairs).T
        p50["ours"].append(float(np.quantile(requests, 0.5)))
        p50[READING].append(float(np.quantile(readings, 0.5)))
        p99.append(float(np.quantile(requests, 0.99)))
    counts = [history.nnz for history in histories]
    lengths = f"{min(counts)} to {max(counts):,}"
    results = {
        "title": "Serving",
        "about": f"One user's history to {K} item ids by a loaded RecVAE ({items:,} items, hidden {hidden}, latent"
        f" {latent}, float32) on one thread: {n_requests} requests a round, with histories of {lengths} items."
        f" Reading is a sum over the decoder's weights ({weights.nbytes / 1e6:.1f} MB), in turn with the requests. p50"
        " and p99 are over the requests of a round.",
        "figures": [against("one request, p50", p50, READING, floor=True), alone("one request, p99", p99)],
        "seconds": {"p50": p50, "p99": p99},
        "ceilings": {
            "copy_gb_per_s": copy_bandwidth(),
            "reading_gb_per_s": weights.nbytes / float(np.median(p50[READING])) / 1e9,
        },
    }
    record("serving", results, arguments)


if __name__ == "__main__":
    main()
