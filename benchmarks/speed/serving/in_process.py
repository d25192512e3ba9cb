"""One request at a time on one thread: loaded models of ML-20M's shape, one user's history to ten items."""

import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

import recvae
from benchmarks.harness import ITEMS, Figure, copy_bandwidth
from benchmarks.speed.lists import requests
from data_prep import ml20m_shape

K = 10


def loaded_model(name: str, items: int, hidden: int, latent: int) -> Any:
    """Return a model as a server would have it: trained, here on next to nothing, saved, and loaded."""
    widths = {"RecVAE": hidden, "MultVAE": (hidden,), "MultDAE": ()}
    model = getattr(recvae, name)(hidden=widths[name], latent=latent, epochs=1, batch_size=16, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        model.fit(ml20m_shape(users=16, items=items, clicks=1000)).save(Path(folder) / "run")
        loaded = recvae.load(Path(folder) / "run", device="cpu")
    loaded.hold()
    return loaded


def measure(arguments: Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    threadpool_limits(1)  # NumPy's BLAS as well
    items, hidden, latent, n_requests = (2000, 60, 20, 50) if arguments.small else (ITEMS, 600, 200, 300)
    matrix = ml20m_shape(users=n_requests, items=items, clicks=73 * n_requests)  # lengths vary as users' do in ML-20M
    histories = [matrix[[user]] for user in range(n_requests)]
    figures: list[Figure] = []
    seconds = {}
    for title, name in (("RecVAE", "RecVAE"), ("Mult-VAE", "MultVAE"), ("Mult-DAE", "MultDAE")):
        model = loaded_model(name, items, hidden, latent)
        weights = model.network.output.weight.detach()  # the model's own memory: as warm in the cache as for a request

        def answer(history: Any, model: Any = model) -> tuple[Any, Any]:
            ids, scores = model.recommend(history, K)
            return ids[0], scores[0]

        def scores(history: Any, model: Any = model) -> Any:
            return model.scores(history).detach().numpy()[0]

        what = f"{title}, one request"
        found, seconds[title] = requests(what, answer, scores, weights, histories, arguments.rounds)
        figures += found
    return {"figures": figures, "seconds": seconds, "ceilings": {"copy_gb_per_s": copy_bandwidth()}}
